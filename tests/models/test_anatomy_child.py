"""What the process that reads an anatomy says, and how it is stopped; other programs stand in for it."""

import signal
import subprocess

import pytest

from peftbench.models.anatomy import child


def reading_by(*command):
    """The reading by another program in place of the child's."""
    return child.Reading(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("""echo '{"layers": 2}'""", {"layers": 2}),
        ("""echo a library says; echo '{"layers": 2}'""", {"layers": 2}),
        ("""echo '"t5 is an encoder-decoder"'""", "t5 is an encoder-decoder"),
        ("echo 3", "3"),
        ("echo Traceback >&2; echo 'MemoryError: none left' >&2; exit 1", "MemoryError: none left"),
        ("echo no JSON; echo 'OSError: closed' >&2", "OSError: closed"),
        ("exit 1", "it could not be read"),
    ],
)
def test_what_the_child_process_prints_is_the_anatomy_or_the_reason(script, found):
    assert reading_by("sh", "-c", script).result() == found


def test_a_child_process_is_stopped_when_it_takes_too_long_or_is_not_needed(monkeypatch):
    stopped = reading_by("sleep", "60")
    stopped.stop()
    monkeypatch.setattr(child, "LONGEST", 0.01)
    late = reading_by("sleep", "60")
    assert late.result() == "reading it took more than 0 s"
    assert stopped.process.returncode == late.process.returncode == -signal.SIGKILL
