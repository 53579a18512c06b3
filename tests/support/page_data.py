"""A page read back: its data, its parts, and the tags around them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "link", "br", "wbr", "input", "img", "hr"}


@dataclass
class PageData(HTMLParser):
    """The JSON of a page and its tags; ``open`` has what was left open."""

    text: str
    core: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.inside: dict[str, str | None] = {}
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = dict(attrs) if tag == "script" else {}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.inside = {}

    def handle_data(self, data: str) -> None:
        if "data-part" in self.inside:
            self.parts[str(self.inside["data-part"])] = json.loads(data)
        elif self.inside.get("id") == "data":
            self.core = json.loads(data)
        elif self.open and self.open[-1] == "script":
            self.scripts.append(data)

    def column(self, name: str) -> dict[str, Any]:
        """Return a column by the cells' own names; texts as texts."""
        (found,) = (each for each in self.core["columns"] if each["name"] == name)
        values = [found["texts"][place] for place in found["values"]] if "texts" in found else found["values"]
        return dict(zip(self.core["cells"]["own"], values, strict=True))

    def score(self, task: str, what: str = "mean") -> dict[str, Any]:
        """Return a task's scores by the cells' own names."""
        (found,) = (each for each in self.core["scores"] if each["task"] == task)
        return dict(zip(self.core["cells"]["own"], found[what], strict=True))
