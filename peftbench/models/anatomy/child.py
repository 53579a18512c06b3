"""Read a base model's anatomy in a process of its own, for code that must not import torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST = 120.0
"""Seconds after which the process is ended."""


@dataclass(frozen=True)
class Reading:
    """A process that reads an anatomy."""

    process: subprocess.Popen[str]

    def result(self) -> Mapping[str, Any] | str:
        """Return the anatomy as JSON values, or why it could not be read."""
        try:
            out, err = self.process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            return f"reading it took more than {LONGEST:.0f} s"
        try:
            found = json.loads(out.splitlines()[-1])
        except (ValueError, IndexError):
            return (err.strip().splitlines() or ["it could not be read"])[-1][:300]
        return found if isinstance(found, dict) else str(found)

    def stop(self) -> None:
        """End the process, if its result is no longer asked for."""
        self.process.kill()
        self.process.communicate()


def start(folder: Path) -> Reading | str:
    """Start to read the anatomy of the base model in a folder; return why not if no process can be started."""
    # the same modules as here, wherever they come from
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main({str(folder.resolve())!r})"
    command = [sys.executable, "-P", "-c", code]
    try:
        return Reading(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    except OSError as error:
        return f"no process could be started ({error.strerror})"


def main(folder: str) -> None:
    """Print the anatomy as one line of JSON; or the reason why there is none, as a text."""
    from dataclasses import asdict

    from peftbench.errors import Unsupported, UserError
    from peftbench.models.anatomy import reading

    try:
        print(json.dumps(asdict(reading.read(Path(folder)))))
    except (UserError, Unsupported) as error:
        print(json.dumps(str(error)))
