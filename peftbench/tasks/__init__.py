"""The table of built-in tasks, which peftbench generates identically on every machine. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

SPLITS = ("train", "validation", "test")
TEST_SEEDS = 4
"""Number of disjoint test sets of a built-in task; ``evaluate.test_seed`` in a suite selects one."""
DEFAULT_TEST_SEED = 1
"""Test sets 1 and 2 were first read for the committed tables, after learning rates had been selected on validation."""
HEADLINES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "choice": ("accuracy", "accuracy_norm"),
        "exact_match": ("exact_match",),
        "generation": ("rouge_l",),
        "language_modelling": ("probability_per_byte",),
        "classification": ("accuracy", "matthews", "f1_macro"),
        "regression": ("pearson",),
    }
)
"""Kind of task -> metrics that can be its headline metric, the default first. All have one outcome
per example, those of whole splits by ``evaluation.influence``."""


@dataclass(frozen=True)
class BuiltinTask:
    """A task whose examples peftbench generates itself."""

    name: str
    kind: str
    """``choice``, ``exact_match`` or ``generation``."""
    examples: str
    """``module:function`` with ``examples(split, test_seed) -> list[Example]``; splits and test sets are disjoint."""
    max_new_tokens: int
    """Largest number of tokens generated for an answer; unused by kind ``choice``."""
    doc: str


TASKS: Mapping[str, BuiltinTask] = MappingProxyType(
    {
        t.name: t
        for t in (
            BuiltinTask(
                "describe",
                "generation",
                "peftbench.tasks.builtin.describe:examples",
                40,
                "write a sentence from given facts",
            ),
            BuiltinTask(
                "compute",
                "exact_match",
                "peftbench.tasks.builtin.compute:examples",
                8,
                "short arithmetic problems in words",
            ),
            BuiltinTask(
                "judge", "choice", "peftbench.tasks.builtin.judge:examples", 4, "assign a text to one of four classes"
            ),
        )
    }
)
