"""Reports of a smoke run say everywhere that its numbers mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import peftbench
from peftbench import cli
from peftbench.report import render, table
from peftbench.report.collect import collect
from peftbench.report.derived.smoke import is_smoke
from peftbench.report.notes.overview import endings
from peftbench.results.store import record_grid
from tests.support.answer_cases import folder, trials
from tests.support.page_data import PageData

COMMAND = "peftbench run suites/quickstart.yaml --smoke"


def cells(**columns: str) -> tuple[object, ...]:
    return trials("base fp32", [0.3], **columns), *(
        trials(name, [0.9, 0.9], **columns) for name in ("full fp32", "lora r=8 fp32")
    )


@pytest.fixture(params=["grid", "rows", "list"])
def smoke(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    if request.param == "grid":
        return folder(tmp_path / "r", *cells(), command=COMMAND)  # type: ignore[arg-type]
    command = COMMAND if request.param == "rows" else COMMAND.split()
    made = cells(environment_json=json.dumps({"command": command}))
    return folder(tmp_path / "r", *made, command="peftbench run x.yaml")  # type: ignore[arg-type]


def test_the_status_strip_warnings_tables_and_the_answer_say_it_first(
    smoke: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = PageData(render(smoke, tmp_path / "page.html").read_text()).core
    assert data["status"][0] == {"title": "smoke run", "text": "its numbers mean nothing", "level": "warn"}
    assert data["warnings"][0].startswith("This is a smoke run: 2 steps per cell on nano")
    assert data["scores"][0]["answer"]["words"][0].startswith("No answer: this is a smoke run")
    for form in ("text", "brief", "md", "tex"):
        text = table(smoke, form)
        assert "smoke run: 2 steps per cell on nano" in text.replace("\n", " ")
    assert cli.main(["report", str(smoke), "-o", str(tmp_path / "again.html")]) == 0
    assert "Warning: smoke run: 2 steps per cell on nano, so no number of this table" in capsys.readouterr().out
    assert cli.main(["answer", str(smoke)]) == 0
    assert capsys.readouterr().out.startswith("No answer: this is a smoke run: 2 steps per cell on nano, not on")
    record = peftbench.answer(smoke)
    assert (record["status"], record["refusal"], record["command"]) == ("refused", "smoke run", None)
    assert record["cell_by_memory"] is None


def test_missing_trials_are_counted_but_not_asked_for(tmp_path: Path) -> None:
    made = [one for cell in cells() for one in cell]
    place = folder(tmp_path / "r", made)  # type: ignore[arg-type]
    record_grid(place, [*(one.row.key for one in made), "f" * 16], COMMAND)
    record = peftbench.answer(place)
    assert (record["trials_count"], record["missing_trials_count"], record["command"]) == (6, 1, None)
    assert not any("First finish" in line for line in record["lines"])
    assert endings(collect(place)).missing == 1


def test_other_results_are_not_called_so(tmp_path: Path) -> None:
    place = folder(tmp_path / "r", *cells(), command="peftbench run 'my --smoke suite.yaml'")  # type: ignore[arg-type]
    assert not is_smoke(collect(place))
    assert "smoke run" not in table(place, "text")
    unread = folder(tmp_path / "u", *cells(environment_json="{"), command="peftbench run 'x")  # type: ignore[arg-type]
    assert not is_smoke(collect(unread))
