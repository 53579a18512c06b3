"""Bytes that atheris changes until they reach new lines of our code: ``python -m tools.validation.fuzz.guided``.

It runs as a process of its own, since libFuzzer ends the process that calls it. ``python -m tools.validation.fuzz``
starts it where atheris is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from tools.validation.fuzz.running import Tally, one

LONGEST = {"suite text": 4000, "data file": 3000, "results file": 200_000, "imported file": 60_000, "template": 800}
"""Most bytes of an input of each target."""
_INSTRUMENTED = ("peftbench.suite", "peftbench.tasks", "peftbench.results", "peftbench.report", "yaml")
_STRETCH = 50
"""Inputs between two records of the counts, which libFuzzer leaves no time for at the end."""


def run(target: str, seconds: float, first: int) -> Tally:
    """Give a target guided inputs for some seconds, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        counts = Path(name) / "counts.json"
        command = [sys.executable, "-m", "tools.validation.fuzz.guided", target, str(counts)]
        command += [f"-max_total_time={max(1, round(seconds))}", f"-seed={first + 1}", f"-max_len={LONGEST[target]}"]
        ran = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env={**os.environ, "TMPDIR": name}
        )
        if not counts.exists():
            raise RuntimeError(f"atheris did not start: {ran.stderr[-2000:]}")
        return Tally.of_plain(json.loads(counts.read_text()))


def main() -> None:
    """Give one target inputs until libFuzzer's time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=LONGEST)
    parser.add_argument("counts", type=Path)
    asked, own = parser.parse_known_args()
    warnings.simplefilter("ignore")
    import atheris

    with atheris.instrument_imports(include=list(_INSTRUMENTED)):
        from tools.validation.fuzz import readers

        with contextlib.suppress(Exception):  # imports what the reader imports
            readers.READERS[asked.target](Path(tempfile.mkdtemp()), readers.examples(asked.target)[0])
    tally, label, place = Tally(), f"{asked.target}, guided", Path(tempfile.mkdtemp())
    corpus = Path(tempfile.mkdtemp())
    for number, content in enumerate(readers.examples(asked.target)):
        (corpus / f"example{number}").write_bytes(content)
    read = readers.READERS[asked.target]

    def test(content: bytes) -> None:
        def accepted() -> bool:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                read(place, content)
            return True

        known = len(tally.findings)
        one(tally, label, accepted, f"input {ascii(content)[:1500]}")
        if tally.inputs % _STRETCH == 0 or len(tally.findings) > known:
            asked.counts.write_text(json.dumps(tally.plain()))

    atheris.Setup([sys.argv[0], *own, str(corpus)], test)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
