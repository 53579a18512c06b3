"""No traceback is left for a user: one message and an exit code, whatever the shell, the system or a mistake gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from peftbench import cli
from peftbench.commands import BAD_INPUT, INTERNAL, listing
from tests.support.results_factory import make_result, store
from tools.validation.fuzz.__main__ import DRAWN, drawn, invented

ROOT = Path(__file__).parents[2]


@pytest.fixture
def quiet(monkeypatch):
    """The command line as users have it: no traceback."""
    monkeypatch.delenv("PEFTBENCH_TRACEBACK")


def shell(folder: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``peftbench`` in a shell, in the place of ``$P``."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), "P": f"{sys.executable} -m peftbench", **environment}
    given.pop("PEFTBENCH_TRACEBACK", None)
    return subprocess.run(["bash", "-c", command], cwd=folder, env=given, capture_output=True, text=True)


def fail(error):
    def raises(*_):
        raise error

    return raises


def test_an_unexpected_exception_is_a_message_and_a_stored_traceback(quiet, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(listing, "text", fail(KeyError("made up")))
    assert cli.main(["list"]) == INTERNAL == 70
    message = capsys.readouterr().err
    assert "unexpected error, a mistake in peftbench" in message
    assert "KeyError: 'made up'" in message
    assert "Traceback" not in message
    (stored,) = tmp_path.glob("peftbench-traceback-*.txt")
    assert str(stored) in message
    assert "Traceback (most recent call last)" in stored.read_text()


def test_the_traceback_is_shown_where_the_environment_asks_for_it(monkeypatch):
    monkeypatch.setattr(listing, "text", fail(KeyError("made up")))
    with pytest.raises(KeyError):
        cli.main(["list"])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "x.txt"), "peftbench: 'x.txt': No space left on device\n"),
        (PermissionError(13, "Permission denied"), "peftbench: Permission denied\n"),
        (MemoryError(), "peftbench: out of memory\n"),
    ],
)
def test_an_error_of_the_system_is_no_mistake_of_peftbench(quiet, monkeypatch, capsys, error, message):
    monkeypatch.setattr(listing, "text", fail(error))
    assert cli.main(["list"]) == BAD_INPUT
    assert capsys.readouterr().err == message


def test_a_traceback_that_cannot_be_stored_still_has_its_message(quiet, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.mkstemp", fail(OSError(28, "No space left on device")))
    monkeypatch.setattr(listing, "text", fail(KeyError("made up")))
    assert cli.main(["list"]) == INTERNAL
    assert "could not be stored (No space left on device)" in capsys.readouterr().err


def test_a_terminal_with_ascii_only_gets_the_table_in_ascii(tmp_path):
    store(tmp_path / "r", make_result(seed=0), make_result(seed=1, scores={"judge": 0.8}))
    found = shell(tmp_path, "$P report r --format text", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert found.returncode == 0, found.stderr
    assert found.stdout.isascii()
    assert "---------" in found.stdout
    assert "+-" in found.stdout


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("$P list tasks >&-", 0),
        ("$P list tasks 2>&-", 0),
        ("$P list tasks <&- >&- 2>&-", 0),
        ("$P plan nothere 2>&-", 2),
        ("$P list tasks >/dev/full", 2),
        ("$P plan nothere 2>/dev/full", 2),
        ("$P --version >&-", 0),
    ],
)
def test_closed_and_full_streams_are_no_traceback(tmp_path, command, code):
    found = shell(tmp_path, command)
    assert found.returncode == code
    assert "Traceback" not in found.stderr + found.stdout
    assert "Exception ignored" not in found.stderr


def test_a_reader_that_goes_is_no_error(tmp_path):
    found = shell(tmp_path, "set -o pipefail; ($P list 2>&1; echo code $? >&2) | head -1")
    assert "Traceback" not in found.stderr
    assert "code 0" in found.stderr


def test_a_deleted_folder_is_refused_in_words(tmp_path):
    found = shell(tmp_path, "mkdir gone; cd gone; rmdir ../gone; $P list")
    assert found.returncode == 2
    assert found.stderr == (
        "peftbench: the current folder cannot be used (No such file or directory): change to another one\n"
    )


def test_names_that_are_not_utf_8_are_read_and_shown(tmp_path):
    os.rename(store(tmp_path / "r", make_result()), os.fsencode(tmp_path) + b"/r\xff")
    found = shell(tmp_path, "$P report $'r\\xff' --format text && $P report $'r\\xff'")
    assert found.returncode == 0, found.stderr
    assert "LoRA r=8" in found.stdout
    missing = shell(tmp_path, "$P plan $'\\xff.yaml'")
    assert missing.returncode == 2
    assert "no such file" in missing.stderr


def test_a_folder_that_cannot_be_written_is_refused_in_words(tmp_path):
    store(tmp_path / "r", make_result())
    found = shell(tmp_path, "$P report r -o /proc/nothing/x.html; $P report r -o /dev/full/x.html")
    assert found.returncode == 2
    assert found.stderr.count("cannot write the report") == 2


def test_hundreds_of_wrong_inputs_have_a_message_and_no_traceback(tmp_path, monkeypatch):
    tallies = [drawn(name, tmp_path, range(20)) for name in DRAWN]
    assert [tally.findings for tally in tallies] == [{}] * len(DRAWN)
    assert {tally.inputs for tally in tallies} == {20}


@pytest.mark.parametrize("name", ["suite text", "data file", "template"])
def test_what_hypothesis_invents_is_read_or_refused(name, tmp_path):
    tally = invented(name, tmp_path, 60, 0)
    assert tally.findings == {}
    assert tally.inputs >= 50


@pytest.mark.slow
def test_thousands_of_wrong_inputs_have_a_message_and_no_traceback(tmp_path):
    assert [drawn(name, tmp_path, range(500_000, 500_400)).findings for name in DRAWN] == [{}] * len(DRAWN)
