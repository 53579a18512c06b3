"""peftbench init: a suite from data and base model that passes plan, and a clear message for everything else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from peftbench import cli, suite
from peftbench.commands.first_suite import data, fitting, given
from peftbench.errors import UserError
from peftbench.models import find
from peftbench.planner.records import Forecast, Prediction
from peftbench.runner import pilot
from peftbench.runner.pilot import Measured
from peftbench.tasks.recognize import Asked


class _Planner:
    """Peaks by formula: bytes of a pass times the micro-batch, on top of weights by precision."""

    def __init__(self, monkeypatch):
        self.asked = 0
        monkeypatch.setattr("peftbench.planner.forecast.forecasts", self)

    def __call__(self, trials, folder, asked):
        for trial in trials:
            self.asked += 1
            weights = {"full": 500}.get(trial.method, {"nf4": 30}.get(trial.precision, 100))
            step = 10 * trial.training.micro_batch_size / (5 if trial.training.gradient_checkpointing else 1)
            yield Forecast(trial, Prediction(int(1024 * (weights + step)), {}, 1, 1, 1, 1, 1.0, (), (1,), 1))


@pytest.fixture
def planner(monkeypatch):
    """No step is traced: peaks follow a formula."""
    return _Planner(monkeypatch)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    colours = ["sky,blue", "grass,green", "sea,blue", "rose,red", "leaf,green", "blood,red"]
    lines = [f"the {line.replace(',', f' {n},')}" for n in range(20) for line in colours]
    (tmp_path / "colours.csv").write_text("\n".join(["text,label", *lines, lines[0], ""]))
    (tmp_path / "bare.csv").write_text("\n".join(f"{n % 2},is the number {n} odd or not" for n in range(60)))
    (tmp_path / "ask.jsonl").write_text(
        "".join(json.dumps({"foo": f"the sky is {n}", "bar": f"yes it is {n}"}) + "\n" for n in range(40))
    )
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("text,label\n")
    (tmp_path / "nolabel.csv").write_text("index,text\n0,the sky\n1,the sea\n")
    (tmp_path / "hidden.csv").write_text("text,label\nthe sky,-1\nthe sea,-1\n")
    (tmp_path / "gap.csv").write_text("text,label\nthe sky,blue\nthe sea,\nthe rose,red\n")
    (tmp_path / "numbers.csv").write_text("text,label\n" + "".join(f"is {n} odd or not,{n % 2}\n" for n in range(60)))
    (tmp_path / "words.csv").write_text("text,label\nis 3 odd or not,odd\nis 4 odd or not,even\n")
    (tmp_path / "nobase").mkdir()
    return tmp_path


@pytest.fixture
def init(place, tiny, capsys, planner):
    def call(*argv, base=None):
        code = cli.main(["init", "--base", str(base or tiny), *argv])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_a_written_suite_says_why_and_passes_plan(place, tiny, capsys):
    code = cli.main(["init", "--base", str(tiny), "--train", "colours.csv"])
    out = capsys.readouterr().out
    assert code == 0
    for part in (
        "base:      llama, ",
        "data:      colours.csv: 121 records; 24 test examples drawn\n",
        "task:      choice: 3 classes in 'label', of 'text', 40 to 41 records each; ranked by likelihood\n",
        "tokens:    median ",
        "; sequence_length ",
        "overlap:   ",
        "methods:   base, full, lora, ",
        "memory:    predicted peaks ",
        "% of this machine's (--budget)",
        "amount:    3 seeds, 21 steps of 16 examples (3.5 passes over 97 examples), 24 scored\n",
        "wrote:     suite.yaml, with the reason of each value\nnext:      peftbench plan suite.yaml\n",
    ):
        assert part in out, part
    assert len(out.splitlines()) <= 15
    text = (place / "suite.yaml").read_text()
    assert "    train: colours.csv\n" in text
    assert "choices: [blue, green, red]" in text
    assert max(map(len, text.splitlines())) <= 120
    assert max(map(len, out.splitlines())) <= 100
    assert "(records: blue 41, green 40, red 40)" in text
    made = suite.load("suite.yaml")
    assert [block.method for block in made.blocks][:3] == ["base", "full", "lora"]
    assert cli.main(["plan", "suite.yaml"]) == 0
    assert "all can run" in capsys.readouterr().out


def test_a_file_without_header_and_numbers_for_classes(place, init):
    code, out, _ = init("--train", "bare.csv", "-o", "b.yaml")
    assert code == 0
    assert "no header line; its columns are called label, text" in out
    assert "not known: what the classes mean: models do not know numbers" in out
    assert "columns: [label, text]" in (place / "b.yaml").read_text()
    assert '"0": "0"' in (place / "b.yaml").read_text()


def test_a_file_that_is_called_a_number_is_a_task_of_that_name(place, init):
    os.rename(place / "colours.csv", place / "2024.csv")
    code, _, err = init("--train", "2024.csv")
    assert (code, err) == (0, "")
    assert suite.load("suite.yaml").tasks[0].name == "2024"


def test_the_user_answers_what_cannot_be_guessed(place, init):
    code, _, err = init("--train", "ask.jsonl")
    assert code == cli.BAD_INPUT
    assert "ask.jsonl: which column is the input and which the answer cannot be guessed" in err
    code, _, _ = init("--train", "ask.jsonl", "--input", "foo", "--answer", "bar")
    assert code == 0
    assert suite.load("suite.yaml").tasks[0].kind == "generation"


BAD = [
    (["--train", "colour.csv"], ["no such file: colour.csv; did you mean 'colours.csv'?"]),
    (["--train", "empty.csv"], ["empty.csv holds no examples"]),
    (["--train", "header.csv"], ["header.csv holds no examples"]),
    (
        ["--train", "colours.csv", "--test", "nolabel.csv"],
        ["--test nolabel.csv: there is no column 'label'", "'index'"],
    ),
    (["--train", "colours.csv", "--test", "hidden.csv"], ["'label' is '-1' in every record, so nothing can be scored"]),
    (["--train", "colours.csv", "--test", "gone.csv"], ["--test: no such file: gone.csv"]),
    (["--train", "colours.csv", "--test", "gap.csv"], ["--test gap.csv: 'label' is missing or empty in 1 record"]),
    (
        ["--train", "numbers.csv", "--test", "words.csv"],
        ["--test words.csv: 'label' holds numbers in the training file, but not here (such as 'odd')"],
    ),
    (["--train", "colours.csv", "--budget", "much"], ["--budget: given 'much'; allowed: a size like 16GiB"]),
    (
        ["--train", "colours.csv", "--budget", "1KiB"],
        ["--budget: no method fits in 1.0 KiB: full as it needs at least"],
    ),
    (
        ["--train", "colours.csv", "--methods", "lorra"],
        ["--methods: unknown method 'lorra'; did you mean 'lora'? allowed: adapter"],
    ),
    (["--train", "colours.csv", "--methods", "lora,"], ["--methods: given 'lora,'; allowed: names with commas"]),
    (["--train", "colours.csv", "--methods", "lora,lora"], ["--methods: 'lora' is given twice"]),
    (["--train", "colours.csv", "--methods", "base"], ["at least one method that trains is needed, like lora"]),
    (["--train", "colours.csv", "--methods", "ia3"], ["'ia3' is added to the written suite by hand", "type: IA3"]),
    (["--train", "colours.csv", "--methods", "peft"], ["peft needs the name of a tuner"]),
    (["--train", "colours.csv", "--seeds", "many"], ["--seeds: given 'many'; allowed: how many (3 for 0, 1, 2)"]),
    (["--train", "colours.csv", "--seeds", "0"], ["--seeds: given '0'; allowed: 1 to 10000 seeds"]),
    (
        ["--train", "colours.csv", "--seeds", "0,0"],
        ["--seeds: given '0,0'; allowed: different seeds, each from 0 to 2^32"],
    ),
    (
        ["--train", "colours.csv", "--seeds", "4294967296,1"],
        ["--seeds: given '4294967296,1'; allowed: different seeds"],
    ),
    (["--train", "colours.csv", "--limit", "-1"], ["--limit: given '-1'; allowed: a number of scored examples"]),
    (["--train", "colours.csv", "--limit", "1e3"], ["--limit: given '1e3'; allowed: a number of scored examples"]),
    (["--train", "colours.csv", "-o", "nowhere/suite.yaml"], ["--output: there is no folder nowhere"]),
    (["--train", "colours.csv", "-o", "nobase"], ["nobase is a folder; give a file, like nobase/suite.yaml"]),
    (["--train", "colours.csv", "-o", "suite.txt"], ["allowed: a name that ends in .yaml"]),
]


@pytest.mark.parametrize(("argv", "parts"), BAD)
def test_bad_input_is_one_message_and_nothing_is_written(place, init, argv, parts):
    before = sorted(os.listdir(place))
    code, _, err = init(*argv)
    assert code == cli.BAD_INPUT
    for part in parts:
        assert part in err
    assert "Traceback" not in err
    assert sorted(os.listdir(place)) == before


def test_a_number_of_scored_examples_may_have_zeros_before_it_but_not_too_many_digits():
    assert given.read(None, None, "0" * 5000 + "2_0").limit == 20
    for wrong in ("1" + "0" * 15, "1" + "0" * 5000, "0", "٣"):
        with pytest.raises(UserError, match=r"--limit: given '.{1,60}'; allowed"):
            given.read(None, None, wrong)


def test_a_folder_that_is_no_base_is_refused(place, init):
    code, _, err = init("--train", "colours.csv", base=place / "nobase")
    assert code == cli.BAD_INPUT
    assert "the folder has no config.json, so it is not a Hugging Face model folder" in err
    code, _, err = init("--train", "colours.csv", base="no base")
    assert "neither a built-in base (nano) nor an existing folder nor a hub id" in err


def test_the_recorded_command_writes_the_same_file(place, init):
    code, _, err = init("--train", "colours.csv", "-o", "mine.yaml")
    assert (code, err) == (0, "")
    words = (place / "mine.yaml").read_text().replace("#", "").split()
    assert words[words.index("-o") + 1] == "mine.yaml"


PLACES = [
    ("work/org/tiny", "work/s.yaml", "./org/tiny", "../colours.csv"),
    ("tiny", "work/org/s.yaml", None, None),
    ("work", "work/s.yaml", "./.", "../colours.csv"),
    ("./nano", "s.yaml", "./nano", "colours.csv"),
]


@pytest.mark.parametrize(("base", "output", "written", "train"), PLACES)
def test_plan_loads_the_base_and_the_files_that_init_was_given(
    base, output, written, train, place, tiny, init, monkeypatch, capsys
):
    folder = place / base
    folder.mkdir(parents=True, exist_ok=True)
    for file in tiny.iterdir():
        (folder / file.name).symlink_to(file)
    (place / "work/org").mkdir(parents=True, exist_ok=True)
    (place / "other").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    measured = []
    monkeypatch.setattr(
        pilot, "measure", lambda trials, *_: measured.extend(trials) or {pilot.shape(trial): KNOWN for trial in trials}
    )
    argv = ["--train", "colours.csv", "--test", "./colours.csv", "--time", "10h", "-o", output]
    code, _, err = init(*argv, base=base)
    assert code == 0, err
    text = (place / output).read_text()
    for key, value in (("base", written), ("    train", train), ("    test", train)):
        assert value is None or f"\n{key}: {value}\n" in text.replace('"', ""), key
    for here in (place, place / "other"):
        monkeypatch.chdir(here)
        made = suite.load(place / output)
        assert Path(made.base.source).samefile(folder)
        assert {Path(file) for file in made.tasks[0].files.values()} == {place / "colours.csv"}
    monkeypatch.chdir(place)
    assert cli.main(["plan", output]) == 0
    printed = capsys.readouterr()
    assert "hub" not in printed.out + printed.err
    assert not [name for name in os.listdir((place / output).parent) if name.startswith(".")]
    assert {trial.base for trial in measured} == {made.base}, "run finds the pilots again"
    assert " (measured by `init --time` on this machine)" in printed.out, "and so does plan, with the search"


def test_a_folder_of_the_name_of_a_built_in_base_is_not_that_base(place, init):
    (place / "nano").mkdir()
    assert init("--train", "colours.csv", base="nano")[0] == 0
    assert suite.load("suite.yaml").base.source == "nano"


@pytest.mark.parametrize("terminal", [True, False])
def test_on_a_terminal_it_says_that_the_prediction_takes_a_while(place, init, planner, monkeypatch, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    code, _, err = init("--train", "colours.csv")
    assert code == 0
    assert ("predicting the memory of 7 methods; this takes some seconds" in err) == terminal


def test_a_file_is_not_overwritten_without_force(place, init):
    (place / "suite.yaml").write_text("mine")
    code, _, err = init("--train", "colours.csv")
    assert (code, (place / "suite.yaml").read_text()) == (cli.BAD_INPUT, "mine")
    assert "suite.yaml exists and is not overwritten; give another name, or --force" in err
    assert init("--train", "colours.csv", "--force")[0] == 0
    assert "tasks:" in (place / "suite.yaml").read_text()


def test_of_a_hub_id_that_is_not_here_it_says_what_it_cannot_know(place, init, monkeypatch):
    def absent(*_, **__):
        raise UserError("base 'organisation/model': no such folder, and not in the hub's cache")

    monkeypatch.setattr(find, "_from_hub", absent)
    code, out, _ = init("--train", "colours.csv", base="organisation/model")
    assert code == 0
    assert "not known: organisation/model is no folder here and the hub cannot be reached: its shape" in out
    made = suite.load("suite.yaml")
    assert made.base.source == "organisation/model"
    assert "full" not in [block.method for block in made.blocks]
    assert "# full: left out, until the base is here" in (place / "suite.yaml").read_text()


@pytest.mark.parametrize(
    ("budget", "micro", "checkpoints", "left", "changed"),
    [
        (1000, 16, False, set(), {}),
        (260, 16, False, {"full"}, {}),
        (150, 4, False, {"full"}, {}),
        (105, 2, True, {"full", "prefix_tuning"}, {}),
        (50, 2, False, {"full"}, {"lora": "nf4", "adapter": "nf4"}),
    ],
)
def test_scores_are_left_alone_before_a_precision_is_made_smaller(
    budget, micro, checkpoints, left, changed, tmp_path, planner
):
    (tmp_path / "s.yaml").write_text(
        "base: nano\ntasks: [compute]\ntrain: {batch_size: 16}\nmethods: [full, lora, qlora, adapter, prefix_tuning]\n"
    )
    trials = {trial.method: trial for trial in suite.expand(suite.load(tmp_path / "s.yaml"), "cpu")}
    found = fitting.fit(list(trials.values()), tmp_path, 1024 * budget, False)
    assert (found.micro_batch_size, found.gradient_checkpointing) == (micro, checkpoints)
    assert set(found.left_out) == left
    precisions = {name: each["precision"] for name, each in found.settings.items() if "precision" in each}
    assert changed.items() <= precisions.items()
    assert planner.asked < 50


KNOWN = Measured(fixed_seconds=1.0, first_steps=0, step_seconds=0.1, scoring_seconds=0.0)


@pytest.mark.parametrize(
    ("limit", "steps", "search", "told"),
    [
        ("1h", 21, True, "with a search of learning rates"),
        ("75s", 21, False, "learning rates are untuned defaults: a search would take about "),
    ],
)
def test_the_time_decides_on_search_and_steps(place, init, monkeypatch, limit, steps, search, told):
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.setattr(pilot, "measure", lambda trials, *_: {pilot.shape(trial): KNOWN for trial in trials})
    code, out, err = init("--train", "colours.csv", "--time", limit)
    assert code == 0, err
    assert told in out
    made = suite.load("suite.yaml")
    assert made.train["steps"] == (steps,)
    assert (made.train.get("learning_rate") == ("search",)) is search
    assert made.search is not None
    assert (made.tasks[0].validation_fraction > 0) is search


def test_too_little_time_is_said_in_the_first_line_of_the_smallest_suite(place, init, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.setattr(pilot, "measure", lambda trials, *_: {pilot.shape(trial): KNOWN for trial in trials})
    code, out, err = init("--train", "colours.csv", "--time", "5s")
    assert code == 0, err
    least = "takes at least about 7.00 s, more than --time 5.00 s; this is the least that is worth it"
    assert (place / "suite.yaml").read_text().splitlines()[0] == f"# It {least}."
    assert f"time: {least}" in " ".join(out.split())
    assert " ".join(out.split()).count(least) == 1
    made = suite.load("suite.yaml")
    assert (made.seeds, made.train["steps"], len(made.blocks)) == ((0,), (20,), 3)
    assert cli.main(["plan", "suite.yaml"]) == 0


def test_what_is_printed_is_what_was_written_also_if_nothing_could_be_measured(place, init, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    over = Measured(problem=pilot.NO_TIME)
    monkeypatch.setattr(pilot, "measure", lambda trials, *_: {pilot.shape(trial): over for trial in trials})
    code, out, err = init("--train", "numbers.csv", "--time", "5s")
    assert code == 0, err
    made, text = suite.load("suite.yaml"), " ".join(out.split())
    assert (made.seeds, made.train["steps"], [b.method for b in made.blocks]) == ((0,), (9,), ["base", "full", "lora"])
    assert "amount: 1 seed, 9 steps of 16 examples (" in text
    assert "no method could be measured in 1.00 s, so this is the smallest suite" in text
    assert "one seed is too few for `answer`, which needs 2" in text
    assert "3 seeds" not in text
    assert "methods: base, full, lora left out: " in text
    assert "left out: qlora, adapter, prefix_tuning, prompt_tuning, llama_adapter: there was no time to measure" in text
    assert "what to do: give a larger --time" in text
    assert out.rpartition("wrote:")[0].splitlines()[-1].startswith("not known: what the classes mean: "), "seen last"
    assert cli.main(["plan", "suite.yaml"]) == 0


def test_methods_seeds_and_scored_examples_can_be_given(place, init):
    code, out, err = init("--train", "colours.csv", "--methods", "base, lora,adapter", "--seeds", "5,9", "--limit", "7")
    assert code == 0, err
    made = suite.load("suite.yaml")
    assert [block.method for block in made.blocks] == ["base", "lora", "adapter"]
    assert (made.seeds, made.tasks[0].limit) == ((5, 9), 7)
    assert "amount:    2 seeds, " in out
    assert " examples), 7 of 24 scored\n" in out
    assert "# as given" in (place / "suite.yaml").read_text()
    head = " ".join(line.removeprefix("# ") for line in (place / "suite.yaml").read_text().splitlines()[:3])
    assert "--methods 'base, lora,adapter' --seeds 5,9 --limit 7" in head
    code, out, _ = init("--train", "colours.csv", "--limit", "99", "--seeds", "2", "--force")
    assert code == 0
    assert "--limit 99 leaves out nothing" in out
    made = suite.load("suite.yaml")
    assert (made.seeds, made.tasks[0].limit) == ((0, 1), None)


def test_a_prompt_of_generation_is_scored_once_against_all_its_answers(place, init):
    rows = [{"instruction": f"say {n % 30}", "output": f"it is {n}"} for n in range(60)]
    (place / "say.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = init("--train", "say.jsonl")
    assert code == 0, err
    assert "data:      say.jsonl: 60 records; 6 test prompts drawn, each with all its answers" in out
    assert "overlap:   no scored prompt is a training prompt" in out
    assert suite.load("suite.yaml").tasks[0].several_references
    assert cli.main(["plan", "suite.yaml"]) == 0


def test_a_pilot_that_fails_leaves_the_time_unknown(place, init, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    failed = Measured(problem="oom in phase load: out of memory")
    monkeypatch.setattr(pilot, "measure", lambda trials, *_: {pilot.shape(trial): failed for trial in trials})
    code, out, _ = init("--train", "colours.csv", "--time", "1h")
    assert code == 0
    assert "not known: the time of full fp32: oom in phase load: out of memory" in out


def test_of_a_budget_that_may_be_a_gpus_a_part_is_reserved(place, init):
    name = f"my {'long ' * 20}suite.yaml"
    code, out, _ = init("--train", "colours.csv", "--budget", "16GiB", "-o", name)
    assert code == 0
    assert f"next:      peftbench plan '{name}'\n" in out
    os.rename(name, "suite.yaml")
    assert "memory:    predicted peaks " in out
    assert ", within 16.0 GiB\n" in out
    assert "predicted peak 65" in (place / "suite.yaml").read_text()
    assert "the peaks include non-tensor GPU memory" in out
    assert suite.load("suite.yaml").evaluate_batch_size is None, "auto"
    init("--train", "colours.csv", "--budget", "1GiB", "--force")
    assert suite.load("suite.yaml").evaluate_batch_size == 32


REAL = {
    "trec/train.csv": ("choice", ("label", "text"), 6),
    "glue_cola/train.tsv": ("choice", ("column1", "label", "column3", "text"), 2),
    "sst2/train.tsv": ("choice", (), 2),
    "gsm8k/train.jsonl": ("exact_match", (), 0),
    "instruction_data_rasbt/instruction-data.json": ("generation", (), 0),
    "e2e_nlg/valid.txt": ("generation", (), 0),
    "wikitext2/valid.txt": ("language_modelling", (), 0),
}


@pytest.mark.parametrize("name", REAL)
def test_real_datasets_are_recognized(name, real_data):
    found = data.look(real_data / name, None, False, Asked())
    assert (found.found.kind, found.columns, len(found.classes)) == REAL[name]


def test_an_encoder_is_refused_with_the_way_to_use_it(place, init):
    folder = place / "encoder"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    code, _, err = init("--train", "colours.csv", base=folder)
    assert code == cli.BAD_INPUT
    told = " ".join(err.split())
    assert "a task of kind: classification gives it a head for whole texts; init writes suites for models that" in told
