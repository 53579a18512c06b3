"""Layouts of published tables: a golden table of each from fixed rows, marks, several folders, each format."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from peftbench.errors import UserError
from peftbench.report import folders, published
from peftbench.report.published import arrange, latex, load, measured, writers
from peftbench.report.tables.latex import escaped
from tests.support import published_results as made
from tests.support.published_results import GOLDEN, LLAMA, ROBERTA, cell, folder, glue

LAYOUTS = tuple(load.layouts())


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    """Return the golden rows of a layout laid out, with published numbers or without."""
    root, parts = tmp_path_factory.mktemp("layouts"), {}

    def make(name: str, with_published: bool = True) -> arrange.LaidOut:
        if name not in parts:
            parts[name] = folders.read(made.folders(root / name, name))
        return arrange.laid_out(parts[name], load.layout(name), with_published)

    return make


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_its_golden_table(laid_out, name):
    """After a change that is meant: ``python -m tests.support.published_results``, and read the difference."""
    assert writers.write(laid_out(name), "md") == (GOLDEN / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_format_has_every_number(laid_out, name):
    table = laid_out(name)
    rows = list(csv.DictReader(io.StringIO(writers.write(table, "csv"))))
    keys = [column.key for column in table.columns]
    numbers = [one for line in table.lines for key in keys if (one := line.measured.get(key))]
    assert numbers
    assert sorted(row["mean"] for row in rows if row["mean"]) == sorted(str(one.value) for one in numbers)
    printed = [line.printed[key] for line in table.lines for key in keys if key in line.printed]
    assert sum(bool(row["published_table"]) for row in rows) == len(printed)
    values = {(row["cell"], row["column"]) for row in rows if row["mean"]}
    for row in rows:
        beside = (row["cell"], row["column"]) in values and row["published_table"] and row["column"] != "Avg"
        assert (row["badge"] in ("same protocol", "differs", "unknown")) is bool(beside)
    page = writers.write(table, "html")
    for line in table.lines:
        assert page.count(f"<td class=head>{line.head[-1]}</td>")
    assert page.count("<li>") == len(table.notes)
    tex = writers.write(table, "tex")
    assert "*" not in re.sub(r"\\multirow\[t\]\{\d+\}\{\*\}", "", tex), "an asterisk is no mark"
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{table}") >= 1
    for body in re.findall(r"\\toprule\n(.*?)\\bottomrule", tex, flags=re.DOTALL):
        lines = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert max(line.count(" & ") + 1 for line in lines) <= latex.MOST_COLUMNS
        assert len({line.count(" & ") for line in lines}) == 1


def test_without_published_numbers_there_are_measured_rows_only(laid_out):
    table = laid_out("lora-t2", with_published=False)
    assert len(table.lines) == 3
    assert {column.key for column in table.columns} == {"SST2", "RTE"}
    text = writers.write(table, "md")
    assert "source" not in text
    assert "Hu et al." not in text


def test_published_numbers_stand_under_the_measured_ones_with_one_note_for_equal_badges(laid_out):
    """The paper's Table 2 has one LoRA of 295 k parameters; its repository prints 800 k for the same row."""
    table = laid_out("lora-t2")
    assert len(table.notes) <= 4
    rows = [row for row in table.rows if row.line.head[:2] == ("RoBERTa base", "full fine-tuning")]
    assert [(row.is_published, row.line.source) for row in rows] == [
        (False, "table 2"),
        (True, "table 2"),
        (True, "README"),
    ]
    text = writers.write(table, "md")
    assert "\n|  |  |  | table 2 \\[4\\] | 87.5 ± 0.3 | 95.1 ± 0.2, out, differs |" in text
    assert "\n\\[4\\] Differs: statistic over seeds (median; here mean), seeds (5; here 3), " in text
    tex = writers.write(table, "tex")
    assert r" & table 2\textsuperscript{4} & " in tex
    assert r"86.6 \pm 0.7{\,$\notin$$\neq$}" in tex


