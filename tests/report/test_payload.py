"""The page's data, read back from the page: numbers of the tables, failures, settings, curves, draws, size."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from peftbench.report import page, render, table
from peftbench.report.collect import MEAN, collect
from peftbench.report.derived.answer import answer
from peftbench.report.names import display_names
from peftbench.report.payload import assemble, details, packing, questions
from peftbench.report.styles import DARK, LIGHT, SHAPES, style_of
from tests.support.page_data import PageData
from tests.support.results_factory import TASKS, make_grid, make_result, store

EVIL = "</script><script>alert('x')</script><!-- <img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_grid(tmp_path_factory.mktemp("results") / "quickstart")


@pytest.fixture(scope="module")
def text(grid: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(grid, tmp_path_factory.mktemp("page") / "deep" / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(text: str) -> PageData:
    return PageData(text)


def page_of(folder: Path) -> PageData:
    return PageData(page.html(collect(folder)))


def test_the_page_is_well_formed_and_names_no_other_file(made: PageData) -> None:
    assert made.open == []
    ids = [attrs["id"] for _, attrs in made.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    addresses = [v or "" for _, attrs in made.tags for n, v in attrs.items() if n in ("src", "href", "srcset")]
    assert all(address.startswith("#") for address in addresses)
    (policy,) = (attrs["content"] for _, attrs in made.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert {name for name, _ in page.SECTIONS} == {a["data-section"] for _, a in made.tags if "data-section" in a}


def test_the_page_has_the_numbers_of_the_table(grid: Path, made: PageData) -> None:
    rows = {row["cell"]: row for row in csv.DictReader(io.StringIO(table(grid, "csv")))}
    assert len(made.core["cells"]["own"]) == 15
    for own in made.core["cells"]["own"]:
        for column, stored in (("peak_train_bytes", "peak_train_bytes_mean"), ("train_seconds", "train_seconds_mean")):
            assert same(made.column(column)[own], rows[own][stored]), (own, column)
        for task, stem in (*((task, f"score_{task}") for task in TASKS), (MEAN, "score_mean_over_tasks")):
            assert same(made.score(task)[own], rows[own][f"{stem}_mean"]), (own, task)
            assert same(made.score(task, "sd")[own], rows[own][f"{stem}_sd"]), (own, task)
    assert made.core["scores"][0]["task"] == MEAN
    assert made.column("trials")["full fp32"] == "2 of 3 (1 oom)"


def same(one: float | None, other: str) -> bool:
    return one is None if other == "" else one == pytest.approx(float(other), rel=1e-5)


def test_every_column_has_a_definition_and_no_two_share_a_name(made: PageData) -> None:
    columns = made.core["columns"]
    assert len({column["name"] for column in columns}) == len(columns) > 30
    assert all(column["definition"] for column in columns)
    assert all(len(column["values"]) == 15 for column in columns)


def test_failures_are_listed_with_cell_seeds_phase_and_message(made: PageData) -> None:
    own = made.core["cells"]["own"]
    found = {own[each["cell"]]: each for each in made.core["troubles"]}
    assert found["full fp32"]["status"] == "oom"
    assert (found["full fp32"]["seeds"], found["full fp32"]["message"]) == ("2", "made up to be oom")
    assert found["full nf4"]["seeds"] == "0, 1, 2"
    assert "quantized weights have no gradient" in found["full nf4"]["message"]
    status = {each["title"]: each for each in made.core["status"]}
    assert (status["trials"]["text"], status["trials"]["level"]) == ("39 of 43 ok, 3 unsupported, 1 failed", "warn")


def test_texts_of_a_model_or_of_a_suite_cannot_end_the_data(tmp_path: Path) -> None:
    row = make_result(
        f"lora r=8 {EVIL}",
        settings_json=json.dumps({"method": "lora", "train": {"note": EVIL}}),
        environment_json=json.dumps({"cpu": EVIL}),
        scores={"judge": 0.5, EVIL: 0.5},
    )
    bad = make_result("lora r=4 fp32", rank=4, status="error", message=EVIL, log_file=EVIL)
    examples = tuple(dataclasses.replace(each, prompt=EVIL, prediction=EVIL, target=EVIL) for each in row.examples)
    made = (dataclasses.replace(row, examples=examples), bad)
    named = (dataclasses.replace(each, row=dataclasses.replace(each.row, suite=EVIL)) for each in made)
    text = page.html(collect(store(tmp_path / "r", *named)))
    assert "<script>alert" not in text
    assert "<img" not in text
    found = PageData(text)
    assert found.open == []
    assert found.parts["samples"][0]["prompt"] == EVIL
    assert [each["message"] for each in found.core["troubles"]] == [EVIL]
    assert found.core["suite"] == EVIL


def test_what_is_packed_is_json_without_nan_and_without_markup() -> None:
    given = {"a": [math.nan, math.inf, np.float64(1.23456789), np.int64(7), 2.0, None, True], "b": "<\u2028\ud800"}
    text = packing.packed(given)
    assert "<" not in text
    assert json.loads(text) == {"a": [None, None, 1.23457, 7, 2, None, True], "b": "<\u2028?"}


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Return results of three cells of which two are right on the same examples."""
    rows = []
    for rank, right in ((1, 0.5), (2, 0.5), (4, 0.9)):
        for seed in range(3):
            each = make_result(f"lora r={rank} fp32", rank=rank, seed=seed, scores={"judge": right}, examples=20)
            kept = [dataclasses.replace(e, outcome=float(e.index < 20 * right)) for e in each.examples]
            rows.append(dataclasses.replace(each, examples=tuple(kept)))
    return store(tmp_path / "r", *rows)


