"""Which trials ran on a node at the same time, by the node's own clock: messages come in any order."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class Span:
    """From when to when a trial ran, in seconds of its node's monotonic clock."""

    began: float
    ended: float | None = None
    """None as long as it is not known to have ended."""

    def covers(self, moment: float) -> bool:
        """Return whether the trial ran at a moment."""
        return self.began <= moment and (self.ended is None or moment < self.ended)


@dataclass
class Spans:
    """The trials of a run by their node."""

    by_node: dict[str, list[Span]] = field(default_factory=dict)

    def begin(self, node: str, moment: float) -> Span:
        """Note that a trial began; forget those that ended before all that run began."""
        there = self.by_node.setdefault(node, [])
        made = Span(moment)
        there.append(made)
        first = min((span.began for span in there if span.ended is None), default=moment)
        there[:] = [span for span in there if span.ended is None or span.ended > first]
        return made

    def beside(self, node: str, one: Span) -> int:
        """Return the largest number of other trials that ran at the same time as this one."""
        others = [span for span in self.by_node.get(node, ()) if span is not one]
        moments = [one.began, *(span.began for span in others if one.covers(span.began))]
        return max(sum(span.covers(moment) for span in others) for moment in moments)
