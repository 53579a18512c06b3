"""docs/optimizers.md has every optimizer that the installed transformers.Trainer can name."""

from __future__ import annotations

import re
from pathlib import Path

from transformers.training_args import OptimizerNames

from peftbench.records import OPTIMIZERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "optimizers.md"


def rows() -> list[tuple[list[str], str]]:
    """Return the rows of the page's table: names of Trainer, and what is said of them."""
    table = PAGE.read_text(encoding="utf-8").partition("<!-- trainer names -->")[2].partition("<!-- /trainer names")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`([^`]+)`", names), said) for names, said in lines if names != "`optim`"]


def test_every_name_of_trainer_is_there_once_as_an_optimizer_or_with_the_reason_why_not():
    found = [name for names, _ in rows() for name in names]
    assert sorted(found) == sorted(each.value for each in OptimizerNames)
    for names, said in rows():
        own = re.match(r"`([^`]+)`", said)
        assert own is None or own.group(1) in OPTIMIZERS, names
        assert own or said.startswith(("not there", "peftbench runs on")), names


def test_every_optimizer_that_is_not_only_ours_is_there_under_a_name_of_trainer():
    named = {name for _, said in rows() for name in re.findall(r"`([^`]+)`", said)}
    assert set(OPTIMIZERS) - named == {"muon"}, "which Trainer cannot name"
