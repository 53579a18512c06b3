"""What the command line and the environment change: --set, --only, --seeds and ${NAME}."""

import pytest

from peftbench import suite
from peftbench.errors import UserError

TEXT = """\
base: nano
tasks: [judge, compute]
seeds: 2
train:
  steps: 100
methods:
  base:
  full: {precision: [fp32, bf16]}
  lora:
    - rank: [2, 8]
    - {rank: 8, precision: bf16}
"""
ENVIRONMENT = """\
base: ${BASE}
tasks: [judge]
train:
  steps: ${STEPS:-20}
methods: [full]
"""


@pytest.fixture
def trials(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def expand(*overrides, text=TEXT, environ=None, **options):
        (tmp_path / "x.yaml").write_text(text)
        return suite.expand(suite.load("x.yaml", overrides=overrides, environ=environ or {}, **options), "cpu")

    return expand


@pytest.fixture
def refused(trials):
    def message(*overrides, **options):
        with pytest.raises(UserError) as raised:
            trials(*overrides, **options)
        return str(raised.value)

    return message


def cells(found):
    return list(dict.fromkeys(trial.cell for trial in found))


def test_an_override_is_as_if_written_in_the_file(trials):
    found = trials("train.steps=20", "train.learning_rate=1e-2", "base=org/x", "base.revision=main", "workers=2")
    assert {t.training.steps for t in found if t.training} == {20}
    assert {t.training.learning_rate for t in found if t.training} == {1e-2}
    assert (found[0].base.source, found[0].base.revision) == ("org/x", "main")


def test_an_override_reaches_into_lists_and_creates_missing_mappings(trials):
    found = trials(
        "methods.lora.0.rank=4", "evaluate.batch_size=3", "methods.qlora.rank=1", "methods.base.precision=bf16"
    )
    assert cells(found) == [
        "base bf16",
        "full fp32",
        "full bf16",
        "lora r=4 fp32",
        "lora r=8 bf16",
        "qlora r=1 nf4",
    ]
    assert found[0].evaluation.batch_size == 3


def test_an_override_may_be_a_list_or_a_mapping(trials):
    assert cells(trials("methods=[full, base]")) == ["full fp32", "base fp32"]
    assert cells(trials("methods={lora: {rank: [1, 2]}}")) == ["lora r=1 fp32", "lora r=2 fp32"]
    assert {t.evaluate for t in trials("tasks=[describe]")} == {("describe",)}


def test_the_last_of_two_overrides_holds(trials):
    assert trials("train.steps=5", "train.steps=6")[-1].training.steps == 6


def test_overriding_one_amount_drops_the_files_other(trials):
    found = trials("train.epochs=2")
    assert (found[-1].training.steps, found[-1].training.epochs) == (None, 2.0)


def test_a_setting_of_a_method_with_several_blocks_is_set_in_each_or_in_the_one_that_is_named(trials):
    def rates(*overrides):
        found = trials("methods.lora.learning_rate=1e-3", *overrides)
        return [trial.training.learning_rate for trial in found if trial.method == "lora" and trial.seed == 0]

    assert rates() == [1e-3] * 3
    assert rates("methods.lora.0.learning_rate=[2e-3]") == [2e-3, 2e-3, 1e-3]
    steps = [t.training.steps for t in trials("methods.lora.epochs=2") if t.method == "lora"]
    assert steps == [None] * 6, "the other ways to give the length of training are dropped in each block"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.stpes=5", ["--set: train.stpes: unknown key 'stpes'", "did you mean 'steps'?"]),
        ("trian.steps=5", ["--set: trian: unknown key 'trian'", "did you mean 'train'?"]),
        ("methods.lorra.rank=5", ["--set: methods.lorra: unknown method 'lorra'", "did you mean 'lora'?"]),
        ("train.steps=many", ["--set: train.steps: given 'many' (text); allowed: a whole number"]),
        ("train.steps", ["--set: given 'train.steps'; allowed: KEY=VALUE", "train.steps=20"]),
        ("=5", ["--set: given '=5'; allowed: KEY=VALUE"]),
        ("train..steps=5", ["--set: given 'train..steps=5'"]),
        ("train.steps=[1", ["--set: train.steps: not YAML: ", "quotes of its own"]),
        ("methods.lora.rnak=4", ["--set: methods.lora.rnak: unknown key 'rnak'; did you mean 'rank'?"]),
        ("methods.lora.0.rnak=4", ["--set: methods.lora.0.rnak: unknown key 'rnak'; did you mean 'rank'?"]),
        ("methods.lora.rank=-4", ["--set: methods.lora.rank: given -4"]),
        ("methods.ia3=", ["--set: methods.ia3: unknown method 'ia3', but peft has this tuner; write peft: {peft_type"]),
        ("methods.Lora=", ["--set: methods.Lora: unknown method 'Lora'; did you mean 'lora'?"]),
        ("methods.lora.2.rank=4", ["--set: methods.lora.2: methods.lora is a list of 2"]),
        ("seeds.0=4", ["--set: seeds.0: seeds is 2 (a whole number), which has no keys"]),
        ("train.steps={a: 1, a: 2}", ["--set: train.steps: a: the key 'a' is given twice"]),
        ("train={steps: 1, epochs: 2}", ["--set: train.epochs: allowed: exactly one of"]),
    ],
)
def test_a_wrong_override_is_reported_like_a_wrong_line(refused, override, parts):
    message = refused(override)
    for part in parts:
        assert part in message, message


