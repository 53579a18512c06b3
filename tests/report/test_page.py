"""The report: tables in every format, and the page as parsed structure."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from peftbench.errors import UserError
from peftbench.records import units as fmt
from peftbench.report import render, table
from peftbench.report.collect import MEAN, collect
from peftbench.report.figures import panels
from peftbench.report.figures.draw import fill_of
from peftbench.report.figures.labels import push_apart
from peftbench.report.notes.definitions import DEFINED, definitions
from peftbench.report.notes.overview import overview
from peftbench.report.tables import comparison, rates
from peftbench.report.tables.settings import audit
from peftbench.results.store import record_grid
from tests.support.results_factory import ENVIRONMENT, TASKS, make_grid, make_result, store, wide_results

SECTIONS = [
    *("comparison", "ranks", "parameters", "memory-scores", "memory", "loss", "time"),
    *("samples", "failures", "settings", "environment", "definitions"),
]
VOID = {"meta", "link", "br", "wbr", "input", "img", "hr"}
ODD = r"a_b %&#$~^{}\<i>|é"


class Page(HTMLParser):
    """A page as ids, attributes, text per section, and what was left open."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sections: dict[str, str] = {}
        self.section: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append(tag)
        if "id" in named:
            self.ids.append(named["id"] or "")
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        if tag == "section":
            self.section = named["id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag
        if tag in ("td", "th", "dt", "dd"):
            self.handle_data(" ")
        if tag == "section":
            self.section = None

    def handle_data(self, data: str) -> None:
        if self.section:
            self.sections[self.section] = self.sections.get(self.section, "") + data


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_grid(tmp_path_factory.mktemp("results") / "quickstart")


@pytest.fixture(scope="session")
def text(grid: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(grid, tmp_path_factory.mktemp("page") / "deep" / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def page(text: str) -> Page:
    return Page(text)


# the page


def test_the_page_is_well_formed_and_holds_every_section(page: Page) -> None:
    assert page.open == []
    assert list(page.sections) == SECTIONS
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("script") == 1


def test_the_page_fetches_nothing(page: Page, text: str) -> None:
    assert all(address.startswith("#") for address in page.addresses)
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert "://" not in text
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text


def test_model_text_is_escaped(page: Page, text: str) -> None:
    assert "<script>alert" not in text
    assert "<script>alert('no')</script>" in page.sections["samples"]


def test_every_colour_of_a_figure_is_defined_for_light_and_dark(text: str) -> None:
    used = set(re.findall(r"var\((--\w+)", text))
    for name in used:
        assert len(re.findall(rf"{name}: #", text)) == 3, name
    assert "#010203" not in text


def test_failed_and_unsupported_cells_are_listed_with_their_reasons(page: Page) -> None:
    content = page.sections["failures"]
    assert "oom" in content
    assert "made up to be oom" in content
    assert "unsupported" in content
    assert "quantized weights have no gradient" in content
    assert "2 of 3 (1 oom)" in page.sections["comparison"]


def test_the_failures_section_is_none_without_failures(tmp_path: Path) -> None:
    folder = store(tmp_path / "r", make_result())
    page = Page(render(folder, tmp_path / "page.html").read_text())
    assert page.sections["failures"].split("\n", 2)[2].strip() == "none"


def test_each_method_has_its_ranks_against_precisions(page: Page) -> None:
    content = " ".join(page.sections["ranks"].split())
    lora = content[content.index("LoRA rank r") : content.index("QLoRA")]
    assert lora.startswith("LoRA rank r describe [%] r fp32 bf16 int8 2 ")
    assert lora.count("±") == 5 * 6  # four scores, throughput, train time; bytes are the same for every seed
    for title in ("base weights [MiB]", "peak train memory [MiB]", "throughput [tokens/s]", "train time [s]"):
        assert title in lora
    assert (
        "95 % t-interval over n = 3 seeds unless an entry gives another n. The mean over tasks is taken per" in content
    )
    assert "(n=2)" in content[: content.index("prompt tuning")]


def test_the_page_and_the_rank_tables_have_the_same_numbers(grid: Path, page: Page) -> None:
    content = re.sub(r"[|*#]|---:|\\", " ", table(grid, "ranks"))
    shown = " ".join(page.sections["ranks"].split())
    for line in filter(None, (" ".join(line.split()) for line in content.splitlines())):
        if re.match(r"\d+ \d", line) or line.startswith("Mean"):
            assert line in shown, line


def test_settings_that_differ_are_listed_and_shared_ones_once(tmp_path: Path) -> None:
    def settings(rate: float) -> str:
        return f'{{"method": "x", "train": {{"steps": 30, "learning_rate": {rate}}}, "evaluate": ["judge"]}}'

    folder = store(
        tmp_path / "r",
        make_result(settings_json=settings(0.1)),
        make_result("full fp32", "full", "fp32", None, settings_json=settings(0.001), workers=1),
    )
    content = " ".join(Page(render(folder, tmp_path / "page.html").read_text()).sections["settings"].split())
    assert "train.learning_rate 0.001 0.1" in content
    assert content.count("train.steps") == 1
    assert content.index("Equal in all rows") < content.index("train.steps")
    assert (
        "Not held equal, and not an axis of the grid (inputs): workers 1 (full fine-tuning), workers 2 (LoRA)."
        in content
    )


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
    assert content.endswith("1 of 3 trials ended ok, 0 unsupported, 1 skipped, 1 failed.")
    assert overview(collect(store(tmp_path / "s", rows[0]))).endswith("1 of 1 trial ended ok, 0 unsupported, 0 failed.")


def test_the_memory_table_has_the_predicted_peak_beside_the_measured_one(tmp_path: Path) -> None:
    def row(cell: str, seed: int, peak: int, predicted: int | None) -> object:
        facts = {"peak_train_bytes": peak, "predicted_train_bytes": predicted, "peak_base_weights_bytes": 500}
        return make_result(cell, "lora", "fp32", 8, seed, **facts)

    rows = (row("lora r=8 fp32", 0, 4096, 3072), row("lora r=8 fp32", 1, 8192, None), row("lora r=4 fp32", 0, 64, None))
    bars = panels.memory_bars(collect(store(tmp_path / "r", *rows)))
    assert bars.heads[-2:] == ("total", "predicted, first trial")
    assert {values[0]: values[-2:] for values in bars.rows} == {
        "lora r=8 fp32": ("6.0 KiB", "3.0 KiB (-25.0 %)"),
        "lora r=4 fp32": ("64 B", "–"),
    }
    (exact,) = panels.memory_bars(collect(store(tmp_path / "s", row("lora r=8 fp32", 0, 4096, 4096)))).rows
    assert exact[-1] == "4.0 KiB (exact)"
    assert panels.memory_bars(collect(store(tmp_path / "t", rows[2]))).heads[-1] == "total"


def test_the_page_is_the_same_in_another_process_without_torch(grid: Path, text: str, tmp_path: Path) -> None:
    code = (
        "import sys; from peftbench.report import render; assert 'matplotlib' not in sys.modules; "
        "render(sys.argv[1], sys.argv[2]); "
        "assert not {'torch', 'transformers', 'peft', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(grid), str(tmp_path / "again.html")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"})
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_drawing_changes_no_global_setting(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    render(store(tmp_path / "r", make_result()), tmp_path / "page.html")
    assert dict(matplotlib.rcParams) == before


def test_a_folder_where_nothing_finished_still_has_a_page(tmp_path: Path) -> None:
    folder = store(
        tmp_path / "r", make_result(status="oom"), make_result("full nf4", "full", "nf4", None, 0, "unsupported")
    )
    page = Page(render(folder, tmp_path / "page.html").read_text())
    assert list(page.sections) == SECTIONS
    assert "0 of 1 (1 oom)" in page.sections["comparison"]
    assert "–" in table(folder)


def test_a_trial_without_steps_and_examples_still_has_a_page(tmp_path: Path) -> None:
    folder = store(tmp_path / "r", make_result(steps=0, examples=0))
    assert list(Page(render(folder, tmp_path / "page.html").read_text()).sections) == SECTIONS


# the tables


def test_formats_agree_on_the_numbers(grid: Path) -> None:
    rows = {row["cell"]: row for row in csv.DictReader(io.StringIO(table(grid, "csv")))}
    lora = rows["lora r=8 fp32"]
    mean, sd = (100 * float(lora[f"score_judge_{part}"]) for part in ("mean", "sd"))
    peak = float(lora["peak_train_bytes_mean"]) / 2**20
    assert f"| {mean:.1f} ± {sd:.1f} |" in _line(table(grid, "md"), "lora r=8 fp32")
    assert f"| {peak:.2f} |" in _line(table(grid, "md"), "lora r=8 fp32")
    assert rf" & {mean:.1f} $\pm$ {sd:.1f} & " in _line(table(grid, "tex"), "lora r=8 fp32")
    assert f" {mean:.1f}±{sd:.1f} " in _line(table(grid, "text"), "lora r=8 fp32")
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
    entries = [entry.strip() for entry in _line(table(grid, "md"), "full nf4").strip("|\n").split("|")]
    assert entries == ["full nf4", *["–"] * 11, "unsupported"]


def test_a_single_seed_shows_no_spread(tmp_path: Path) -> None:
    folder = store(tmp_path / "r", make_result())
    for form in ("text", "md", "csv", "tex"):
        rows = [line for line in table(folder, form).splitlines() if "lora r=8" in line]
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
    page = Page(render(folder, tmp_path / "page.html").read_text())
    assert ODD in page.sections["comparison"]
    assert ODD in page.sections["parameters"]
    _compile(table(folder, "tex"), tmp_path)


def test_tex_has_booktabs_rules_and_compiles(grid: Path, tmp_path: Path) -> None:
    text = table(grid, "tex")
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert rule in text
    assert r"prompt\_tuning" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {12}
    _compile(text, tmp_path)


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


def test_labels_are_pushed_apart_in_order_and_stay_inside() -> None:
    placed = push_apart({"a": 50.0, "b": 51.0, "c": 99.0, "d": 20.0}, 14, 0, 100)
    values = sorted(placed.values())
    assert all(later - earlier >= 14 for earlier, later in pairwise(values))
    assert sorted(placed, key=placed.__getitem__) == ["d", "a", "b", "c"]
    assert placed["d"] == 20
    assert max(values) <= 100


def test_several_bases_keep_their_cells_apart(tmp_path: Path) -> None:
    results = []
    for base, score in (("nano", 0.25), ("micro", 0.75)):
        made = make_result(scores={"judge": score}, key=f"key{base}")
        results.append(dataclasses.replace(made, row=dataclasses.replace(made.row, base=base)))
    folder = store(tmp_path / "r", *results)
    rows = {row["cell"]: row["score_judge_mean"] for row in csv.DictReader(io.StringIO(table(folder, "csv")))}
    assert rows["lora r=8 fp32 (nano)"] == "0.25"
    assert rows["lora r=8 fp32 (micro)"] == "0.75"
    ranks = Page(render(folder, tmp_path / "page.html").read_text()).sections["ranks"]
    assert ranks.index("LoRA on micro") < ranks.index("75.0") < ranks.index("LoRA on nano") < ranks.index("25.0")


# which rows, and what is said about them


def test_only_rows_of_the_recorded_grid_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    wanted = [make_result(seed=seed, scores={"judge": 0.75}) for seed in (0, 1)]
    short = make_result(key="short", scores={"judge": 0.25}, finished_at="2026-11-23T00:00:00+00:00")
    other = make_result("adapter r=8 fp32", "adapter", key="other", scores={"elsewhere": 0.5})
    folder = store(tmp_path / "r", *wanted, short, other)
    record_grid(folder, [*(made.row.key for made in wanted), "to come"], "peftbench run mine.yaml --set x=1")
    assert _line(table(folder, "md"), "lora r=8 fp32").startswith("| lora r=8 fp32 | 75.0 ± 0.0 |")
    assert "adapter" not in table(folder, "csv")
    assert "elsewhere" not in table(folder, "csv")
    for form in ("text", "md", "tex"):
        assert "2 stored rows of other settings or suites are excluded." in table(folder, form)
        assert "1 of the grid's 3 trials has no result yet." in table(folder, form)
    text = render(folder, tmp_path / "page.html").read_text()
    assert "2 stored rows of other settings or suites" in Page(text).sections["comparison"]
    assert '<pre class="command"><code>peftbench run mine.yaml --set x=1</code></pre>' in text


def test_without_a_record_the_latest_rows_are_shown_and_older_ones_counted(tmp_path: Path) -> None:
    older = make_result(key="older", scores={"judge": 0.25}, finished_at="2026-11-20T00:00:00+00:00")
    content = table(store(tmp_path / "r", make_result(scores={"judge": 0.75}), older))
    assert "75.0" in _line(content, "lora")
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


def test_an_option_whose_default_is_derived_is_shown_with_its_meaning(tmp_path: Path) -> None:
    settings = json.dumps({"method": "llama_adapter", "options": {"layers": None}})
    made = make_result("llama_adapter r=10 fp32", "llama_adapter", rank=10, settings_json=settings)
    content = " ".join(
        Page(render(store(tmp_path / "r", made), tmp_path / "p.html").read_text()).sections["settings"].split()
    )
    assert "options.layers all but 2" in content


# the figures' numbers


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """LoRA with two seeds and other step losses, full fine-tuning with one."""
    made = []
    for seed, score, shift in ((0, 0.5, 0.0), (1, 0.7, 1.0)):
        sizes = {"trainable_parameters": 3000, "peak_train_bytes": 4_000_000, "peak_base_weights_bytes": 1_000_000}
        result = make_result(seed=seed, scores={"judge": score}, peak_activations_bytes=3_000_000, **sizes)
        steps = tuple(dataclasses.replace(step, loss=step.step + shift) for step in result.steps)
        made.append(dataclasses.replace(result, steps=steps))
    sizes = {"peak_base_weights_bytes": 2_000_000, "peak_train_bytes": 2_000_000}
    made.append(make_result("full fp32", "full", "fp32", None, 0, **sizes))
    return store(tmp_path / "r", *made)


def test_a_point_is_at_its_cells_mean(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    draw = panels.scatter

    def spy(points: list, *rest: object) -> str:
        seen.update({point.name: point for point in points})
        return draw(points, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(panels, "scatter", spy)
    (panel,) = panels.score_panels(collect(three), "trainable_parameters")
    lora = seen["lora r=8 fp32"]
    assert (lora.x, lora.y, lora.sd) == (3000, pytest.approx(60), pytest.approx(14.1421356))
    assert "<title>lora r=8 fp32: 60.0 ± 14.1 %</title>" in panel.svg


def test_of_many_cells_only_the_front_and_each_methods_best_are_drawn_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list] = []
    monkeypatch.setattr(panels, "scatter", lambda points, *rest: seen.append(points) or "")
    results = collect(store(tmp_path / "r", *wide_results(seeds=1, steps=2, examples=1), tasks=TASKS))
    assert len(results.tuned) == 86
    panels.score_panels(results, "trainable_parameters")
    for points in seen:
        full = [point for point in points if not point.faint]
        assert len(points) == 86
        assert {point.kind for point in full} == {cell.method for cell in results.tuned}
        assert len(full) < 20
        for point in points:
            best = all(point.y > other.y for other in points if other.x <= point.x and other is not point)
            assert not (best and point.faint), point.name
    bars, (losses, _) = panels.memory_bars(results), panels.loss_panels(results)
    assert bars is not None
    assert (bars.panel.svg.count("base weights: "), len(bars.rows)) == (23, 86)
    assert [len(panel.keys) for panel in losses] == [2, 5, 5, 5, 5, 5, 4]


def test_a_bars_parts_are_as_long_as_their_bytes(three: Path) -> None:
    bars = panels.memory_bars(collect(three))
    assert bars is not None
    svg = str(bars.panel.svg)
    assert "<title>lora r=8 fp32, base weights: 25.0 %</title>" in svg
    assert "<title>lora r=8 fp32, saved activations: 75.0 %</title>" in svg
    row = next(i for i, cell in enumerate(bars.rows) if cell[0] == "lora r=8 fp32")
    widths = []
    for part in re.findall(rf'id="memory-part{row}-\d+">.*?<path d="([^"]*)"', svg, re.S):
        xs = [float(x) for x in re.findall(r"[ML] ([-\d.]+) ", part)]
        widths.append(max(xs) - min(xs))
    assert widths == [pytest.approx(100, abs=0.01), pytest.approx(300, abs=0.01)]  # 400 pixels for four million bytes


def test_a_loss_curve_is_the_mean_over_seeds(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    draw = panels.curves

    def spy(own: list, *rest: object) -> str:
        seen.update({curve.name: curve for curve in own})
        return draw(own, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(panels, "curves", spy)
    _, window = panels.loss_panels(collect(three))
    assert window == 1
    lora = seen["lora r=8 fp32"]
    assert (lora.steps, lora.raw, lora.smooth) == ([1, 2, 3], [1.5, 2.5, 3.5], [1.5, 2.5, 3.5])


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


def test_a_marker_is_filled_by_the_measured_bits_per_weight(tmp_path: Path) -> None:
    assert [fill_of(bits) for bits in (32, 16.2, 9.1, None)] == ["full", "none", "bottom", "full"]
    masters = make_result("full bf16", "full", "bf16", None, base_bits_per_weight=32.0)
    narrow = make_result("lora r=8 bf16", precision="bf16", base_bits_per_weight=16.0)
    keys = [key.text for key in panels.marker_keys(collect(store(tmp_path / "a", masters, narrow)))]
    assert keys[-2:] == ["24 or more bits per weight of the base model", "12 to 24 bits per weight of the base model"]
    assert "bits" not in "".join(key.text for key in panels.marker_keys(collect(store(tmp_path / "b", masters))))


def test_each_untuned_base_has_a_line_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [make_result(scores={"judge": 0.9})]
    for base, score in (("nano", 0.25), ("micro", 0.5)):
        made = make_result("base fp32", "base", "fp32", None, None, scores={"judge": score}, key=f"key{base}")
        results.append(dataclasses.replace(made, row=dataclasses.replace(made.row, base=base)))
    seen = []
    monkeypatch.setattr(panels, "scatter", lambda points, lines, *rest: seen.append(lines) or "")
    panels.score_panels(collect(store(tmp_path / "r", *results)), "trainable_parameters")
    assert {"nano": 25.0, "micro": 50.0}.items() <= seen[0].items()
    assert list(panels._base_names(["org/Qwen2.5-0.5B", "org/Qwen2.5-1.5B"]).values()) == ["Qwen…0.5B", "Qwen…1.5B"]
    assert len(set(panels._base_names(["a-0.5B-Instruct", "a-0.7B-Instruct"]).values())) == 2


def test_long_task_names_differ_on_a_terminal(tmp_path: Path) -> None:
    tasks = ("a_family_of_tasks_one", "a_family_of_tasks_two")
    folder = store(tmp_path / "r", make_result(scores=dict.fromkeys(tasks, 0.5)), tasks=tasks)
    assert table(folder).split()[1:3] == ["a_fami…s_one", "a_fami…s_two"]


def test_definitions_go_by_the_headings_that_are_shown(grid: Path) -> None:
    results = collect(grid)
    named = {column: heading for column, heading in DEFINED.items() if column not in ("peak_base_weights_bytes",)}
    shown = {column.title for column in comparison.table(results).columns} | set(panels.MEMORY.values())
    shown |= set(panels.PHASES.values()) | {"untimed"} | set(rates.HEADS)
    assert set(named.values()) <= shown
    assert ("throughput (tokens_per_second)") in dict(definitions(results))
    assert "Pareto front" in dict(definitions(results))["on the front"]
