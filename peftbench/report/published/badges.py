"""Whether a published number was made as a measured one: same protocol, differs in what, or not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from peftbench.records.wording import series
from peftbench.report.published.parts import PARTS, shown
from peftbench.report.published.records import Block, PublishedRow, PublishedTable

Kind = Literal["same protocol", "differs", "unknown"]
SAME: Kind = "same protocol"
DIFFERS: Kind = "differs"
UNKNOWN: Kind = "unknown"
_KEPT = ("metric", "test_data", "test_split", "task_kind")
"""Parts that a table states of numbers that it copied from other papers too: they stand in its columns."""
_OF_METHODS = ("rank", "alpha", "dropout", "target_modules", "double_quantization")
"""Parts that some methods have and others do not."""
_EITHER = ("epochs", "steps")
"""Two ways to say how long training is: one of them is enough."""


@dataclass(frozen=True)
class Badge:
    """How the protocol of a published number compares with that of a measured one."""

    kind: Kind
    differences: tuple[str, ...]
    """Parts that are stated, recorded and different: "seeds (5; here 3)"."""
    not_stated: tuple[str, ...]
    """Needed parts that the source does not state."""
    not_known: tuple[str, ...]
    """Stated parts that the rows do not record, or record too little of: data that are files have only names."""

    @property
    def found(self) -> tuple[tuple[str, ...], ...]:
        """The parts of which each of ``_SAID`` is said."""
        return ("",) if self.kind == SAME else (), self.differences, self.not_stated, self.not_known


_SAID = ("same protocol", "differs", "not stated by the source", "not recorded in our rows")


def words(badges: Mapping[str, Badge]) -> str:
    """Return how the protocol of a published row compares, each part once; empty without badges.

    Args:
        badges: those of its numbers by the titles of their columns, which are named where they are not alike.
    """
    sentences = []
    for place, what in enumerate(_SAID):
        said: dict[tuple[str, ...], list[str]] = {}
        for part in dict.fromkeys(part for one in badges.values() for part in one.found[place]):
            titles = tuple(title for title, one in badges.items() if part in one.found[place])
            said.setdefault(titles, []).append(part)
        clauses: list[str] = []
        for titles, parts in sorted(said.items(), key=lambda group: -len(group[0])):
            where = f"for {series(list(titles))}" if len(titles) < len(badges) else ""
            head = f"{'' if clauses else what} {where}".strip()
            clauses.append(": ".join(filter(None, (head, ", ".join(parts)))))
        sentences += ["; ".join(clauses)] if clauses else []
    return ". ".join(f"{one[0].upper()}{one[1:]}" for one in sentences)


def stated(table: PublishedTable, row: PublishedRow, column: str) -> dict[str, Any]:
    """Return each part of the protocol that is stated of a published number.

    Args:
        table: where it stands.
        row: its row.
        column: its column, as the table calls it.
    """
    found: dict[str, Any] = {} if row.base is None else {"base": row.base.lower()}
    for block in table.protocol:
        if _is_of(block, row, column):
            own = not row.from_prior_work or "about" in block.of
            found |= {part: value for part, value in block.settings.items() if own or part in _KEPT}
    found |= {part: value for part, value in row.settings.items() if part in PARTS}
    return found


def _is_of(block: Block, row: PublishedRow, column: str) -> bool:
    for name, wanted in block.of.items():
        if name == "about":
            if not row.about.startswith(tuple(wanted)):
                return False
            continue
        value = column if name == "column" else row.settings.get(name) if name == "rank" else getattr(row, name)
        if value not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def badge(published: Mapping[str, Any], measured: Mapping[str, Any], needs: Sequence[str]) -> Badge:
    """Return how two protocols compare.

    "Same protocol" needs every part of ``needs`` to be stated, and every stated part to be recorded and equal; of
    protocols without a common part nothing is known.

    Args:
        published: what is stated, by part.
        measured: what is recorded, by part.
        needs: parts without which the source does not say how the number was made.
    """
    differences = tuple(
        f"{PARTS[part].words} ({shown(published[part])}; here {shown(measured[part])})"
        for part in PARTS
        if part in published and part in measured and not PARTS[part].same(published[part], measured[part])
    )
    not_known = [part for part in PARTS if part in published and part not in measured]
    wanted = [part for part in needs if part not in _OF_METHODS or part in measured]
    not_stated = [part for part in PARTS if part in wanted and part not in published]
    if any(part in published for part in _EITHER):
        not_stated = [part for part in not_stated if part not in _EITHER]
    if any(part in published and part in measured for part in _EITHER):
        not_known = [part for part in not_known if part not in _EITHER]
    compared = any(part in measured for part in published)
    kind = DIFFERS if differences else SAME if compared and not not_stated and not not_known else UNKNOWN
    return Badge(kind, differences, _words(not_stated), _words(not_known))


def _words(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(PARTS[part].words for part in parts)