def test_the_environment_fills_values_of_any_type(trials):
    (found, *_) = trials(text=ENVIRONMENT, environ={"BASE": "12"})
    assert (found.base.source, found.training.steps) == ("12", 20)
    (found, *_) = trials(text=ENVIRONMENT, environ={"BASE": "a b", "STEPS": "5"})
    assert (found.base.source, found.training.steps) == ("a b", 5)
    found = trials(text=ENVIRONMENT, environ={"BASE": "x", "STEPS": "[5, 6]"}, seeds="1")
    assert [t.training.steps for t in found] == [5, 6]


def test_an_unset_variable_is_reported_with_both_ways_to_give_it(refused):
    message = refused(text=ENVIRONMENT)
    assert message == (
        "x.yaml:1: base: the environment variable BASE is not set; set it, or give the value: --set base=..."
    )
    message = refused(text=ENVIRONMENT, environ={"BASE": ""})
    assert "the environment variable BASE is set, but empty; set it, or give the value" in message


def test_all_unset_variables_are_reported_at_once(refused):
    assert len(refused(text=ENVIRONMENT.replace(":-20", "")).splitlines()) == 2


def test_an_overridden_key_needs_no_variable(trials):
    assert trials("base=nano", text=ENVIRONMENT)[0].base.source == "nano"
    assert trials("base.source=nano", text=ENVIRONMENT)[0].base.source == "nano"


def test_a_wrong_value_from_the_environment_is_reported_with_the_files_line(refused):
    message = refused(text=ENVIRONMENT, environ={"BASE": "x", "STEPS": "many"})
    assert "x.yaml:4: train.steps: given 'many' (text); allowed: a whole number, at least 1" in message


def test_dollar_signs_that_are_not_variables(trials, refused):
    text = (
        "base: nano\nmethods: [full]\ntasks:\n  t: {kind: exact_match, train: a, test: b, target: $5,\n"
        "    prompt: 'pay ${{ price }} or $${NAME}'}\n"
    )
    assert trials(text=text)[0].tasks[0].prompt == "pay ${{ price }} or ${NAME}"
    assert "does not begin ${NAME} or ${NAME:-default}" in refused(text=text.replace("$$", "$").replace("NAME", "5"))


def test_paths_from_outside_the_file_start_at_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.yaml").write_text(
        "base: ${B}\nmethods: [full]\ntasks:\n"
        "  t: {kind: exact_match, train: '${T}', validation: 'v/${T}', test: e.csv, prompt: p, target: t}\n"
    )
    environ = {"B": "../m", "T": "t.csv"}
    read = suite.load("sub/x.yaml", environ=environ, overrides=["tasks.t.test=d/e.csv"])
    assert read.base.source == str(tmp_path.parent / "m")
    assert read.tasks[0].files == {
        "train": str(tmp_path / "t.csv"),
        "validation": str(tmp_path / "sub" / "v" / "t.csv"),
        "test": str(tmp_path / "d" / "e.csv"),
    }
    assert {type(text) for text in (*read.tasks[0].files.values(), read.base.source, read.tasks[0].name)} == {str}