def test_bold_underlined_and_daggers_are_of_significant_differences_only(tmp_path):
    cells = [
        cell(ROBERTA, method, {"sst2": right}, [glue("sst2")], rank, options=options, examples=872)
        for method, rank, right, options in (
            ("full", None, 0.95, {}),
            ("lora", 8, 0.80, {}),
            ("adapter", 64, 0.60, {"kind": "houlsby"}),
        )
    ]
    parts = folders.read([folder(tmp_path / "clear", *cells, tasks=("sst2",))])
    table = arrange.laid_out(parts, load.layout("lora-t2"), False)
    assert [line.measured["SST2"].mark for line in table.lines] == ["best", "second", "worse"]
    text = writers.write(table, "md")
    assert re.search(r"\*\*9\d\.\d ± \d\.\d\*\* ", text)
    assert re.search(r"<u>\d+\.\d ± \d\.\d</u> ", text)
    assert re.search(r"\d ± \d\.\d † ", text)
    assert "Bold: significantly better than every other row" in text
    tex = writers.write(table, "tex")
    assert r"\bfseries 9" in tex
    assert r"\underline{\tablenum[" in tex
    assert r"{\textsuperscript{$\dagger$}}" in tex
    alike = [
        cell(ROBERTA, method, {"sst2": 0.9}, [glue("sst2")], rank, examples=50)
        for method, rank in (("full", None), ("lora", 8))
    ]
    parts = folders.read([folder(tmp_path / "alike", *alike, tasks=("sst2",))])
    table = arrange.laid_out(parts, load.layout("lora-t2"), False)
    assert {line.measured["SST2"].mark for line in table.lines} == {""}
    assert "No row is significantly better or worse" in writers.write(table, "md")


def test_latex_groups_no_decimals(laid_out):
    """siunitx writes 0.5659 as "0.565,9" if it may."""
    assert "group-digits=integer" in writers.write(laid_out("hf-method-comparison"), "tex")


@pytest.mark.parametrize("with_published", [False, True])
def test_latex_shows_the_intervals_that_its_caption_and_marks_speak_of(laid_out, with_published):
    table = laid_out("hf-method-comparison", with_published)
    tex = writers.write(table, "tex")
    said = "Single runs, in brackets the 95 % interval for new examples, these checkpoints; n = 1,319 test examples."
    assert said in writers.write(table, "md")
    assert said.replace("%", r"\%") in tex
    first, *rest = (line for line in table.lines if line.row)
    one = first.measured["test_accuracy"]
    assert rest
    written = rf"{{\scriptsize [{one.low:.2f}, {one.high:.2f}]}} & {{\scriptsize }} "
    above, below = tex.partition(written)[0].splitlines()[-2:]
    assert f"{one.value:.2f} & " in above
    assert not below.strip(" &"), "heads and source stand above"
    assert with_published or rf"\multirow[t]{{{2 * (1 + len(rest))}}}{{*}}{{LLaMA 3.2 3B}}" in tex


def test_single_runs_of_costs_have_no_intervals(tmp_path):
    rows = cell("huggyllama/llama-7b", "qlora", {"x": 0.5}, [made.task("x", None)], 64, "nf4", seeds=1, examples=4)
    text = published.text([folder(tmp_path / "a", rows, tasks=("x",))], "qlora-memory", "md")
    assert "\nSingle runs.  \n" in text


def test_single_runs_have_no_marks(tmp_path):
    cells = [
        cell(ROBERTA, method, {"sst2": right}, [glue("sst2")], rank, seeds=1, examples=400)
        for method, rank, right in (("full", None, 0.95), ("lora", 8, 0.5))
    ]
    parts = folders.read([folder(tmp_path / "a", *cells, tasks=("sst2",))])
    table = arrange.laid_out(parts, load.layout("lora-t2"), False)
    assert {line.measured["SST2"].mark for line in table.lines} == {""}
    text = writers.write(table, "md")
    assert "Single runs, in brackets the 95 % interval for new examples, these checkpoints; n = 400" in text
    assert "No differences were tested." in text


def test_a_single_run_without_its_examples_has_the_interval_of_its_stored_standard_error(tmp_path):
    rows = cell(ROBERTA, "lora", {"sst2": 0.9}, [glue("sst2")], 8, seeds=1, examples=400)
    bare = [
        replace(one, examples=(), scores=tuple(replace(s, standard_error=0.01) for s in one.scores)) for one in rows
    ]
    parts = folders.read([folder(tmp_path / "a", bare, tasks=("sst2",))])
    (line,) = arrange.laid_out(parts, load.layout("lora-t2"), False).lines
    one = line.measured["SST2"]
    assert one.over == "new examples, these checkpoints (from the stored standard error)"
    assert (one.high - one.low) / 2 == pytest.approx(100 * 1.959964 * 0.01)


