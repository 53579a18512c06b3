"""A document being read, with the problems found in it so far."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftbench.suite.document import Document, Outside
from peftbench.suite.schema import check
from peftbench.suite.yaml_lines import KeyPath


@dataclass
class Builder:
    """Collects problems so that all are told at once."""

    document: Document
    problems: list[str] = field(default_factory=list)

    def problem(self, path: KeyPath, text: str) -> None:
        """Write down a problem with the value at a path."""
        self.problems.append(self.document.problem(path, text))

    def check(self, model: Any, path: KeyPath, block: Any = None) -> Any:
        """Return the block at a path as a model, or None with its problems written down."""
        return check(model, self.document, path, self.problems, block)

    def dataset(self, path: KeyPath) -> str | None:
        """Return the dataset at a path, its hub id or the path of a local folder made absolute; None for none."""
        given = self.document.get(path)
        if isinstance(given, str) and given.startswith(("./", "../", "~/", "/")):
            return self.resolved(given)
        return None if given is None else str(given)

    def resolved(self, path: str) -> str:
        """Return a path made absolute: from the suite's folder, or from the user's where it came from outside."""
        folder = Path.cwd() if isinstance(path, Outside) else self.document.folder
        return os.path.abspath(folder / Path(str(path)).expanduser())
