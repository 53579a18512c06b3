"""The phases of a trial: the one place for their names, columns, headings and colours. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """What a trial is doing. Each phase's seconds are a column of ``trials``.

    The value is the name in messages, in the column ``phase`` and in the time column, so it never changes.
    """

    own_work: bool
    """Whether the phase is work that the trial is about; the rest of its wall time is overhead."""
    heading: str
    """The heading in tables."""
    bar: str
    """The segment of the time bars that the phase belongs to: seven colours can be distinguished, thirteen cannot."""
    color: str
    """The colour of that segment."""

    def __new__(cls, name: str, own_work: bool, heading: str, bar: str, color: str) -> Phase:
        """Make a member whose value is its name."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.own_work, member.heading, member.bar, member.color = own_work, heading, bar, color
        return member

    START = "start", False, "start", "set up", "#0072b2"
    PLAN = "plan", True, "plan", "set up", "#0072b2"
    LOAD = "load", True, "load", "set up", "#0072b2"
    DATA = "data", False, "data", "set up", "#0072b2"
    ATTACH = "attach", False, "attach", "set up", "#0072b2"
    COMPILE = "compile", True, "compile", "set up", "#0072b2"
    RESUME = "resume", False, "resume", "set up", "#0072b2"
    TRAIN = "train", True, "train", "train", "#56b4e9"
    VALIDATE = "validate", True, "validate", "validate", "#d55e00"
    ACCOUNT = "account", True, "account memory", "account and check", "#e69f00"
    CHECK = "check", True, "check", "account and check", "#e69f00"
    EVALUATE = "evaluate", True, "evaluate", "evaluate", "#cc79a7"
    RETENTION = "retention", True, "retention", "evaluate", "#cc79a7"
    SAVE = "save", False, "save", "save", "#009e73"
    CHECKPOINT = "checkpoint", False, "checkpoint", "save", "#009e73"
    INFERENCE = "inference", True, "inference", "evaluate", "#cc79a7"
    DEPLOY = "deploy", True, "deploy", "evaluate", "#cc79a7"

    @property
    def column(self) -> str:
        """The column of ``trials`` with the phase's seconds."""
        return f"{self.value}_seconds"


UNTRACKED = "untracked_seconds"
"""The column with the wall time that no phase accounts for."""
UNTRACKED_BAR = ("untracked", "#f0e442")
"""Heading and colour of that time."""


@dataclass(frozen=True)
class Part:
    """A column with a share of a phase's time. It is contained in the phase's own column."""

    column: str
    phase: Phase
    heading: str | None = None
    """The heading in the table of times by phase; None if it is not shown there."""


PARTS = (
    Part("untimed_seconds", Phase.TRAIN),
    Part("train_waiting_seconds", Phase.TRAIN),
    Part("evaluate_prefill_seconds", Phase.EVALUATE, "of which prefill"),
    Part("evaluate_decode_seconds", Phase.EVALUATE, "of which decode"),
    Part("inference_waiting_seconds", Phase.INFERENCE),
)
