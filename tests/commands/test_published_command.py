"""``report --table`` and ``list published``: what they print and write, and how they refuse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from peftbench import cli, suite
from peftbench.report.published import counted, load
from tests.support.published_results import ROBERTA, cell, folder, glue
from tests.support.results_factory import make_grid


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    rows = cell(ROBERTA, "lora", {"rte": 0.6}, [glue("rte")], 8, examples=40, trainable_parameters=294_912)
    return folder(tmp_path_factory.mktemp("published") / "glue", rows, tasks=("rte",))


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    return make_grid(tmp_path_factory.mktemp("grid") / "quickstart", seeds=2, examples=3)


@pytest.fixture
def command(capsys):
    """Run a command in this process; return its exit code, standard output and standard error."""

    def run(*argv):
        capsys.readouterr()
        code = cli.main([str(word) for word in argv])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_a_table_is_printed_as_markdown_and_published_numbers_are_asked_for(command, results):
    code, out, err = command("report", results, "--table", "lora-t2")
    assert (code, err) == (0, "")
    assert out.startswith("**GLUE with RoBERTa and DeBERTa**\n")
    assert "source" not in out
    code, out, _ = command("report", results, "--table", "lora-t2", "--published")
    assert code == 0
    assert "86.6 ± 0.7, out, differs" in out


@pytest.mark.parametrize(("format", "begins"), [("tex", "% needs"), ("csv", "table,folder,cell"), ("md", "**GLUE")])
def test_a_table_is_written_in_each_format(command, results, tmp_path, format, begins):
    path = tmp_path / f"out.{format}"
    code, out, _ = command("report", results, "--table", "lora-t2", "--published", "--format", format, "-o", path)
    assert (code, out) == (0, f"table: {path}\n")
    assert path.read_text(encoding="utf-8").startswith(begins)


def test_html_is_written_beside_the_pages(command, results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("report", results, "--table", "lora-t2", "--format", "html")
    assert (code, out) == (0, "table: reports/glue.lora-t2.html\n")
    assert (tmp_path / "reports" / "glue.lora-t2.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_rows_of_another_memory_figure_are_a_table_of_costs(command, grid):
    code, out, _ = command("report", grid, "--table", "qlora-memory", "--published")
    assert code == 0
    assert "| nano | LoRA | fp32 | 8 | " in out
    assert re.search(r"\| LLaMA 65B \| QLoRA \| – \| – \| figure \\\[\d\\\] \| 37,074", out)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--table", "lora-t22"), "--table: unknown table 'lora-t22'; did you mean 'lora-t2'? allowed: hf-method-comp"),
        (("--published",), "--published: needs --table with one of: hf-method-comparison, lit-llama, "),
        (
            ("--table", "lora-t2", "--format", "text"),
            "--format: unknown format 'text'; did you mean 'tex'? allowed: csv, ",
        ),
        (
            ("--table", "lora-t2", "--sort", "score"),
            "--table: decides columns, order and notes itself; --columns, --sort",
        ),
        (("--table", "lora-t2"), "--table lora-t2: no task of this table is in "),
        (("--table", "absent.yaml"), "absent.yaml cannot be read: No such file or directory"),
        (("--table", ""), "--table: unknown table ''; allowed: "),
    ],
)
def test_what_cannot_be_shown_is_refused(command, grid, options, said):
    code, out, err = command("report", grid, *options)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_a_table_is_not_written_among_the_results(command, results):
    code, _, err = command("report", results, "--table", "lora-t2", "-o", results / "trials" / "x.md")
    assert code == 2
    assert "only results are stored there" in err


def test_list_published_names_layouts_tables_and_mismatches(command):
    code, out, _ = command("list", "published")
    assert code == 0
    assert "lora-t2 " in out
    assert "dora_commonsense: llama-7b lora rank 16: average printed as 70.9, cells give 71.00" in out
    code, out, _ = command("list", "published", "pissa_t2_nlg")
    assert "trap       One learning rate (2e-5) for full, LoRA and PiSSA" in out
    assert "protocol   column GSM8K, MATH: training data MetaMathQA, training examples 100,000" in out
    code, out, _ = command("list", "published", "lora-t6")
    assert "tasks: wikisql, wiki_sql; data sets: Salesforce/wikisql, wikisql" in out
    code, _, err = command("list", "published", "lora2021_t2")
    assert code == 2
    assert "unknown table 'lora2021_t2'; did you mean 'lora2021_t" in err


def named(task, block):
    """Return a task's block as its settings are stored: an lm-eval task by its name."""
    return block | ({"lm_eval": task} if block.get("lm_eval") is True else {})


def test_the_suites_of_published_tables_have_tasks_that_their_layouts_count():
    """A suite's tasks are in its layout's columns: what a run of it stores is what the table shows."""
    pairs = {
        "paper_llm_adapters_math": ("llm-adapters-math", {"GSM8K", "AQuA", "MAWPS", "SVAMP"}),
        "paper_llm_adapters_commonsense": (
            "llm-adapters-commonsense",
            {"BoolQ", "PIQA", "SIQA", "HellaSwag", "WinoGrande", "ARC_e", "ARC_c", "OBQA"},
        ),
        "paper_qlora_precision": ("qlora-t4", {"7B_Alpaca"}),
        "paper_lora_e2e": ("lora-t3", {"BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"}),
        "paper_metamath_gsm8k": ("metamath-gsm8k", {"GSM8K"}),
    }
    for name, (layout, wanted) in pairs.items():
        tasks = yaml.safe_load(suite.find(name).read_text(encoding="utf-8"))["tasks"]
        found = {
            column.key
            for column in load.layout(layout).columns
            for task, block in tasks.items()
            if column.task and counted.matches(task, named(task, block), column.task)
        }
        assert wanted <= found, name


def test_the_heads_of_a_layout_stand_apart_from_their_texts(command):
    code, out, _ = command("list", "published", "hf-method-comparison")
    assert code == 0
    assert "\n  training loss  last_loss\n" in out
    assert "\n  rows           base, method, rank, parameters\n" in out