@pytest.mark.parametrize("room", [questions.ROOM, 10])
def test_the_page_can_count_the_draws_within_any_loss(judged: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(questions, "ROOM", room)
    (score,) = page_of(judged).core["scores"]
    asked, losses = score["questions"], answer(collect(judged)).decision.losses
    assert losses is not None
    counts = asked["counts"]
    statistics = np.frombuffer(base64.b64decode(asked["statistics"]), "<f4").reshape(len(asked["cells"]), len(counts))
    for points in (0.0, 0.1, 1.0, 2.0, 7.3, 36.0, 40.0, 50.0):
        at = np.float32(points / 100 + 1e-6)
        for share, own in zip(losses.probability(points / 100), statistics, strict=True):
            below = [count for count, loss in zip(counts, own, strict=True) if loss <= at]
            above = [count for count, loss in zip(counts, own, strict=True) if loss > at]
            assert max(below, default=0) <= round(share * asked["draws"]) < min(above, default=asked["draws"] + 1)
    for at, level in asked["levels"]:
        count = asked["enough"][round(1000 * float(level)) - questions.FIRST]
        reached = losses.probability(at) >= losses.level(at) if losses.good_enough(at).any() else np.zeros(3, bool)
        assert [own[counts.index(count)] <= np.float32(at + 1e-6) for own in statistics] == reached.tolist()
    assert (len(counts) > 100) == (room > 10)
    assert score["answer"]["words"][0].startswith("Take LoRA r=4: the only cell")
    assert score["scope"] == "new seeds and new examples"


@pytest.mark.parametrize(("room", "exact_from"), [(questions.ROOM, 0), (3 * 70, 0.5), (10, None)])
def test_percents_that_are_interpolated_are_known_as_such(
    judged: Path, monkeypatch: pytest.MonkeyPatch, room: int, exact_from: float | None
) -> None:
    monkeypatch.setattr(questions, "ROOM", room)
    asked = page_of(judged).core["scores"][0]["questions"]
    assert asked["exact_from"] == exact_from
    if exact_from is not None:
        counts = [count for count in questions._changes(asked["draws"]) if count >= exact_from * asked["draws"]]
        assert set(counts) <= set(asked["counts"])


def test_an_anatomy_that_cannot_be_started_is_one_warning(judged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(results: object) -> None:
        raise RuntimeError("no process")

    monkeypatch.setattr("peftbench.report.derived.anatomy.start", broken)
    monkeypatch.setattr("peftbench.report.guarded.shows_traceback", lambda: False)
    core = page_of(judged).core
    assert [text for text in core["warnings"] if "anatomy" in text or "NoneType" in text] == core["warnings"][:1]
    assert "no process" in core["warnings"][0]
    assert core["anatomy"] == []


def test_readings_of_an_anatomy_end_if_the_page_fails(judged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Started:
        stopped = False

        def stop(self) -> None:
            self.stopped = True

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    reading = Started()
    monkeypatch.setattr("peftbench.report.derived.anatomy.start", lambda results: reading)
    monkeypatch.setattr("peftbench.report.payload.assemble.significance", broken)
    with pytest.raises(KeyboardInterrupt):
        assemble.payload(collect(judged))
    assert reading.stopped


def test_without_outcomes_there_are_intervals_over_seeds_and_no_draws(tmp_path: Path) -> None:
    rows = [make_result(seed=seed, scores={"judge": 0.5 + seed / 10}, examples=0) for seed in range(3)]
    (score,) = page_of(store(tmp_path / "r", *rows)).core["scores"]
    assert score["questions"] is None
    assert score["answer"]["words"][0].startswith(
        "No answer: the outcomes of single examples cannot be used (a trial's examples are not stored)"
    )
    assert score["scope"] == "new seeds, on the same examples"
    assert score["low"][0] < 0.6 < score["high"][0]


def test_a_curve_has_the_mean_of_each_run_of_steps(tmp_path: Path) -> None:
    result = make_result(steps=6)
    steps = tuple(dataclasses.replace(step, loss=float(step.step)) for step in result.steps)
    results = collect(store(tmp_path / "r", dataclasses.replace(result, steps=steps[::-1])))
    assert details.curves(results) == [{"first": 1.0, "every": 1, "loss": [1, 2, 3, 4, 5, 6]}]
    most, details.MOST_POINTS = details.MOST_POINTS, 4
    try:
        assert details.curves(results) == [{"first": 1.0, "every": 2, "loss": [1.5, 3.5, 5.5]}]
    finally:
        details.MOST_POINTS = most


def test_settings_are_stored_once_and_those_that_differ_are_listed(tmp_path: Path) -> None:
    def settings(rate: float) -> str:
        return f'{{"method": "x", "train": {{"steps": 30, "learning_rate": {rate}}}, "evaluate": ["judge"]}}'

    folder = store(
        tmp_path / "r",
        make_result(settings_json=settings(0.1)),
        make_result("full fp32", "full", "fp32", None, settings_json=settings(0.001), workers=1),
    )
    found = page_of(folder)
    assert ["train.steps", "30"] in found.core["audit"]["common"]
    assert dict(found.core["audit"]["differing"])["train.learning_rate"] == ["0.001", "0.1"]
    unequal = "Not held equal, and not an axis of the grid (inputs): workers 1 (full fine-tuning), workers 2 (LoRA)."
    assert unequal in found.core["warnings"]
    stored = found.parts["settings"]
    place = stored["names"].index("train.learning_rate")
    assert {stored["values"][place][row[place]] for row in stored["sets"]} == {"0.1", "0.001"}
    assert len(stored["sets"]) == 2


def test_an_option_whose_default_is_derived_is_shown_with_its_meaning(tmp_path: Path) -> None:
    settings = json.dumps({"method": "llama_adapter", "options": {"layers": None}})
    made = make_result("llama_adapter r=10 fp32", "llama_adapter", rank=10, settings_json=settings)
    assert ["options.layers", "all but 2"] in page_of(store(tmp_path / "r", made)).core["audit"]["common"]


def test_the_page_is_the_same_in_another_process_without_torch(grid: Path, text: str, tmp_path: Path) -> None:
    code = (
        "import sys; from peftbench.report import render; render(sys.argv[1], sys.argv[2]); "
        "assert not {'torch', 'transformers', 'peft', 'matplotlib'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(grid), str(tmp_path / "again.html")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"})
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    "rows",
    [
        (make_result(status="oom"), make_result("full nf4", "full", "nf4", None, 0, "unsupported")),
        (make_result(steps=0, examples=0),),
    ],
    ids=["nothing finished", "no steps"],
)
def test_a_folder_with_little_in_it_still_has_a_page(tmp_path: Path, rows: tuple) -> None:
    found = page_of(store(tmp_path / "r", *rows))
    assert found.open == []
    assert len(found.core["cells"]["own"]) == len(rows)


def test_names_are_short_and_differ(tmp_path: Path) -> None:
    def names(*made: object) -> list[str]:
        folder = store(tmp_path / f"r{len(list(tmp_path.iterdir()))}", *made)
        return list(display_names(collect(folder).cells).values())

    full = make_result("full fp32", "full", "fp32", None)
    assert names(make_result(), full) == ["full fine-tuning", "LoRA r=8"]
    assert names(make_result(), make_result("lora r=8 bf16", precision="bf16")) == ["LoRA r=8 fp32", "LoRA r=8 bf16"]
    alike = make_result("lora r=8 once more fp32", rank=8, named_settings="")
    assert names(make_result(named_settings=""), alike) == ["LoRA r=8", "LoRA r=8 once more"]


def test_a_sentence_names_cells_as_the_table_does(tmp_path: Path) -> None:
    rows = [make_result("base fp32", "base", "fp32", None, None, scores={"judge": 0.5})]
    rows += [make_result(scores={"judge": 0.4}), make_result("qlora r=8 nf4", "qlora", "nf4", scores={"judge": 0.3})]
    below = " ".join(page_of(store(tmp_path / "r", *rows)).core["warnings"])
    assert "LoRA r=8 (40.0, the base 50.0)" in below
    assert "QLoRA r=8 (30.0" in below


def test_no_two_methods_look_the_same_and_each_can_be_seen() -> None:
    kinds = ["full", "prompt_tuning", "prefix_tuning", "adapter", "llama_adapter", "lora", "qlora"]
    styles = [style_of(kind) for kind in kinds]
    assert len({style.shape for style in styles}) == len(kinds)
    assert len({style.light for style in styles}) == len(kinds)
    imported = ["adaptionprompt", "full-finetuning", "ia3", "lily", "prefixtuning"]  # as another benchmark names them
    assert len({(style_of(kind).shape, style_of(kind).light) for kind in imported}) == len(imported)
    assert len(LIGHT) == len(DARK) == 8 < len(SHAPES)
    for colors, paper in ((LIGHT, 1.0), (DARK, luminance("#16181d"))):
        for color in colors:
            bright, dim = sorted((luminance(color), paper), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.0, color


def luminance(color: str) -> float:
    rgb = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_what_would_make_a_page_too_large_is_in_files_beside_it(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, beside = tmp_path / "my page.html", tmp_path / "my page.files"
    monkeypatch.setattr(page, "LARGEST", 1000)
    text = render(grid, output).read_text()
    found = PageData(text)
    assert found.parts == {}
    assert ("body", {"data-files": "my page.files"}) in found.tags
    names = {path.name for path in beside.iterdir()}
    assert {"curves-0.js", "ledgers-0.js", "settings.js", "environments.js", "samples.js"} == names
    curves = re.fullmatch(r'peftbenchPart\("curves-0",(.*)\);\n', (beside / "curves-0.js").read_text())
    assert curves is not None
    assert len(json.loads(curves[1])) == 43
    (beside / "of_somebody_else.js").write_text("let mine = 1;\n")
    monkeypatch.undo()
    assert "data-files" not in render(grid, output).read_text()
    assert [path.name for path in beside.iterdir()] == ["of_somebody_else.js"]
    (beside / "of_somebody_else.js").unlink()
    render(grid, output)
    assert not beside.exists()


def test_a_page_of_a_hundred_cells_has_at_most_two_megabytes(tmp_path: Path) -> None:
    from tests.support.many_results import make_many

    folder = make_many(tmp_path / "r", cells=99, seeds=3, steps=100, examples=20)
    text = page.html(collect(folder))
    assert len(PageData(text).core["cells"]["own"]) == 100
    assert len(text.encode()) < 2_000_000