def test_tasks_in_folders_of_their_own_are_one_row_and_base_models_stand_apart(tmp_path):
    size = {"trainable_parameters": 294_912}
    rte = folder(tmp_path / "rte", cell(ROBERTA, "lora", {"rte": 0.7}, [glue("rte")], 8, **size), tasks=("rte",))
    cola = cell(
        ROBERTA, "lora", {"cola": 0.8}, [glue("cola")], 8, metrics={"matthews": 0.6}, **size
    )  # fmt: skip
    other = cell("FacebookAI/roberta-large", "lora", {"rte": 0.8}, [glue("rte")], 8, trainable_parameters=786_432)
    parts = folders.read([
        rte,
        folder(tmp_path / "cola", cola, tasks=("cola",)),
        folder(tmp_path / "large", other, tasks=("rte",)),
    ])  # fmt: skip
    table = arrange.laid_out(parts, load.layout("lora-t2"), False)
    assert [line.head[:2] for line in table.lines] == [("RoBERTa base", "LoRA"), ("RoBERTa large", "LoRA")]
    assert table.lines[0].measured.keys() == {"RTE", "CoLA"}
    assert table.lines[0].measured["CoLA"].value == pytest.approx(60.0), "the metric of the table, not the headline"


def test_the_same_cell_of_two_folders_is_two_rows_that_are_told_apart(tmp_path):
    paths = [
        folder(tmp_path / name, cell(ROBERTA, "lora", {"rte": 0.7}, [glue("rte")], 8), tasks=("rte",)) for name in "ab"
    ]
    table = arrange.laid_out(folders.read(paths), load.layout("lora-t2"), False)
    assert [line.head[1] for line in table.lines] == ["LoRA, a", "LoRA, b"]


def test_a_mean_needs_all_its_columns_and_has_an_interval_if_one_cell_has_them(laid_out):
    lines = [line for line in laid_out("llm-adapters-math").lines if line.row]
    for line in lines:
        each = [line.measured[key].value for key in ("GSM8K", "AQuA", "MAWPS", "SVAMP")]
        mean = line.measured["Avg"]
        assert mean.value == pytest.approx(sum(each) / 4)
        assert mean.low is not None
        assert mean.low < mean.value < mean.high
        assert mean.sd is not None
    assert all("Avg" not in line.measured for line in laid_out("lora-t2").lines)


def test_cells_that_did_not_finish_say_how_they_ended(tmp_path):
    from tests.support.results_factory import make_result

    settings = cell(ROBERTA, "full", {"rte": 0.6}, [glue("rte")], seeds=1, examples=4)[0].row.settings_json
    broken = [make_result("full fp32", "full", "fp32", None, 0, "oom", {}, base="roberta-base", settings_json=settings)]
    lora = cell(ROBERTA, "lora", {"rte": 0.6}, [glue("rte")], 8, seeds=2, examples=40, device="cpu")
    path = folder(tmp_path / "a", lora, broken, tasks=("rte",))
    text = published.text([path], "lora-t2", "md")
    assert "| RoBERTa base | full fine-tuning | – | oom |" in text
    assert "{oom}" in published.text([path], "lora-t2", "tex")


def test_a_metric_of_the_whole_test_set_has_an_interval_over_seeds_and_is_not_tested(laid_out):
    table = laid_out("lora-t3")
    bleu = [line.measured["BLEU"] for line in table.lines if line.row]
    assert all(one.adjusted_p is None and one.shown.metric == "bleu_lowercase" for one in bleu)
    assert "No differences were tested." in writers.write(table, "md")


def test_rows_that_were_not_treated_alike_are_named_under_the_table(tmp_path):
    cells = [
        cell(ROBERTA, method, {"rte": 0.7}, [glue("rte")], rank, examples=20, train={"weight_decay": decay})
        for method, rank, decay in (("full", None, 0.1), ("lora", 8, 0.0))
    ]
    path = folder(tmp_path / "a", *cells, tasks=("rte",))
    text = published.text([path], "lora-t2", "md")
    assert "Not held equal, and not an axis of the grid (training): weight_decay 0 (LoRA)" in text
    assert "weight_decay" in published.text([path], "lora-t2", "html")
    assert r"weight\_decay" in published.text([path], "lora-t2", "tex")
    alike = folder(tmp_path / "b", cells[0], tasks=("rte",))
    assert "Not held equal" not in published.text([alike], "lora-t2", "md")
    both = published.text([path, alike], "lora-t2", "md")
    assert "a: Not held equal" in both


