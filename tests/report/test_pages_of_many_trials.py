"""Folders with many trials: what a report reads and computes only once."""

from __future__ import annotations

import pytest

from peftbench.report import page
from peftbench.report.collect import MEAN, collect
from peftbench.report.derived.significance import significance
from peftbench.report.tables import comparison
from peftbench.results.crossed_effects import outcomes
from tests.support.many_results import make_many


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_many(tmp_path_factory.mktemp("many") / "results", cells=6, seeds=3, steps=5, examples=10)


def test_made_results_are_complete(folder):
    results = collect(folder)
    assert [len(cell.ok) for cell in results.cells] == [1] + [3] * 6
    assert len(results.examples) == (1 + 6 * 3) * 3 * 10
    assert len(results.steps) == 6 * 3 * 5
    found = significance(results)
    assert len(found.rankings[MEAN].scores) == 7
    assert not found.untested
    assert not found.failures
    assert not any("Not shown" in note for note in comparison.table(results).notes)


def test_examples_are_arranged_once_for_all_tasks(folder, monkeypatch):
    arranged = []
    make = outcomes.arrange
    monkeypatch.setattr(outcomes, "arrange", lambda examples: arranged.append(len(examples)) or make(examples))
    page.html(collect(folder))
    assert arranged == [(1 + 6 * 3) * 3 * 10]


def test_a_cells_rows_are_those_of_its_frame(folder):
    for cell in collect(folder).cells:
        assert [row["key"] for row in cell.rows] == cell.trials["key"].tolist()
        assert [row["seed"] for row in cell.ok_rows] == cell.ok["seed"].tolist() or cell.is_base