@pytest.mark.parametrize(
    ("seeds", "found"), [("1", [0]), ("3", [0, 1, 2]), ("0,5", [0, 5]), ("5,", [5]), (" 4 , 2 ", [4, 2])]
)
def test_seeds_are_a_count_or_a_list(trials, seeds, found):
    assert [t.seed for t in trials(seeds=seeds, only=["method=full", "precision=fp32"])] == found


@pytest.mark.parametrize("seeds", ["", "x", "-1", "1.5", "0", ",", "1,,2", "²"])
def test_wrong_seeds_are_refused(refused, seeds):
    message = refused(seeds=seeds)
    assert "--seeds: " in message
    assert "given" in message


def test_only_selects_or_within_a_field_and_across_fields(trials):
    def selected(*only):
        return cells(trials(only=only))

    assert selected("method=lora") == ["lora r=2 fp32", "lora r=8 fp32", "lora r=8 bf16"]
    assert selected("method=lora", "method=base") == ["base fp32", "lora r=2 fp32", "lora r=8 fp32", "lora r=8 bf16"]
    assert selected("method=lora,full", "precision=bf16") == ["full bf16", "lora r=8 bf16"]
    assert selected("rank=8", "seed=1") == ["lora r=8 fp32", "lora r=8 bf16"]
    assert selected("rank=none") == ["base fp32", "full fp32", "full bf16"]
    assert {t.seed for t in trials(only=["seed=1,none"])} == {1, None}


def test_only_changes_no_trial(trials):
    everything = trials()
    assert all(trial in everything for trial in trials(only=["method=lora", "rank=2"]))


def test_a_cell_is_selected_by_its_whole_name(trials):
    found = trials(only=["cell=lora r=2 fp32", "cell=lora r=8 fp32"])
    assert {trial.cell for trial in found} == {"lora r=2 fp32", "lora r=8 fp32"}


def test_an_only_that_names_a_tuner_of_the_suites_peft_says_how_to_select_it(refused):
    tuned = TEXT + "  peft: {peft_type: IA3, learning_rate: 0.01}\n"
    message = refused(text=tuned, only=["method=ia3"])
    assert "no trial has this value; IA3 is a tuner of the method peft: --only method=peft; allowed: base" in message


@pytest.mark.parametrize(
    ("only", "parts"),
    [
        (
            ["method=lorra"],
            ["--only method=lorra: no trial has this value; did you mean 'lora'? allowed: base, full, lora"],
        ),
        (
            ["method=ia3"],
            [
                "--only method=ia3: no trial has this value; the suite does not have it, but peft has this tuner; ",
                "write peft: {peft_type: IA3} under methods (its settings: peftbench list methods IA3); allowed: base",
            ],
        ),
        (["method=qlora"], ["the suite does not have it: --set methods.qlora= adds it; allowed: base, full, lora"]),
        (["method=peft"], ["the suite does not have it: peft: {peft_type: NAME} under methods adds a tuner; allowed"]),
        (["rank=4"], ["--only rank=4: no trial has this value; allowed: none, 2, 8"]),
        (["seed=7"], ["allowed: none, 0, 1"]),
        (
            ["metod=lora"],
            ["--only: unknown field 'metod'; did you mean 'method'? allowed: cell, method, precision, rank, seed"],
        ),
        (["lora"], ["--only: given 'lora'; allowed: FIELD=VALUE"]),
        (["method="], ["--only: given 'method='"]),
        (["method=full", "rank=2"], ["--only method=full rank=2: no trial matches all of these", "lora r=2 fp32"]),
    ],
)
def test_an_only_that_matches_nothing_is_refused_with_what_is_allowed(refused, only, parts):
    message = refused(only=only)
    for part in parts:
        assert part in message, message
