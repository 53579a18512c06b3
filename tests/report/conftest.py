"""What tests of reports share."""

import pytest

from peftbench import cli


@pytest.fixture
def command(capsys):
    """Run a command in this process; return its exit code, standard output and standard error."""

    def run(*argv):
        capsys.readouterr()
        code = cli.main(argv)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
