"""The command line: one clear message for every bad input, the right exit code, and one suite run for real."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from peftbench import __version__, cli, suite
from peftbench.commands import listing, progress, terminal
from peftbench.errors import UserError
from peftbench.measure import device
from peftbench.methods import METHODS
from peftbench.methods.support import why_unsupported
from peftbench.models import builtin
from peftbench.models.precision import PRECISIONS
from peftbench.records import OPTIMIZERS, Status
from peftbench.results import store
from peftbench.results.store import CellAxes, damage, read, recorded_grid, write
from peftbench.runner.executor import Event, local
from peftbench.tasks import TASKS
from peftbench.tasks.templates import TEMPLATES
from tests.support import colours
from tests.support.results_factory import make_result
from tests.support.store_checks import contents, fill

ROOT = Path(__file__).parents[2]
SUITE = colours.suite(
    "models/tiny",
    """\
train:
  steps: 2
  batch_size: 4
  sequence_length: 32
methods:
  base:
  full: {precision: int8}
  lora: {rank: 4}
""",
)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working folder with a suite, its data, results of earlier, and what looks like a base."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    before = signal.getsignal(signal.SIGTERM)
    (tmp_path / "mine.yaml").write_text(SUITE)
    (tmp_path / colours.FILE).write_text(colours.DATA)
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "models" / "tiny" / "config.json").write_text("{}")
    (tmp_path / "models" / "tiny" / "model.safetensors").write_bytes(bytes(8))
    monkeypatch.setattr("peftbench.runner.preflight.bases.to_check", lambda trials: ())  # it only looks like a base
    fill(tmp_path / "results" / "mine", 2)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def command(capsys):
    """Run a command in this process; return its exit code, standard output and standard error."""

    def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli.main(argv)
        except SystemExit as end:  # argparse's own way
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def refused(place, command, monkeypatch):
    """Run a command that must be refused: one message, nothing printed, nothing stored is touched, no process."""

    def message(*argv: str) -> str:
        monkeypatch.setattr(local, "run", lambda *_: pytest.fail("the grid began to run"))
        before = stored(place)
        code, out, err = command(*argv)
        assert (code, out) == (2, ""), err
        assert err.startswith("peftbench: "), err
        assert "\npeftbench: " not in err
        assert "Traceback" not in err
        assert stored(place) == before
        return err

    return message


def stored(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (place / "results").rglob("*") if path.is_file()}


def swapped(old: str, new: str) -> str:
    assert SUITE.count(old) == 1
    return SUITE.replace(old, new)


BAD_SUITES = [
    (swapped("rank: 4", "rnak: 4"), ["mine.yaml:19: methods.lora.rnak", "unknown key 'rnak'", "did you mean 'rank'?"]),
    (swapped("steps: 2", "steps: two"), ["mine.yaml:13: train.steps: given 'two' (text); allowed: a whole number"]),
    (swapped("lora:", "lorra:"), ["mine.yaml:19: methods.lorra: unknown method 'lorra'", "did you mean 'lora'?"]),
    (
        swapped("  colour:\n", "  juge:\n  colour:\n"),
        ["unknown task 'juge'; did you mean 'judge'? allowed: compute"],
    ),
    (swapped("int8", "int9"), ["mine.yaml:18: methods.full.precision: unknown precision 'int9'", "mean 'int8'?"]),
    (SUITE + "evaluate: {split: validation}\n", ["mine.yaml:2: tasks: no task has a validation split"]),
    (swapped("choices: [", "choices: {"), ["mine.yaml:9: not YAML"]),
    ("", ["mine.yaml: the file is empty; a suite needs at least base, tasks and methods"]),
]


@pytest.mark.parametrize(("text", "parts"), BAD_SUITES)
@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_bad_suite_is_refused_with_line_and_key(place, refused, verb, text, parts):
    (place / "mine.yaml").write_text(text)
    message = refused(verb, "mine.yaml")
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["quikstart"], ["suite 'quikstart': no such file", "real_small", "did you mean 'quickstart'?"]),
        (["mien.yaml"], ["suite 'mien.yaml': no such file"]),
        (["models"], ["'models': this is a folder"]),
        (["mine.yaml", "--set", "train.stepz=3"], ["--set", "unknown key 'stepz'", "did you mean 'steps'?"]),
        (["mine.yaml", "--set", "train.steps"], ["--set", "'train.steps'", "KEY=VALUE"]),
        (["mine.yaml", "--only", "method=lorra"], ["--only method=lorra", "did you mean 'lora'?"]),
        (["mine.yaml", "--only", "metod=lora"], ["--only: unknown field 'metod'", "did you mean 'method'?"]),
        (["mine.yaml", "--seeds", "many"], ["--seeds: given 'many'; allowed: how many", "(0,5 or 100,)"]),
        (["mine.yaml", "--only", "method=lora,base,seed=0"], ["write --only method=lora,base --only seed=0"]),
        (["mine.yaml", "--set", "device=cuda"], ["device: cuda was asked for, but"]),
        (["real_small"], ["real_small.yaml", "PEFTBENCH_BASE"]),
    ],
)
def test_a_bad_argument_is_refused_with_what_is_allowed(place, refused, argv, parts, monkeypatch):
    monkeypatch.setattr("peftbench.measure.device.has_nvidia", lambda: False)
    for name in ("PEFTBENCH_BASE", "PEFTBENCH_TRAIN", "PEFTBENCH_TEST"):
        monkeypatch.delenv(name, raising=False)
    message = refused("run", *argv)
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        (None, None, ["task 'colour': no such file", "colours.csv", "did you mean 'colours.jsonl'?"]),
        ("colours.csv", "", ["task 'colour'", "colours.csv holds no examples"]),
        ("colours.csv", "thing,colour\n", ["colours.csv holds no examples"]),
        ("colours.csv", "thing,colour\nsky,blue\nsea\n", ["colours.csv, line 3: 1 fields, expected 2"]),
        (
            "colours.csv",
            "thing,color\nsky,blue\n",
            ["colours.csv, line 2 (example 1)", "'colour' is undefined", "thing, color"],
        ),
        (
            "colours.csv",
            "thing,colour\nsky,bleu\n",
            ["line 2 (example 1): unknown answer 'bleu'; did you mean 'blue'? allowed: blue"],
        ),
        ("colours.jsonl", colours.DATA + "{\n", ["colours.jsonl, line 7: not JSON"]),
        ("colours.jsonl", "[1]\n", ["colours.jsonl, line 1 (example 1): expected an object"]),
        ("colours.parquet", "PAR1", ["colours.parquet cannot be read as parquet"]),
        ("colours.doc", "sky blue\n", ["unknown file type '.doc'; allowed: .csv, .json"]),
        ("colours.txt", "sky blue\n", ["a template failed: 'colour' is undefined; the example has the fields: text"]),
    ],
)
def test_bad_data_is_refused_before_anything_runs(place, refused, name, content, parts):
    if name is not None:
        (place / name).write_text(content)
    message = refused("run", "mine.yaml", "--set", f"tasks.colour.train={name or 'colours.csv'}")
    for part in parts:
        assert part in message, message


def test_a_training_task_without_validation_split_is_refused_though_the_untuned_base_comes_first(place, refused):
    second = "\n  other:\n    validation_fraction: 0.5\n    kind: exact_match\n    train: colours.jsonl\n"
    second += '    prompt: "{{ thing }}"\n    target: "{{ colour }}"\nseeds: 1'
    text = swapped("\nseeds: 1", second).replace("  steps: 2\n", "  steps: 2\n  validate_every: 1\n")
    (place / "mine.yaml").write_text(text)
    assert "validate_every: no validation split or validation_fraction: colour" in refused("run", "mine.yaml")


@pytest.mark.parametrize(
    ("base", "parts"),
    [
        ("models/tny", ["base 'models/tny': no such folder", "(HF_HUB_OFFLINE is set)", "did you mean 'tiny'?"]),
        ("./models/tny", ["tny': neither a built-in base (nano) nor an existing folder", "did you mean 'tiny'?"]),
        ("models/empty", ["the folder has no config.json"]),
        ("models/bin", ["the folder has no weights model.safetensors, nor", "(found: .bin, .json)"]),
        ("nobody/has-this", ["base 'nobody/has-this': no such folder, and not in the hub's cache", "local folder"]),
        ("nnano", ["base 'nnano'", "did you mean 'nano'?"]),
        ("gpt2", ["base 'gpt2': no such folder, and not in the hub's cache (HF_HUB_OFFLINE is set)"]),
    ],
)
def test_a_wrong_base_model_is_refused(place, refused, base, parts):
    (place / "models" / "empty").mkdir()
    (place / "models" / "bin").mkdir()
    (place / "models" / "bin" / "config.json").write_text("{}")
    (place / "models" / "bin" / "pytorch_model.bin").write_bytes(bytes(8))
    message = refused("run", "mine.yaml", "--set", f"base={base}")
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("folder", ["colours.jsonl/results", "/proc/results", "colours.jsonl"])
def test_a_results_folder_that_cannot_be_written_is_refused(place, refused, folder):
    message = refused("run", "mine.yaml", "-o", folder)
    assert f"cannot write results to {folder}: " in message
    assert (place / "colours.jsonl").read_text() == colours.DATA


def test_a_results_folder_whose_logs_cannot_be_written_is_refused(place, command):
    before = contents(read(place / "results" / "mine"))
    (place / "results" / "mine" / "logs").write_text("no folder")
    code, _, err = command("run", "mine.yaml")
    assert (code, err) == (2, "peftbench: cannot write logs to results/mine/logs: File exists\n")
    assert contents(read(place / "results" / "mine")) == before


@pytest.mark.parametrize("kind", ["trials", "steps", "examples"])
@pytest.mark.parametrize("argv", [["report", "results/mine"], ["compare", *["results/mine"] * 2]])
def test_readers_leave_a_half_written_file_out_name_it_and_go_on(place, command, caplog, kind, argv):
    if argv[0] == "compare" and kind != "trials":
        return  # it reads the trials alone
    damage._told.clear()
    path = sorted((place / "results" / "mine" / kind).glob("*.parquet"))[0]
    path.write_bytes(path.read_bytes()[:-50])
    assert command(*argv)[0] == 0
    assert f"{path.relative_to(place)} cannot be read" in caplog.text


@pytest.mark.parametrize("kind", ["trials", "steps", "examples", "grid"])
def test_a_run_sets_a_half_written_file_aside_names_it_and_goes_on(place, command, monkeypatch, kind):
    monkeypatch.setattr(local, "run", made_up(Status.OK))
    folder = place / "new"
    assert command("run", "mine.yaml", "-o", "new", "--only", "seed=0")[0] == 0
    before = set(store.read_trials(folder)["key"])
    path = folder / "grid.json" if kind == "grid" else sorted((folder / kind).glob("*.parquet"))[0]
    path.write_bytes(path.read_bytes()[:-50])
    code, _, err = command("run", "mine.yaml", "-o", "new", "--only", "seed=0")
    assert code == 0
    said = " ".join(err.split())
    assert f"{path.relative_to(place)} cannot be read" in said
    assert "moved to new/set_aside" in said
    assert set(store.read_trials(folder)["key"]) == before
    assert store.recorded_grid(folder) is not None
    assert "cannot be read" not in command("run", "mine.yaml", "-o", "new", "--only", "seed=0")[2]


@pytest.mark.parametrize("argv", [["report", "results/mien"], ["compare", "results/mine", "results/mien"]])
def test_a_missing_results_folder_is_refused_with_the_nearest_name(refused, argv):
    assert "no such folder: results/mien; did you mean 'results/mine'?" in refused(*argv)


def test_a_folder_without_results_is_refused(place, refused):
    (place / "results" / "empty").mkdir()
    for argv in (["report", "results/empty"], ["compare", "results/empty", "results/mine"]):
        assert "results/empty holds no results" in refused(*argv)
    assert "did you mean 'results/mine'?" in refused("report", "results/mine/trials")
    assert "results holds no results, but these in it do: results/mine\n" in refused("report", "results")


def test_a_page_that_cannot_be_written_is_refused(refused):
    assert "cannot write the report colours.jsonl/page.html" in refused(
        "report", "results/mine", "-o", "colours.jsonl/page.html"
    )


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "    compare   judge what regressed between two results folders"),
        (["rnu"], "invalid choice: 'rnu'; did you mean 'run'? allowed: "),
        (["rn", "mine.yaml"], "invalid choice: 'rn'; did you mean 'run'?"),
        (["run"], "required: SUITE"),
        (["run", "mine.yaml", "--fersh"], "unrecognized arguments: --fersh; did you mean --fresh?"),
        (["run", "mine.yaml", "--sede=3"], "unrecognized arguments: --sede=3; did you mean --seeds?"),
        (["run", "mine.yaml", "again"], "unrecognized arguments: again\n"),
        (["list", "mehtods"], "invalid choice: 'mehtods'; did you mean 'methods'?"),
        (["report", "results/mine", "--format", "pdf"], "invalid choice: 'pdf'"),
        (["compare", "results/mine"], "required: NEW"),
    ],
)
def test_a_wrong_command_line_shows_the_usage(place, command, argv, part):
    code, out, err = command(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("usage: peftbench")
    assert part in err


def test_help_lists_the_commands_and_version_is_the_packages(command):
    code, out, _ = command("--help")
    assert code == 0
    assert all(f"    {verb} " in out for verb in ("init", "run", "plan", "report", "compare", "list"))
    assert command("--version")[:2] == (0, f"peftbench {__version__}\n")


def test_plan_prints_the_quickstarts_cells_one_per_line(command):
    code, out, err = command("plan", "quickstart")
    assert code == 0
    *cells, extent, time = out.splitlines()
    assert len(cells) == 14
    assert time.startswith("time: ")
    assert cells[0].split("  ")[0] == "base fp32"
    assert (extent, err) == (
        "14 cells, 3 seeds (0, 1, 2): 40 trials (a cell without training has one trial); all can run",
        "",
    )


@pytest.mark.parametrize(
    ("seeds", "expected", "listed"),
    [
        (
            "100",
            "14 cells, 100 seeds (0, 1, 2, ..., 99): 1,301 trials (a cell without training has one trial); all can run",
            "seeds 0, 1, 2, ..., 99",
        ),
        ("100,", "14 cells, 1 seed (100): 14 trials; all can run", "seed 100"),
    ],
)
def test_the_number_of_seeds_is_printed(command, seeds, expected, listed):
    code, out, err = command("plan", "quickstart", "--seeds", seeds)
    assert (code, err) == (0, "")
    *cells, extent, _ = out.splitlines()
    assert (extent, cells[-1].endswith(f"  {listed}")) == (expected, True)
    assert "100 for a hundred of them" in " ".join(command("plan", "--help")[1].split())


@pytest.mark.parametrize("verb", ["run", "plan"])
@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("base=./models/tny", "neither a built-in base (nano) nor an existing folder"),
        ("base=models", "the folder has no config.json"),
        ("tasks.colour.train=colours.csv", "task 'colour': no such file"),
        ("tasks.colour.target='{{ thing }}'", "line 1 (example 1): unknown answer 'sky'; allowed: blue"),
    ],
)
def test_plan_refuses_what_run_would_refuse(place, command, monkeypatch, verb, override, part):
    monkeypatch.setattr(local, "run", lambda *_: pytest.fail("the grid began to run"))
    code, out, err = command(verb, "mine.yaml", "--set", override)
    assert code == 2
    assert part in err
    assert ("would stop with this error" in err) is (verb == "plan")
    assert len(out.splitlines()) == (5 if verb == "plan" else 0)


def test_plan_downloads_no_base_model_and_says_so(place, command, monkeypatch):
    def cache(name, local_files_only, **_):
        assert local_files_only, "the hub was asked"
        raise LocalEntryNotFoundError(name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", cache)
    code, out, err = command("plan", "mine.yaml", "--set", "base=gpt2")
    assert (code, err) == (0, "")
    assert "note: base 'gpt2': no such folder here, so the run takes it for a hub id" in out


def test_plan_says_that_a_base_model_cannot_be_fetched_offline(place, command, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, out, _ = command("plan", "mine.yaml", "--set", "base=organisation/large")
    assert code == 0  # the cells can run where the base model is
    said = " ".join(out.split())
    assert "none can run here, as HF_HUB_OFFLINE is set and base 'organisation/large' is not in the hub's cache" in said
    assert "none can run" not in command("plan", "mine.yaml")[1]


@pytest.mark.parametrize("words", [["plan", "--memory", "--budget"], ["plan", "--budget"], ["run", "--budget"]])
def test_a_budget_without_a_unit_is_refused_before_the_base_model_is_looked_for(place, command, words):
    verb, *options = words
    code, _, err = command(verb, "mine.yaml", "--set", "base=organisation/large", *options, "16")
    assert code == 2
    assert err == "peftbench: --budget: given '16'; allowed: a size like 16GiB, 24GB or 500MiB\n"


def test_a_prediction_of_memory_is_made_without_the_librarys_own_messages(place, command, monkeypatch):
    from transformers.utils import logging

    verbosity = []

    def forecasts(*_):
        verbosity.append(logging.get_verbosity())
        raise UserError("enough")

    monkeypatch.setattr("peftbench.planner.forecast.forecasts", forecasts)
    command("plan", "mine.yaml", "--memory")
    assert verbosity == [logging.CRITICAL]


def test_a_shape_given_as_a_base_model_is_refused_with_the_right_form(place, command):
    code, out, _ = command("plan", "mine.yaml", "--set", "base=llama7b")
    assert code == 0
    said = " ".join(out.split())
    assert "a shape is written base: {shape: llama-7b}, on the command line --set 'base={shape: llama-7b}'" in said
    code, _, err = command("run", "mine.yaml", "--set", "base=llama7b")
    assert code == 2
    assert "a shape is written base: {shape: llama-7b}" in " ".join(err.split())


def test_skipped_trials_are_printed_once_in_lines_that_fit(place, command, monkeypatch):
    def skips(jobs, workers):
        for job in jobs:
            result = make_result(job.trial.cell, job.trial.method, seed=job.trial.seed, status=Status.SKIPPED)
            reason = "predicted to need 100.42 GiB in a training step (" + "base weights 25.10 GiB, " * 8 + ")"
            row = replace(result.row, key=job.key, phase="plan", message=reason)
            yield Event(job, "plan", result=replace(result, row=row, steps=(), examples=()))

    monkeypatch.setattr(local, "run", skips)
    code, _, err = command("run", "mine.yaml", "--only", "method=lora", "--budget", "1GiB")
    assert code == 0
    assert err.count("predicted to need 100.42 GiB") == 1
    assert "did not end ok" not in err
    assert max(map(len, err.replace(str(place), "X").splitlines())) <= 100, "a folder's name is not broken"


def test_plan_shows_unsupported_cells_with_the_reason(place, command):
    code, out, err = command("plan", "mine.yaml")
    assert code == 0
    assert "full int8      seed 0       unsupported: full does not exist in int8, because quantized" in out
    assert "3 cells, 1 seed (0): 3 trials; 2 can run, 1 is unsupported" in out
    assert err == ""


def test_plan_shows_what_the_base_models_config_rules_out(place, command):
    config = Path("models/tiny/config.json")
    config.write_text('{"max_position_embeddings": 100}')
    code, out, _ = command("plan", "mine.yaml", "--set", "train.sequence_length=128", "--only", "method=base,lora")
    assert code == 1
    assert "128 data tokens (train.sequence_length) and 0 virtual tokens exceed the" in " ".join(out.split())
    assert "2 cells, 1 seed (0): 2 trials; none can run, as every cell is unsupported" in out.splitlines()
    assert "note: base 'models/tiny' is read from the folder " in " ".join(out.split()), "it could be a hub id too"
    config.write_text('{"model_type": "bert"}')
    code, out, _ = command("plan", "mine.yaml", "--only", "method=lora")
    assert code == 1
    assert "unsupported: base: bert reads in both directions" in " ".join(out.split())


def test_a_run_in_which_nothing_can_run_says_so(place, command):
    code, _, err = command("run", "mine.yaml", "--only", "method=full")
    assert code == 1
    assert "none can run, as every cell is unsupported" in err


def test_a_plans_lines_fit_and_no_name_is_cut(command):
    _, out, _ = command("plan", "peft_zoo")
    assert max(map(len, out.splitlines())) <= terminal.WIDTH
    cells = {trial.cell for trial in suite.expand(suite.load("peft_zoo"), "cpu")}
    lines = out.splitlines()[:-2]  # without the count of trials and their time
    assert sum(not line.startswith(" ") for line in lines) == len(cells) < len(lines)
    words = [word for line in lines for word in line[:60].split()]
    assert [cell for cell in cells if not set(cell.split()) <= set(words)] == []


LISTED = [*TASKS, *("template:" for _ in TEMPLATES)]


@pytest.mark.parametrize(
    ("what", "names"),
    [("tasks", LISTED), ("precisions", PRECISIONS), ("suites", suite.names()), ("shapes", builtin.SHAPES)],
)
def test_list_names_every_record(command, what, names):
    code, out, _ = command("list", what)
    assert code == 0
    heading, *lines = out.splitlines()
    assert heading.startswith(what[:-1])
    begun = [line for line in lines if not line.startswith(" ")]
    assert [line.split()[0] for line in begun] == list(names)
    assert {"compute", "fp32", "quickstart", "llama-7b"} & set(names)
    assert what != "tasks" or all(f"template: {name} " in out for name in TEMPLATES)
    assert all(len(line.split()) > 1 and not line.endswith("  –") for line in begun)


def test_list_methods_has_a_block_for_each_with_what_exists_here(command):
    code, out, _ = command("list", "methods")
    blocks = {block.partition(":")[0]: block for block in out.split("\n\n")}
    assert (code, list(blocks)) == (0, list(METHODS))
    assert max(map(len, out.splitlines())) <= terminal.WIDTH
    here = device.resolve("auto")
    for name, block in blocks.items():
        assert METHODS[name].paper in block
        told = re.search(rf"^  on {here} (.*(?:\n {{4}}.*)*)", block, re.MULTILINE)  # the list may go on below
        exist = [p for p in PRECISIONS if why_unsupported(METHODS[name], p, here) is None]
        assert told[1].replace("(default)", "").split() == exist
    assert "rank=16: virtual tokens" in blocks["prefix_tuning"]
    assert "gradient checkpointing: the prefix is a cache" in blocks["prefix_tuning"]
    assert " stored: quantized weights have no gradient" in " ".join(blocks["full"].split())


@pytest.mark.parametrize("name", METHODS)
def test_list_of_one_method_shows_each_setting_with_default_and_allowed_values(command, name):
    code, out, _ = command("list", "methods", name)
    assert code == 0
    assert max(map(len, out.splitlines())) <= terminal.WIDTH
    for key, setting in METHODS[name].options.items():
        assert f"\n  {key}" in out
        if name != "peft":
            assert " ".join(setting.doc.split()) in " ".join(out.split())
    assert out.count("allowed: ") == (0 if name == "peft" else len(METHODS[name].options))


def test_list_of_one_method_knows_the_tuners_of_peft(command):
    assert "VERA" in command("list", "methods", "peft")[1]
    _, out, _ = command("list", "methods", "VERA")
    assert out.startswith("peft VERA: ")
    assert "size         r=256: rank r" in out
    assert "d_initial=0.1\n      Initial init value for d vector.\n      allowed: a number\n" in out
    assert "=computed\n" in command("list", "methods", "P_TUNING")[1]
    assert command("list", "methods", "vera")[1] == out
    assert command("list", "methods", "LORA")[1].startswith("peft LORA: "), "peft's, as it is written"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_list_of_one_optimizer_shows_its_record(command, name):
    code, out, _ = command("list", "optimizers", name)
    assert code == 0
    assert max(map(len, out.splitlines())) <= terminal.WIDTH
    record = OPTIMIZERS[name]
    for fact in (record.title, record.source, record.state, record.only_full, record.rate, record.departs):
        assert fact in " ".join(out.split())
    assert ("clip_norm: null" in out) is record.in_backward
    assert ("fsdp2" in out) is (name in ("adamw", "sgd"))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("optimizers", "lome"), "list optimizers: unknown optimizer 'lome'; did you mean 'lomo'? allowed: ada"),
        (("methods", "lorra"), "list methods: unknown method 'lorra'; did you mean 'lora'? allowed: adapter, base, "),
        (("methods", "lorra"), "did you mean 'lora'?"),
        (("methods", "verra"), "did you mean 'VERA'?"),
        (("suites", "quickstart"), "`list base` and `list published` accept a name; given: list suites quickstart"),
    ],
)
def test_list_of_an_unknown_method_is_refused_with_the_nearest_name(command, argv, expected):
    code, out, err = command("list", *argv)
    assert (code, out) == (2, "")
    assert expected in err


def test_list_alone_lists_everything(command):
    code, out, _ = command("list")
    assert code == 0
    parts = [command("list", what)[1] for what in listing.KINDS]
    assert out == "\n".join(parts)


def test_list_prints_defaults_as_a_suite_would_give_them(command):
    text = listing.text("methods")
    assert "alpha=2r, dropout=0, target_modules=all-linear, double_quantization=true" in " ".join(text.split())
    assert "layers=null (all but 2)" in text
    assert "rank_pattern={}" in text
    assert "None" not in text


def made_up(status: Status, interrupt: bool = False):
    """In place of the processes: trials that end at once, and perhaps a Ctrl-C after the first."""

    def run(jobs, workers):
        for job in jobs:
            result = make_result(
                job.trial.cell, job.trial.method, seed=job.trial.seed, status=status, scores={"colour": 0.5}
            )
            row = replace(result.row, key=job.key, phase=None if status == "ok" else "train")
            rows = [tuple(replace(r, key=job.key) for r in rows) for rows in (result.steps, result.examples)]
            yield Event(job, "train", result=replace(result, row=row, steps=rows[0], examples=rows[1]))
            if interrupt:
                raise KeyboardInterrupt

    return run


def test_a_failed_trial_is_printed_and_the_exit_code_is_1_also_when_it_is_not_run_again(place, command, monkeypatch):
    monkeypatch.setattr(local, "run", made_up(Status.OOM))
    code, out, err = command("run", "mine.yaml", "-o", "new")
    assert (code, out) == (1, "")
    assert "3 trials, 0 of them done already -> new" in err
    assert "2 oom, 1 unsupported -> new" in err
    assert "  lora r=4 fp32, seed 0: oom in" in err or "  lora r=4 fp32, seed 0: oom (train: made up to be oom)" in err
    code, _, err = command("run", "mine.yaml", "-o", "new")
    assert code == 1
    assert "3 trials, 3 of them done already -> new" in err


def test_a_trial_that_is_not_final_runs_again_and_the_exit_code_becomes_0(place, command, monkeypatch):
    monkeypatch.setattr(local, "run", made_up(Status.TIMEOUT))
    assert command("run", "mine.yaml", "-o", "new")[0] == 1
    monkeypatch.setattr(local, "run", made_up(Status.OK))
    code, out, err = command("run", "mine.yaml", "-o", "new")
    assert code == 0
    assert "3 trials, 1 of them done already -> new" in err
    assert "2 ok, 1 unsupported -> new" in err
    assert "the same command again" not in out


def test_ctrl_c_keeps_finished_trials_and_the_same_command_continues(place, command, monkeypatch):
    monkeypatch.setattr(local, "run", made_up(Status.OK, interrupt=True))
    code, out, err = command("run", "mine.yaml", "-o", "new")
    assert (code, out) == (130, "")
    assert "finished trials are kept" in err
    assert "Traceback" not in err
    assert list(read(place / "new").trials["cell"]) != []
    assert "the table of what is finished: peftbench report new --format brief\n" in err
    code, _, err = command("run", "mine.yaml", "-o", "new")
    assert "3 trials, 2 of them done already -> new" in err


def test_fresh_runs_finished_trials_again_and_replaces_their_rows(place, command, monkeypatch):
    monkeypatch.setattr(local, "run", made_up(Status.OOM))
    command("run", "mine.yaml", "-o", "new")
    monkeypatch.setattr(local, "run", made_up(Status.OK))
    code, _, err = command("run", "mine.yaml", "-o", "new", "--fresh", "--only", "method=lora")
    assert code == 0
    assert "1 cell, 1 seed (0): 1 trial, 0 of them done already -> new" in err
    found = read(place / "new").trials
    assert dict(zip(found["cell"], found["status"], strict=True)) == {
        "base fp32": "oom",
        "full int8": "unsupported",
        "lora r=4 fp32": "ok",
    }


def test_on_a_terminal_a_bar_shows_cell_phase_and_loss(place, command, monkeypatch, capsys):
    def run(jobs, workers):
        yield Event(jobs[0], "start")
        yield Event(jobs[0], "train", step=1, steps=2, loss=1.25)
        yield from made_up(Status.OK)(jobs, workers)

    monkeypatch.setattr(local, "run", run)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TERM", "xterm")
    code, out, err = command("run", "mine.yaml", "-o", "new")
    assert code == 0
    assert "LoRA r=4" in out
    assert "3/3" in err
    assert "lora r=4 fp32, seed 0: ok" in err
    assert "full int8, seed 0: unsupported (plan: full does not exist" in err


def test_adapters_asked_for_later_are_made(place, command, monkeypatch):
    monkeypatch.setattr(local, "run", made_up(Status.OK))
    command("run", "mine.yaml", "-o", "new")
    _, _, err = command("run", "mine.yaml", "-o", "new", "--keep-adapters")
    assert "3 trials, 2 of them done already -> new" in err


def test_a_run_with_other_settings_does_not_stay_among_the_first_ones_rows(place, command, monkeypatch):
    monkeypatch.setattr(local, "run", made_up(Status.OK))
    assert command("run", "mine.yaml", "-o", "new")[0] == 0
    first = command("report", "new", "--format", "md")[1]
    keys = set(recorded_grid("new").keys)
    assert keys == set(read("new").trials["key"])
    assert "left out" not in first

    command("run", "mine.yaml", "-o", "new", "--set", "train.steps=3", "--only", "method=lora")
    short = command("report", "new", "--format", "md")[1]
    assert "2 stored rows of other settings or suites are excluded." in short
    assert "has no result yet" not in short, "what was not asked for is not missing"
    assert "| untuned base" in short  # the untuned base is the same trial
    assert "| full fine-tuning int8" in first
    assert "| full fine-tuning int8" not in short
    # its whole grid: the base, which is shown, is not of the selection
    assert recorded_grid("new").command == "peftbench run mine.yaml --set train.steps=3"

    _, _, err = command("run", "mine.yaml", "-o", "new")
    assert "3 trials, 3 of them done already" in err
    assert set(recorded_grid("new").keys) == keys
    again = command("report", "new", "--format", "md")[1]
    assert again.splitlines()[:5] == first.splitlines()[:5]
    assert "2 stored rows" not in again
    assert "1 stored row of other settings or suites is excluded." in again


def test_a_selection_does_not_shrink_the_report(place, command, monkeypatch):
    monkeypatch.setattr(local, "run", made_up(Status.OK))
    command("run", "mine.yaml", "-o", "new")
    command("run", "mine.yaml", "-o", "new", "--only", "method=lora")
    assert len(recorded_grid("new").keys) == 3
    assert recorded_grid("new").axes == {
        "base fp32": CellAxes("base", "fp32", None),
        "full int8": CellAxes("full", "int8", None),
        "lora r=4 fp32": CellAxes("lora", "fp32", 4),
    }
    assert "| untuned base" in command("report", "new", "--format", "md")[1]


def test_trials_outside_a_selection_are_not_missing_but_those_asked_for_before_are(place, command, monkeypatch):
    monkeypatch.setattr(local, "run", made_up(Status.OK))
    command("run", "mine.yaml", "-o", "new", "--only", "method=lora")
    assert len(recorded_grid("new").keys) == 1
    assert "no result yet" not in command("report", "new", "--format", "md")[1]
    monkeypatch.setattr(local, "run", made_up(Status.OK, interrupt=True))
    assert command("run", "mine.yaml", "-o", "other")[0] == 130
    command("run", "mine.yaml", "-o", "other", "--only", "method=base")
    assert len(recorded_grid("other").keys) == 3
    assert recorded_grid("other").command == "peftbench run mine.yaml"
    assert "1 of the grid's 3 trials has no result yet" in command("report", "other", "--format", "md")[1]


@pytest.mark.parametrize("form", ["text", "md", "csv", "tex"])
def test_a_table_is_written_to_the_file_that_is_asked_for(place, command, form):
    printed = command("report", "results/mine", "--format", form)[1]
    code, out, err = command("report", "results/mine", "--format", form, "-o", "deep/table")
    assert (code, out, err) == (0, "table: deep/table\n", "")
    assert (place / "deep" / "table").read_text() == printed


@pytest.mark.parametrize("output", ["trials/page.html", "steps/x/../page.html", "examples", "grid.json"])
@pytest.mark.parametrize("form", ["html", "md"])
def test_a_report_is_not_written_among_the_results(refused, output, form):
    message = refused("report", "results/mine", "--format", form, "-o", f"results/mine/{output}")
    assert "only results are stored there" in message


def test_compare_ends_with_3_if_nothing_could_be_judged(place, command):
    write(place / "results" / "alone", make_result("one of its own"))
    code, out, _ = command("compare", "results/mine", "results/alone")
    assert code == 3
    assert "no verdict" in out
    assert command("compare", "results/mine", "results/mine", "--watch", "judge=merge")[0] == 3


def test_compare_ends_with_0_if_nothing_changed(place, command):
    code, out, err = command("compare", "results/mine", "results/mine")
    assert (code, err) == (0, "")
    assert out


def test_compare_ends_with_1_if_memory_grew_unless_another_limit_is_given(place, command):
    for name, peak in (("old", 1000), ("new", 1500)):
        write(place / name, make_result(peak_train_bytes=peak), ["judge"])
    assert command("compare", "old", "new")[0] == 1
    assert command("compare", "new", "old")[0] == 0
    assert command("compare", "old", "new", "--watch", "memory_percent=50")[0] == 0
    assert command("compare", "old", "new", "--watch", "judge=score,size")[0] == 0


@pytest.mark.parametrize("form", ["text", "md", "json", "html"])
def test_a_comparison_is_printed_or_written_in_every_format(place, command, form):
    code, printed, _ = command("compare", "results/mine", "results/mine", "--format", form)
    assert code == 0
    code, out, err = command("compare", "results/mine", "results/mine", "--format", form, "-o", "deep/night")
    assert (code, err) == (0, "")
    assert out.startswith("no regression: ")
    assert (place / "deep" / "night").read_text() == printed


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--watch", "spead_percent=3"], "--watch: watch.spead_percent: unknown key 'spead_percent'; did you mean"),
        (["--watch", "judge=scores,memory"], "did you mean 'score'?"),
        (["--watch", "speed_percent"], "--watch: given 'speed_percent'; allowed: KEY=VALUE"),
        (["--watch", "speed_percent=much"], "watch.speed_percent"),
        (["--watch", "merge_factor=0"], "at least 1"),
        (["-o", "results/mine/trials/x"], "only results are stored there"),
        (["-o", "mine.yaml/x"], "cannot write the report mine.yaml/x"),
    ],
)
def test_a_wrong_option_of_compare_is_refused(refused, argv, part):
    assert part in refused("compare", "results/mine", "results/mine", *argv)


def test_a_closed_pipe_is_not_an_error(place):
    read_end, write_end = os.pipe()
    os.close(read_end)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    argv = [sys.executable, "-m", "peftbench", "list", "methods"]
    done = subprocess.run(argv, stdout=write_end, stderr=subprocess.PIPE, env=environment, timeout=60)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


def real_run(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the suite by the command, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "peftbench", "run", "mine.yaml", *options],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "\nnext: peftbench report results/mine" in done.stdout
    for word in ("Traceback", "leaked", "Warning"):
        assert word not in done.stderr
    return done


def test_a_suite_runs_once_and_makes_a_page(tiny, tmp_path, command, monkeypatch):
    import pandas

    (tmp_path / "mine.yaml").write_text(SUITE)
    (tmp_path / colours.FILE).write_text(colours.DATA)
    folder = tmp_path / "results" / "mine"

    err = real_run(tmp_path, "--set", f"base={tiny}").stderr
    assert "3 trials, 0 of them done already -> results/mine" in err
    assert "2 ok, 1 unsupported -> results/mine" in err
    assert [line.split("]")[0] for line in err.splitlines() if line.startswith("[")] == ["[1/3", "[2/3", "[3/3"]
    assert "s per trial (median), for starting its process" in err
    trials = pandas.read_parquet(folder / "trials").set_index("cell")
    assert dict(trials["status"]) == {"base fp32": "ok", "full int8": "unsupported", "lora r=4 fp32": "ok"}
    assert trials.loc["full int8", "message"].startswith("full does not exist in int8")
    nested = {n: v for n, v in trials.reset_index().iloc[0].items() if not pandas.api.types.is_scalar(v)}
    assert nested == {}
    assert 0 <= trials.loc["lora r=4 fp32", "score_colour"] <= 1
    assert trials.loc["lora r=4 fp32", "steps_done"] == 2
    first = read(folder)
    assert len(first.steps) == 2
    assert len(first.examples) == 12
    assert_no_path(folder, tmp_path, tiny)
    assert [path.name for path in (folder / "logs").iterdir()] == [], "logs of what went well are kept"

    before = {path: path.read_bytes() for path in folder.rglob("*.parquet")}
    monkeypatch.chdir(tmp_path)
    code, _, err = command("run", "mine.yaml", "--set", f"base={tiny}")
    assert (code, "3 trials, 3 of them done already" in err) == (0, True)
    assert {path: path.read_bytes() for path in folder.rglob("*.parquet")} == before
    code, out, _ = command("report", "results/mine", "--format", "md")
    assert code == 0
    assert out.startswith("|")
    assert out.count("\n| ") >= 2
    code, out, _ = command("report", "results/mine")
    assert code == 0
    assert "page: reports/mine.html" in out
    page = (tmp_path / "reports" / "mine.html").read_text()
    assert str(tmp_path) not in page
    assert str(tiny) not in page
    assert f'"peftbench run mine.yaml --set base={tiny.name}' in page


def assert_no_path(folder: Path, *paths: Path) -> None:
    """Assert that no stored value names a folder of this machine."""
    tables = read(folder)
    places = {str(path) for path in (*paths, Path.home(), ROOT, *(p.parent for p in paths))}
    looked = 0
    for frame in (tables.trials, tables.steps, tables.examples):
        for column in frame.columns:
            for value in frame[column].dropna():
                looked += 1
                assert not any(p in str(value) for p in places), (column, value)
    assert looked > 100


@pytest.mark.parametrize("amount", ["58.0 %", "10 min", "1.5 GiB", "30 s", "2.5 k"])
def test_a_number_is_not_parted_from_its_unit_by_wrapping(amount):
    text = f"describe exact_match {amount}, compute\xa0exact_match {amount}"
    for width in range(12, len(text)):
        lines = terminal.wrapped(text, width)
        assert " ".join(lines) == text
        assert "".join(lines).count(amount) == 2, width
    broken = terminal.wrapped(f"loss {amount}", len(f"loss {amount}") - 1)
    assert broken == ["loss", amount]
    assert progress.wrapped(f"{'x' * 96} {amount}") == f"{'x' * 96}\n    {amount}"
