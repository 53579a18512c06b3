"""Tuners of peft are content apart in a report, and unsupported cells of a method together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from peftbench.errors import UserError
from peftbench.methods import peft_fields
from peftbench.records import Result
from peftbench.report import collect, page
from peftbench.report.notes import failures
from peftbench.report.styles import style_of
from peftbench.report.tables import rank_by_precision
from tests.support.page_data import PageData
from tests.support.results_factory import make_result, store

TUNERS = {"VERA": ("r", 64), "PROMPT_TUNING": ("num_virtual_tokens", 20), "ROAD": (None, None)}


def tuned(tuner: str, score: float) -> Result:
    rank = TUNERS[tuner][1]
    cell = f"peft {tuner}{f' r={rank}' if rank else ''} fp32"
    made = make_result(cell, "peft", "fp32", rank, scores={"judge": score})
    settings = json.loads(made.row.settings_json) | {"options": {"peft_type": tuner}}
    return replace(made, row=replace(made.row, settings_json=json.dumps(settings)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return store(tmp_path / "r", make_result(), *(tuned(name, 0.5 + n / 10) for n, name in enumerate(TUNERS)))


def test_each_tuner_has_a_title_a_look_and_a_name(folder: Path) -> None:
    results = collect.collect(folder)
    assert [cell.kind for cell in results.cells] == ["lora", "peft PROMPT_TUNING", "peft ROAD", "peft VERA"]
    assert [cell.title for cell in results.cells][-1] == "peft tuner VERA"
    made = PageData(page.html(results))
    assert len(made.core["styles"]) == len({tuple(style.values()) for style in made.core["styles"].values()}) == 4
    assert made.core["cells"]["name"][1:] == [
        "peft PROMPT_TUNING r=20",
        "peft ROAD",
        "peft VERA r=64",
    ]


def test_the_size_of_a_tuner_has_the_name_that_it_has_there(folder: Path) -> None:
    meanings = {found.title: found.rank_meaning for found in rank_by_precision.rank_tables(collect.collect(folder))}
    assert meanings["peft tuner VERA"] == "rank r"
    assert meanings["peft tuner PROMPT_TUNING"] == "virtual tokens"


def test_no_two_tuners_look_the_same() -> None:
    looks = {style_of(f"peft {name}") for name in peft_fields.tuners()}
    assert len(looks) == len(peft_fields.tuners())


def test_without_peft_a_report_is_still_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise UserError("the method peft needs the package peft, which is not installed")

    monkeypatch.setattr(peft_fields, "tuners", absent)
    results = collect.collect(folder)
    assert [cell.kind for cell in results.cells] == ["lora", "peft", "peft", "peft"]
    assert "peft VERA r=64 fp32" in page.html(results)


def test_unsupported_cells_of_a_method_that_share_a_reason_share_a_note(tmp_path: Path) -> None:
    def absent(cell: str, method: str, precision: str, because: str) -> Result:
        why = f"{method} does not exist in {precision}, because {because}"
        return make_result(cell, method, precision, None, status="unsupported", phase=None, message=why)

    rows = [absent(f"qlora r={r} {p}", "qlora", p, "it is 4-bit") for r in (1, 2) for p in ("fp32", "bf16")]
    rows += [absent("full nf4", "full", "nf4", "no gradient"), absent("lora nf4", "lora", "nf4", "no gradient")]
    rows += [make_result(f"adapter r={r} fp32", "adapter", rank=r, status="oom") for r in (1, 2)]
    results = collect.collect(store(tmp_path / "r", make_result(), *rows))
    content = [*failures.failed(results), *failures.unsupported(results)]
    assert "qlora in fp32, bf16: 4 cells unsupported (it is 4-bit)." in content
    assert "full nf4: unsupported (full does not exist in nf4, because no gradient)." in content
    assert "lora nf4: unsupported (lora does not exist in nf4, because no gradient)." in content
    assert [note for note in content if note.startswith("adapter")] == [
        f"adapter r={r} fp32: 1 oom (made up to be oom)." for r in (1, 2)
    ]
    assert len([note for note in content if "unsupported" in note]) == 3
