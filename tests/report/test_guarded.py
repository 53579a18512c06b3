"""A part of a report that fails is a note that names it and the error; everything else is written."""

from __future__ import annotations

import pytest

from peftbench import cli, report
from peftbench.report import collect, guarded, page
from peftbench.report.derived import commands, significance
from peftbench.report.notes import brief, data_read, outcomes, overview
from peftbench.report.payload import columns, details, scores
from peftbench.report.payload import overview as payload_overview
from peftbench.report.tables import inference, retention
from peftbench.report.tables import settings as tables_settings
from tests.support.page_data import PageData
from tests.support.results_factory import make_grid

MISTAKE = "This is a mistake in peftbench; PEFTBENCH_TRACEBACK=1 shows where."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_grid(tmp_path_factory.mktemp("results") / "r", seeds=2, steps=4, examples=4)


@pytest.fixture(scope="module")
def results(folder):
    return collect.collect(folder)


@pytest.fixture
def quiet(monkeypatch):
    """As users have it: tracebacks are not asked for."""
    monkeypatch.delenv("PEFTBENCH_TRACEBACK")


def fail(*_):
    raise KeyError("made up\nin two <lines>")


PIECES = {
    "curves": (details, "curves", "the training losses"),
    "ledgers": (details, "ledgers", "the memory ledgers"),
    "settings": (details, "settings", "the settings of trials"),
    "environments": (details, "environments", "the environments of trials"),
    "samples": (details, "samples", "the samples"),
    "scores": (scores, "metric_words", "scores on describe"),
    "metrics": (columns, "task_metrics", "columns of other metrics"),
    "forgetting": (columns.retention, "retained", "columns of forgetting"),
    "status": (payload_overview, "status", "the state of the results"),
    "failures": (payload_overview, "troubles", "the failures"),
    "audit": (tables_settings, "audit", "the settings"),
    "environment": (tables_settings, "environment", "the environment"),
    "search": (payload_overview.search, "table", "the learning-rate search"),
    "overview": (overview, "overview", "the overview"),
    "command": (commands, "whole", "the command"),
    "notes": (data_read, "notes", "notes on data"),
    "warnings": (outcomes, "below_base", "notes on scores below the untuned base model"),
}
"""What a page is made of: where it is made, and how a note names it."""


@pytest.mark.parametrize("piece", PIECES)
def test_a_piece_that_fails_is_a_note_on_a_page_that_has_all_others(quiet, monkeypatch, results, piece):
    module, name, what = PIECES[piece]
    monkeypatch.setattr(module, name, fail)
    found = PageData(page.html(results))
    notes = [text for group in found.core["notes"] for text in group["texts"]]
    said = [text for text in (*found.core["warnings"], *notes) if text.startswith("Not shown: ")]
    assert f"Not shown: {what} (KeyError: 'made up\\nin two <lines>'). {MISTAKE}" in said
    assert len(said) == len(set(said)) <= 4  # one for each task
    assert len(found.core["cells"]["own"]) == 15
    assert {"curves-0", "ledgers-0", "settings", "environments", "samples"} == set(found.parts)


@pytest.mark.parametrize("format", ["text", "md"])
def test_notes_and_further_tables_that_fail_are_notes_of_the_table(quiet, monkeypatch, folder, format):
    before = _rows(folder, format)
    assert len(before) >= 6
    monkeypatch.setattr(data_read, "notes", fail)
    monkeypatch.setattr(retention, "table", fail)
    monkeypatch.setattr(inference, "table", fail)
    text = " ".join(report.table(folder, format).split())
    for what in ("notes on files", "the table of retention", "the table of inference cost"):
        assert f"Not shown: {what} (KeyError" in text.replace("\\", "")
    assert _rows(folder, format) == before


def _rows(folder, format):
    """The lines of the comparison table's cells."""
    lines = report.table(folder, format).splitlines()
    return [line for line in lines if line.removeprefix("| ").startswith(("LoRA", "full", "bottleneck"))]


def test_significance_that_fails_leaves_the_scores(quiet, monkeypatch, folder):
    monkeypatch.setattr(significance, "_significance", fail)
    for format in ("text", "brief", "md", "csv", "tex", "ranks"):
        assert "lora" in report.table(folder, format).lower()
    assert "Not shown: significance tests and intervals (KeyError" in " ".join(report.table(folder).split())


def test_a_short_table_without_its_notes_has_its_rows(quiet, monkeypatch, folder):
    monkeypatch.setattr(brief, "notes", fail)
    text = report.table(folder, "brief")
    assert "Not shown: the notes (KeyError" in " ".join(text.split())
    assert "LoRA r=8" in text


def test_the_command_writes_the_page_and_ends_well(quiet, monkeypatch, folder, tmp_path, capsys):
    monkeypatch.setattr(details, "samples", fail)
    assert cli.main(["report", str(folder), "-o", str(tmp_path / "x.html")]) == 0
    assert "Not shown: the samples (KeyError" in (tmp_path / "x.html").read_text()
    capsys.readouterr()


def test_where_tracebacks_are_asked_for_a_part_that_fails_is_raised():
    with pytest.raises(KeyError):
        guarded.guarded("x", fail, str)
