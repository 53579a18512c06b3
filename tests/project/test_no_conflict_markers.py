"""No file that is committed has the marks of a merge that was left unfinished."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARK = re.compile(rb"^(<{7}|>{7}|\|{7})( |\r?$)", re.MULTILINE)


def test_no_committed_file_has_the_marks_of_an_unfinished_merge():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert len(paths) > 500
    assert not [path.name for path in paths if path.is_file() and MARK.search(path.read_bytes())]


def test_the_marks_are_found():
    assert MARK.search(b"text\n" + b"<" * 7 + b" HEAD\nours\n")
    assert MARK.search(b"text\n" + b"|" * 7 + b" merged common ancestors\n")
    assert MARK.search(b">" * 7)
    assert not MARK.search(b"a title\n=======\n" + b"<" * 9)
