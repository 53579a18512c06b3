"""The suites of published tables: their heads say what they are, and their planned memory is of their present cells."""

from __future__ import annotations

import json

import pytest

from peftbench.models import builtin
from tests.support.documents import ROOT
from tools.validation import published_suites

SUITES = published_suites.names()
RECORD = json.loads(published_suites.PATH.read_text())["suites"]


def test_there_are_suites():
    assert len(SUITES) >= 8


@pytest.mark.parametrize("name", SUITES)
def test_a_head_names_source_hardware_cost_and_differences(name):
    head = (ROOT / "suites" / f"{name}.yaml").read_text().partition("\ndescription:")[0]
    for what in ("# Reproduces: ", "# Hardware: ", "# Cost: ", "# Differs from the "):
        assert what in head


@pytest.mark.parametrize("name", SUITES)
def test_the_recorded_plan_is_of_the_present_cells(name):
    found = published_suites.cells(name)
    first = next(iter(found.values()))[0]
    assert RECORD[name]["base"] == first.base.source
    assert {cell: len(each) for cell, each in found.items()} == {
        cell: each["trials"] for cell, each in RECORD[name]["cells"].items()
    }
    assert all(each["peak_bytes"] or each["reason"] for each in RECORD[name]["cells"].values())
    assert f"{sum(len(each) for each in found.values())} trials" in (ROOT / "suites" / f"{name}.yaml").read_text()
    assert builtin.shape(published_suites.SHAPES[first.base.source]).is_dir()