def test_rows_of_one_head_stand_together_and_imported_ones_are_called_so(tmp_path):
    """Lily has two ranks and two states; imported rows may be those of the publication."""
    rows = cell("meta-llama/Llama-3.2-3B", "lora", {"gsm8k": 0.5}, [made.task("gsm8k", None)], 32, seeds=1, examples=4)
    own = folders.read([folder(tmp_path / "own", rows, tasks=("gsm8k",))])
    table = arrange.laid_out(own, load.layout("hf-method-comparison"), True)
    lily = [(line.head[2], line.source) for line in table.lines if line.head[1] == "Lily" and line.head[3] != "–"]
    assert lily == [("140", "June 2026"), ("140", "July 2026"), ("896", "June 2026"), ("896", "July 2026")]
    assert arrange._SAME_RUNS not in table.cautions
    foreign = [replace(one, row=replace(one.row, protocol=None)) for one in rows]
    imported = folders.read([folder(tmp_path / "imported", foreign, tasks=("gsm8k",))])
    assert arrange._SAME_RUNS in arrange.laid_out(imported, load.layout("hf-method-comparison"), True).cautions
    assert arrange._SAME_RUNS not in arrange.laid_out(imported, load.layout("hf-method-comparison"), False).cautions


def test_cells_that_only_guess_are_named_under_the_table(tmp_path):
    """Of CoLA with one answer for all, the table has Matthews' 0.0, which says less."""
    rows = cell(ROBERTA, "lora", {"cola": 0.0, "rte": 0.0}, [glue("cola"), glue("rte")], 8, seeds=1, examples=20)
    text = published.text([folder(tmp_path / "a", rows, tasks=("cola", "rte"))], "lora-t2", "md")
    assert "\nrte: every tuned cell scores 0, so nothing is compared; more steps may change that.\n" in text
    assert "cola: every" not in text, "of a column that the table does not have"


def test_a_smoke_run_is_called_no_measurement(tmp_path):
    rows = cell(ROBERTA, "lora", {"rte": 0.7}, [glue("rte")], 8, examples=20)
    environment = json.loads(rows[0].row.environment_json) | {"command": "peftbench run paper_lora_glue --smoke"}
    smoke = [replace(one, row=replace(one.row, environment_json=json.dumps(environment))) for one in rows]
    text = published.text([folder(tmp_path / "a", smoke, tasks=("rte",))], "lora-t2", "md")
    assert "smoke" in text.lower()


def test_a_task_of_another_data_set_does_not_count_although_its_name_does(tmp_path):
    other = glue("rte") | {"dataset": "me/other", "config": None}
    path = folder(tmp_path / "a", cell(ROBERTA, "lora", {"rte": 0.6}, [other], 8, examples=4), tasks=("rte",))
    with pytest.raises(UserError, match=r"--table lora-t2: no task of this table is in .*a: rte\. Allowed: MNLI: mnli"):
        published.text([path], "lora-t2")


def test_built_in_data_and_a_smoke_run_are_named_where_they_are_why_nothing_counts(tmp_path):
    tasks = [{"name": "rte", "kind": "choice", "builtin": "judge"}]
    rows = cell(ROBERTA, "lora", {"rte": 0.6}, tasks, 8, seeds=1, examples=4)
    with pytest.raises(UserError, match=r"a: rte \(built-in data\)\. Built-in data count for no table\. Allowed: MNLI"):
        published.text([folder(tmp_path / "a", rows, tasks=("rte",))], "lora-t2")
    environment = json.dumps(made.GPU | {"command": "peftbench run paper_lora_glue --smoke"})
    smoke = [replace(one, row=replace(one.row, environment_json=environment)) for one in rows]
    with pytest.raises(UserError, match=r"count for no table; a smoke run has them .* without --smoke\. Allowed"):
        published.text([folder(tmp_path / "b", smoke, tasks=("rte",))], "lora-t2")


