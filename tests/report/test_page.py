"""The report: tables in every format, what is refused, and which rows are shown."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from peftbench.errors import UserError
from peftbench.records import units as fmt
from peftbench.report import render, table
from peftbench.report.collect import MEAN, collect
from peftbench.report.notes.overview import overview
from peftbench.report.tables import comparison
from peftbench.report.tables.settings import audit
from peftbench.results.store import record_grid
from tests.support.page_data import PageData
from tests.support.results_factory import ENVIRONMENT, TASKS, make_grid, make_result, store

ODD = r"a_b %&#$~^{}\<i>|é"


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_grid(tmp_path_factory.mktemp("results") / "quickstart")


@pytest.fixture(scope="session")
def text(grid: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(grid, tmp_path_factory.mktemp("page") / "deep" / "page.html").read_text(encoding="utf-8")


# the page


def test_a_default_is_shown_beside_another_value_of_a_setting_that_was_added_later(tmp_path: Path) -> None:
    def row(method: str, **train: object) -> object:
        settings = {"method": method, "train": {"steps": 30, **train}, "base": {"source": "x"}}
        cell = f"{method} packing={bool(train)} fp32"
        return make_result(cell, method, "fp32", None, settings_json=json.dumps(settings), schema_version=1)

    base = make_result("base fp32", "base", "fp32", None, None, settings_json='{"method": "base", "train": null}')
    rows = (row("full", packing=True), row("full"), row("lora"), row("adapter", packing=True), base)
    held = audit(collect(store(tmp_path / "r", *rows)))
    (packing,) = (values for name, values in held.differing if name == "train.packing")
    assert dict(zip(held.methods, packing, strict=True)) == {
        "untuned base": "–",
        "full fine-tuning": "no, yes",
        "LoRA": "no",
        "bottleneck adapter": "yes",
    }
    held = audit(collect(store(tmp_path / "s", row("full"), row("lora"))))
    assert ("train.packing", "no") in held.common
    assert "train.seconds" not in dict(held.common)  # null in all rows


def test_skipped_trials_are_not_counted_as_failures(tmp_path: Path) -> None:
    rows = [
        make_result("lora r=8 fp32", seed=seed, status=status) for seed, status in enumerate(["ok", "skipped", "oom"])
    ]
    content = overview(collect(store(tmp_path / "r", *rows)))
    assert content.endswith("1 of 3 trials ended ok, 1 skipped, 1 failed.")
    assert overview(collect(store(tmp_path / "s", rows[0]))).endswith("1 of 1 trial ended ok, none failed.")


# the tables


def test_formats_agree_on_the_numbers(grid: Path) -> None:
    rows = {row["cell"]: row for row in csv.DictReader(io.StringIO(table(grid, "csv")))}
    lora = rows["lora r=8 fp32"]
    mean, sd = (100 * float(lora[f"score_judge_{part}"]) for part in ("mean", "sd"))
    peak = float(lora["peak_train_bytes_mean"]) / 2**20
    assert f"| {mean:.1f} ± {sd:.1f} |" in _line(table(grid, "md"), "LoRA r=8 fp32")
    assert f"| {peak:.2f} |" in _line(table(grid, "md"), "LoRA r=8 fp32")
    assert rf" & {mean:.1f} $\pm$ {sd:.1f} & " in _line(table(grid, "tex"), "LoRA r=8 fp32")
    assert f" {mean:.1f}±{sd:.1f} " in _line(table(grid, "text"), "LoRA r=8 fp32")
    assert len(rows) == len(comparison.table(collect(grid)).rows) == 17


def test_means_are_of_ok_rows_only(grid: Path) -> None:
    row = next(row for row in csv.DictReader(io.StringIO(table(grid, "csv"))) if row["cell"] == "full fp32")
    assert (row["seeds_ok"], row["seeds_run"], row["not_ok"]) == ("2", "3", "1 oom")


def test_csv_is_raw_and_its_names_carry_units(grid: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(table(grid, "csv"))))
    base = rows[0]
    assert base["cell"] == "base fp32"
    assert base["checkpoint_bytes_mean"] == base["score_judge_sd"] == base["rank"] == ""
    assert {"peak_train_bytes_mean", "train_seconds_mean", "tokens_per_second_mean"} <= set(base)
    for row in rows:
        for name, value in row.items():
            if name not in ("cell", "method", "precision", "not_ok") and value:
                float(value)


def test_null_is_a_dash_and_never_zero(grid: Path) -> None:
    entries = [entry.strip() for entry in _line(table(grid, "md"), "full fine-tuning nf4").strip("|\n").split("|")]
    assert entries == ["full fine-tuning nf4", *["–"] * 11, "unsupported"]


def test_a_single_seed_shows_no_spread(tmp_path: Path) -> None:
    folder = store(tmp_path / "r", make_result())
    for form, name in (("text", "LoRA r=8"), ("md", "LoRA r=8"), ("csv", "lora r=8 fp32"), ("tex", "LoRA r=8")):
        rows = [line for line in table(folder, form).splitlines() if name in line]
        assert rows
        assert not any("±" in line or "pm" in line for line in rows)
    assert "there is no spread" in table(folder)


def test_the_terminal_table_fits_a_wide_terminal(grid: Path) -> None:
    lines = table(grid).splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[0].split() == ["cell", *TASKS, "mean", "params", "base", "peak", "train", "speed", "saved", "n"]
    assert lines[1].split() == ["%", "%", "%", "%", "MiB", "MiB", "s", "tokens/s", "KiB"]


def test_markdown_has_one_shape(grid: Path) -> None:
    rows = [line for line in table(grid, "md").splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {14}


def test_odd_task_names_survive_in_every_format(tmp_path: Path) -> None:
    results = [make_result(scores={ODD: 0.5}), make_result("full fp32", "full", "fp32", None, scores={ODD: 0.7})]
    folder = store(tmp_path / "r", *results, tasks=(ODD,))
    assert f"score_{ODD}_mean" in next(csv.reader(io.StringIO(table(folder, "csv"))))
    assert r"a\_b \%\&\#\$\textasciitilde{}\textasciicircum{}\{\}\textbackslash{}" in table(folder, "tex")
    assert r"\\\<i\>\|é" in table(folder, "md")
    page = PageData(render(folder, tmp_path / "page.html").read_text())
    assert [each["task"] for each in page.core["scores"]] == [ODD]
    _compile(table(folder, "tex"), tmp_path)


def test_tex_has_booktabs_rules_and_compiles(grid: Path, tmp_path: Path) -> None:
    text = table(grid, "tex")
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert rule in text
    assert "\nprompt tuning r=20 & " in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {12}
    _compile(text, tmp_path)
    tuner = make_result("peft PROMPT_TUNING r=20 fp32", "peft", "fp32", 20)
    named = table(store(tmp_path / "r", tuner), "tex")
    assert "\npeft PROMPT\\_TUNING r=20 & " in named
    _compile(named, tmp_path)


def _compile(text: str, folder: Path) -> None:
    """Compile a tabular where there is a pdflatex; else see that its braces and environments close."""
    if not shutil.which("pdflatex"):
        bare = re.sub(r"\\[{}]", "", text)
        assert bare.count("{") == bare.count("}")
        assert text.count(r"\begin{") == text.count(r"\end{")
        return
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}\begin{document}"
    (folder / "t.tex").write_text(rf"{head}\resizebox{{\textwidth}}{{!}}{{%" + f"\n{text}}}\\end{{document}}\n")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def _line(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.lstrip("| ").startswith(start))


# refusals


@pytest.mark.parametrize(("column", "value"), [("protocol", 99), ("device", "cuda"), ("memory_kind", "allocator")])
def test_rows_that_are_not_comparable_are_refused_with_the_column(column: str, value: object, tmp_path: Path) -> None:
    folder = store(tmp_path / "r", make_result(), make_result("full fp32", "full", "fp32", None, **{column: value}))
    for write_it in (lambda: render(folder, tmp_path / "page.html"), lambda: table(folder, "csv")):
        with pytest.raises(UserError, match=column):
            write_it()
    assert not (tmp_path / "page.html").exists()


def test_bad_input_is_a_user_error(grid: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'tex'"):
        table(grid, "latex")
    with pytest.raises(UserError):
        render(tmp_path / "nowhere", tmp_path / "page.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        render(grid, tmp_path / "file" / "page.html")


# numbers and places


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (fmt.memory(3_250_586), "3.1 MiB"),
        (fmt.memory(500), "500 B"),
        (fmt.memory(None), "–"),
        (fmt.count(1_234_567), "1.2 M"),
        (fmt.count(0), "0"),
        (fmt.count(7e9), "7.0 B"),
        (fmt.percent(0.813), "81.3 %"),
        (fmt.percent(float("nan")), "–"),
        (fmt.share(0.00041), "0.041 %"),
        (fmt.share(1.0), "100 %"),
        (fmt.seconds(0.523), "0.52 s"),
        (fmt.seconds(245.2), "4 min 05 s"),
        (fmt.seconds(7500), "2 h 05 min"),
        (fmt.number(3.14159), "3.14"),
        (fmt.number(0.0123), "0.0123"),
        (fmt.number(12345.6), "12,346"),
        (fmt.number(0), "0"),
        (fmt.spread(0.8134, 0.0123, 100), "81.3 ± 1.2"),
        (fmt.spread(0.8134, None, 100), "81.3"),
        (fmt.spread(None, None), "–"),
        (fmt.integer(12345), "12,345"),
    ],
)
def test_numbers_are_written_with_their_unit(made: str, expected: str) -> None:
    assert made == expected


def test_a_column_of_bytes_takes_the_unit_of_its_middle() -> None:
    assert fmt.byte_unit([600, 40_000, 3_000_000]).name == "KiB"
    assert fmt.byte_unit([None, 7e9, 8e9]).name == "GiB"
    assert fmt.byte_unit([]).name == "MiB"


def test_several_bases_keep_their_cells_apart(tmp_path: Path) -> None:
    results = []
    for base, score in (("nano", 0.25), ("micro", 0.75)):
        made = make_result(scores={"judge": score}, key=f"key{base}")
        results.append(dataclasses.replace(made, row=dataclasses.replace(made.row, base=base)))
    folder = store(tmp_path / "r", *results)
    rows = {row["cell"]: row["score_judge_mean"] for row in csv.DictReader(io.StringIO(table(folder, "csv")))}
    assert rows["lora r=8 fp32 (nano)"] == "0.25"
    assert rows["lora r=8 fp32 (micro)"] == "0.75"
    ranks = table(folder, "ranks")
    assert ranks.index("LoRA on micro") < ranks.index("75.0") < ranks.index("LoRA on nano") < ranks.index("25.0")
    page = PageData(render(folder, tmp_path / "page.html").read_text())
    assert page.core["cells"]["name"] == ["LoRA r=8 on micro", "LoRA r=8 on nano"]


# which rows, and what is said about them


def test_only_rows_of_the_recorded_grid_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    wanted = [make_result(seed=seed, scores={"judge": 0.75}) for seed in (0, 1)]
    short = make_result(key="short", scores={"judge": 0.25}, finished_at="2026-11-23T00:00:00+00:00")
    other = make_result("adapter r=8 fp32", "adapter", key="other", scores={"elsewhere": 0.5})
    folder = store(tmp_path / "r", *wanted, short, other)
    record_grid(folder, [*(made.row.key for made in wanted), "to come"], "peftbench run mine.yaml --set x=1")
    assert _line(table(folder, "md"), "LoRA r=8").startswith("| LoRA r=8 | 75.0 ± 0.0 |")
    assert "adapter" not in table(folder, "csv")
    assert "elsewhere" not in table(folder, "csv")
    for form in ("text", "md", "tex"):
        assert "2 stored rows of other settings or suites are excluded." in table(folder, form)
        assert "1 of the grid's 3 trials has no result yet." in table(folder, form)
    text = render(folder, tmp_path / "page.html").read_text()
    assert "2 stored rows of other settings or suites" in " ".join(PageData(text).core["warnings"])
    assert PageData(text).core["command"] == f"peftbench run mine.yaml --set x=1 -o {folder}"


def test_without_a_record_the_latest_rows_are_shown_and_older_ones_counted(tmp_path: Path) -> None:
    older = make_result(key="older", scores={"judge": 0.25}, finished_at="2026-11-20T00:00:00+00:00")
    content = table(store(tmp_path / "r", make_result(scores={"judge": 0.75}), older))
    assert "75.0" in _line(content, "LoRA r=8")
    assert "1 stored row older, of the same cells and seeds, is excluded." in content


def test_a_grid_without_any_result_is_a_user_error(tmp_path: Path) -> None:
    folder = store(tmp_path / "r", make_result())
    record_grid(folder, ["to come"], "peftbench run x")
    with pytest.raises(UserError, match="run the suite again"):
        table(folder)


def test_every_tasks_metric_is_named(grid: Path) -> None:
    content = "Metrics: ROUGE-L (describe), exact match (compute), accuracy (judge); mean: unweighted."
    for form in ("text", "md"):
        assert content in table(grid, form)
    assert f"% {content}" in table(grid, "tex")
    assert "exact match" not in table(grid, "csv")


@pytest.mark.parametrize(
    ("other", "same"), [({}, True), ({"data_sha256": "e" * 64}, False), ({"batches_sha256": "y"}, False)]
)
def test_the_page_reports_equal_batches_only_if_equal(tmp_path: Path, other: dict[str, str], same: bool) -> None:
    fields = {"batches_sha256": "x"} | other
    made = make_result("full fp32", "full", "fp32", None, **fields)
    folder = store(tmp_path / "r", make_result(batches_sha256="x"), made)
    text = render(folder, tmp_path / "page.html").read_text()
    assert ("every method saw the same examples" in text) is same


@pytest.mark.parametrize(
    ("loads", "content"),
    [
        ((3.8, 4.7), "Times are unreliable: the machine was loaded (load average 3.8 to 4.7 on 2 CPUs)."),
        ((1.9, 4.7), "Times of 1 of 2 trials are unreliable: the machine was loaded (load average 4.7 on 2 CPUs)."),
        ((1.9, 2.6), None),
        ((None, None), None),
    ],
)
def test_a_loaded_machine_is_reported(tmp_path: Path, loads: tuple[float | None, ...], content: str | None) -> None:
    machine = json.dumps(ENVIRONMENT | {"cpus_available": 2})
    rows = [make_result(seed=i, load_average=load, environment_json=machine) for i, load in enumerate(loads)]
    text = " ".join(table(store(tmp_path / "r", *rows)).split())
    assert content in text if content else "unreliable" not in text


# the figures' numbers


def test_the_mean_over_tasks_is_null_if_a_task_is_missing(tmp_path: Path) -> None:
    rows = [
        make_result(seed=0, scores={"judge": 0.2, "compute": 0.6}),
        make_result(seed=1, scores={"judge": 0.9}),
        make_result("full fp32", "full", "fp32", None, 0, scores={"judge": 0.9}),
    ]
    cells = {cell.method: cell for cell in collect(store(tmp_path / "r", *rows, tasks=("judge", "compute"))).cells}
    assert cells["lora"].mean(f"score_{MEAN}") == pytest.approx(0.4)
    assert cells["lora"].summary.spreads[f"score_{MEAN}"].n == 1
    assert cells["full"].mean(f"score_{MEAN}") is None


def test_long_task_names_differ_on_a_terminal(tmp_path: Path) -> None:
    tasks = ("a_family_of_tasks_one", "a_family_of_tasks_two")
    folder = store(tmp_path / "r", make_result(scores=dict.fromkeys(tasks, 0.5)), tasks=tasks)
    assert table(folder).split()[1:3] == ["…one", "…two"]
