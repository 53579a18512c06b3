"""The Python examples of a document, to be run word for word."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python_blocks(name: str) -> list[tuple[str, str]]:
    """The heading above each fenced Python block of a document and the block's text."""
    found, heading = [], ""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    for title, code in re.findall(r"^#+ ([^\n]*)$|^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        heading = title or heading
        if code:
            found.append((heading, code))
    return found


def libraries(code: str) -> list[str]:
    """The modules that a block imports."""
    return re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)


def executed(code: str, name: str) -> dict:
    """Run a block and return the names that it defined."""
    found: dict = {}
    exec(compile(code, name, "exec"), found)
    return found