def test_a_folder_without_the_costs_of_a_table_says_which_it_lacks(tmp_path):
    rows = cell(ROBERTA, "lora", {"rte": 0.6}, [glue("rte")], 8, seeds=1, examples=4)
    costs = {name: None for name in vars(rows[0].row) if name.startswith("peak_")}
    bare = [replace(one, row=replace(one.row, **costs)) for one in rows]
    said = r"no cost of this table is stored in .*a\. Needed is one of: base weights: peak_base_weights_bytes \+ peak_q"
    with pytest.raises(UserError, match=said):
        published.text([folder(tmp_path / "a", bare, tasks=("rte",))], "qlora-memory")


def test_a_folder_with_nothing_to_show_is_named(tmp_path):
    good = folder(tmp_path / "a", cell(ROBERTA, "lora", {"rte": 0.6}, [glue("rte")], 8, examples=4), tasks=("rte",))
    other = glue("trec") | {"dataset": "trec", "config": None}
    empty = folder(tmp_path / "b", cell(ROBERTA, "lora", {"trec": 0.6}, [other], 8, examples=4), tasks=("trec",))
    assert "Nothing of this table in: b." in published.text([good, empty], "lora-t2")


class _Balanced(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.widths: list[int] = []

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.widths.append(0)
        if tag in ("td", "th"):
            self.widths[-1] += int(dict(attrs).get("colspan") or 1)
        if tag not in ("meta", "p", "li"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("p", "li"):
            assert self.open.pop() == tag


def test_the_page_is_well_formed_and_escapes_names(tmp_path):
    name = "evil<script>alert(1)</script>&_%#$~^{}\\"
    path = folder(tmp_path / "a", cell(name, "lora", {"rte": 0.6}, [glue("rte")], 8, examples=4), tasks=("rte",))
    page = published.text([path], "lora-t2", "html", with_published=True)
    assert "<script" not in page
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    text = published.text([path], "lora-t2", "tex")
    assert r"\&\_\%\#\$\textasciitilde{}\textasciicircum{}\{\}\textbackslash{}" in text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a_b 50 % ± 2", r"a\_b 50 \% $\pm$ 2"),
        ("Größe", "Größe"),
        ("naïve ṩ", "naïve s"),
        ("模型 6", "[U+6A21][U+578B] 6"),
        ("a\nb\tc\x00", "a b c "),
        ("∈ 10⁶", r"$\in$ 106"),
    ],
)
def test_text_for_latex_has_no_character_that_fonts_lack(text, written):
    assert escaped(text) == written


def test_a_layout_of_ones_own_needs_only_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ntitle: My table\nrows: [base, method]\nneeds: []\npublished: []\ncolumns:\n"
        "  - { key: Q, unit: '%', scale: 100, metrics: [accuracy], task: { names: [quiz] } }\n",
        encoding="utf-8",
    )
    rows = cell(LLAMA, "lora", {"quiz": 0.5}, [made.task("quiz", None)], 8, examples=40)
    text = published.text([folder(tmp_path / "a", rows, tasks=("quiz",))], str(path))
    assert text.startswith("**My table**\n\n| base model | method | Q (%) |\n")
    assert "\nMean ± standard deviation over seeds (3), in brackets the 95 % interval for new seeds and new " in text
    assert "| LLaMA 7B | LoRA | " in text


def test_marks_are_within_one_folder_and_base_model(tmp_path):
    paths = []
    for name, right in (("a", 0.95), ("b", 0.5)):
        rows = cell(ROBERTA, "lora", {"rte": right}, [glue("rte")], 8, examples=400, cell=f"lora r=8 {name} fp32")
        paths.append(folder(tmp_path / name, rows, tasks=("rte",)))
    found = measured.rows(folders.read(paths), load.layout("lora-t2"))
    assert [row.values["RTE"].adjusted_p for row in found] == [None, None]


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_latex_of_each_layout_compiles(laid_out, tmp_path, name):
    """Needs pdflatex with booktabs, multirow and siunitx 3 (Debian: texlive-science)."""
    if shutil.which("pdflatex") is None:
        pytest.skip(
            "no pdflatex on this machine (Debian: texlive-latex-recommended texlive-science texlive-latex-extra)"
        )
    body = "\n".join(writers.write(laid_out(name, with_published), "tex") for with_published in (False, True))
    packages = (
        r"\usepackage[a4paper,margin=2cm]{geometry}\usepackage[T1]{fontenc}\usepackage{booktabs,multirow,siunitx}"
    )
    text = rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "table.tex").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "table.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert not re.search(r"Overfull|Missing character|Float too large", done.stdout), done.stdout[-3000:]
