"""A suite document together with the problems found in it so far."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftbench.suite.block_check import check
from peftbench.suite.document import Document, Outside
from peftbench.suite.yaml_lines import KeyPath


@dataclass
class Builder:
    """Collects problems, so that all of them are reported at once."""

    document: Document
    problems: list[str] = field(default_factory=list)

    def problem(self, path: KeyPath, text: str) -> None:
        """Record a problem with the value at a path."""
        self.problems.append(self.document.problem(path, text))

    def check(self, model: Any, path: KeyPath, block: Any = None) -> Any:
        """Return the block at a path as a pydantic model; on errors, record them and return None."""
        return check(model, self.document, path, self.problems, block)

    def dataset(self, path: KeyPath) -> str | None:
        """Return the dataset at a path: its hub id, or the absolute path of a local folder; None if there is none."""
        given = self.document.get(path)
        if isinstance(given, str) and given.startswith(("./", "../", "~/", "/")):
            return self.resolved(given)
        return None if given is None else str(given)

    def resolved(self, path: str) -> str:
        """Return an absolute path, relative to the suite's folder; to the current folder if not from the suite file."""
        folder = Path.cwd() if isinstance(path, Outside) else self.document.folder
        try:
            return os.path.abspath(folder / Path(str(path)).expanduser())
        except RuntimeError:  # the home folder of a user that does not exist
            return os.path.abspath(folder / str(path))
