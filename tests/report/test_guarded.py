"""A part of a report that fails is a note that names it and the error; everything else is written."""

from __future__ import annotations

import dataclasses

import pytest

from peftbench import cli, report
from peftbench.report import collect, guarded, page, sections
from peftbench.report.derived import significance
from peftbench.report.notes import brief, data_read, overview
from peftbench.report.tables import inference, retention
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


def broken(section):
    """A section of which the last part fails."""
    return dataclasses.replace(section, parts={**section.parts, list(section.parts)[-1]: fail})


@pytest.mark.parametrize("place", range(len(sections.SECTIONS)), ids=[one.id for one in sections.SECTIONS])
def test_a_section_that_fails_is_a_note_on_a_page_that_has_all_others(quiet, monkeypatch, results, place):
    drawn = {one.id: one for one in sections.SECTIONS}
    quick = [
        dataclasses.replace(one, parts=one.parts if one.id in ("failures", "definitions") else {"x": fail})
        for one in drawn.values()
    ]  # the figures of all sections would take their time for each of these tests
    quick[place] = broken(sections.SECTIONS[place])
    monkeypatch.setattr(page, "SECTIONS", quick)
    text = page.html(results)
    failed = sections.SECTIONS[place]
    note = f"Not shown: {failed.heading} (KeyError: &#39;made up\\nin two &lt;lines&gt;&#39;). {MISTAKE}"
    assert f'<section id="{failed.id}">\n<h2>{failed.heading}</h2>\n<p class="note">{note}</p>\n</section>' in text
    assert text.count("<section id=") == len(sections.SECTIONS)
    assert all(f'<a href="#{one.id}">{one.link}</a>' in text for one in sections.SECTIONS)
    assert ("<dl class" in text) is (failed.id != "definitions")


def test_the_other_sections_are_as_they_would_be(quiet, monkeypatch, results):
    whole = page.html(results)
    kept = [broken(one) if one.id == "loss" else one for one in sections.SECTIONS]
    monkeypatch.setattr(page, "SECTIONS", kept)
    found = page.html(results)
    for one in sections.SECTIONS:
        before, after = (
            text.partition(f'<section id="{one.id}">')[2].partition("</section>")[0] for text in (whole, found)
        )
        assert (before == after) is (one.id != "loss")


def test_a_template_that_fails_loses_its_section_only(quiet, monkeypatch, results):
    kept = [dataclasses.replace(one, parts={}) if one.id == "time" else one for one in sections.SECTIONS[::6]]
    monkeypatch.setattr(page, "SECTIONS", kept)
    text = page.html(results)
    assert "Not shown: Time by phase (UndefinedError: " in text
    assert '<table id="compare"' in text


def test_a_header_that_fails_is_a_note(quiet, monkeypatch, results):
    monkeypatch.setattr(overview, "overview", fail)
    monkeypatch.setattr(overview, "command", fail)
    monkeypatch.setattr(page, "SECTIONS", sections.SECTIONS[-1:])
    assert page.html(results).count("Not shown: the ") == 2


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
    return [line for line in lines if line.removeprefix("| ").startswith(("lora", "full", "adapter"))]


def test_significance_that_fails_leaves_the_scores(quiet, monkeypatch, folder):
    monkeypatch.setattr(significance, "_significance", fail)
    for format in ("text", "brief", "md", "csv", "tex", "ranks"):
        assert "lora" in report.table(folder, format).lower()
    assert "Not shown: significance tests and intervals (KeyError" in " ".join(report.table(folder).split())


def test_a_short_table_without_its_notes_has_its_rows(quiet, monkeypatch, folder):
    monkeypatch.setattr(brief, "notes", fail)
    text = report.table(folder, "brief")
    assert "Not shown: the notes (KeyError" in " ".join(text.split())
    assert "lora r=8 fp32" in text


def test_the_command_writes_the_page_and_ends_well(quiet, monkeypatch, folder, tmp_path, capsys):
    monkeypatch.setattr(page, "SECTIONS", [broken(one) for one in sections.SECTIONS[:1]] + list(sections.SECTIONS[-3:]))
    assert cli.main(["report", str(folder), "-o", str(tmp_path / "x.html")]) == 0
    assert "Not shown: Comparison (KeyError" in (tmp_path / "x.html").read_text()
    capsys.readouterr()


def test_where_tracebacks_are_asked_for_a_part_that_fails_is_raised():
    with pytest.raises(KeyError):
        guarded.guarded("x", fail, str)
