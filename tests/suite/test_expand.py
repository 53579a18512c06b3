"""The grid: lists are axes, the strongest setting wins, every cell has its name, the shipped suites expand."""

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from peftbench import suite
from peftbench.methods import METHODS
from peftbench.records import Base, Task
from peftbench.suite import trial_key
from peftbench.suite.schema import TRAIN, method_settings

REPOSITORY = Path(__file__).parents[2]
HEAD = "base: nano\ntasks: [judge, compute]\nseeds: 1\n"
REAL = {"PEFTBENCH_BASE": "org/model", "PEFTBENCH_TRAIN": "train.csv", "PEFTBENCH_TEST": "/data/test.csv"}
REAL |= {"LLM_ADAPTERS": "checkout"}
CELLS = [
    "base fp32",
    "full fp32",
    "full bf16",
    "prompt_tuning r=50 fp32",
    "prefix_tuning r=16 fp32",
    "adapter r=16 fp32",
    "adapter r=64 fp32",
    "llama_adapter r=10 fp32",
    "lora r=2 fp32",
    "lora r=8 fp32",
    "lora r=8 bf16",
    "lora r=8 int8",
    "lora r=32 fp32",
    "qlora r=8 nf4",
]


@pytest.fixture
def trials(tmp_path, monkeypatch):
    """Return the trials of a suite's text."""
    monkeypatch.chdir(tmp_path)

    def expand(text, device="cpu", environ=None, **options):
        (tmp_path / "x.yaml").write_text(text)
        return suite.expand(suite.load("x.yaml", environ=environ or {}, **options), device)

    return expand


def cells(found):
    return list(dict.fromkeys(trial.cell for trial in found))


def test_the_quickstart_is_these_cells_in_40_trials():
    found = suite.expand(suite.load("quickstart", environ={}), "cpu")
    assert cells(found) == CELLS
    assert len(found) == 40
    assert [t.seed for t in found] == [None] + [0, 1, 2] * 13
    assert all(t.unsupported is None for t in found)
    assert {t.evaluation.max_length for t in found} == {64}
    assert {t.evaluate for t in found} == {("describe", "compute", "judge")}
    assert {(t.training.steps, t.training.batch_size) for t in found if t.training} == {(150, 16)}


def test_every_shipped_suite_expands_and_begins_with_its_command():
    files = sorted((REPOSITORY / "suites").glob("*.yaml"))
    assert len(files) >= 2
    assert suite.names() == tuple(file.stem for file in files)
    for file in files:
        assert file.read_text().startswith("#")
        assert re.search(rf"peftbench (run|plan) {file.stem}\b", file.read_text().split("\n\n")[0])
        found = suite.expand(suite.load(file.stem, environ=REAL), "cpu")
        assert found
        assert len({(t.cell, t.seed) for t in found}) == len(found)
        json.dumps([asdict(t) for t in found])  # plain data throughout
        assert {t.suite for t in found} == {file.stem}


def test_the_real_suite_has_seven_methods_and_the_base_and_no_path_of_its_own():
    found = suite.expand(suite.load("real_small", environ=REAL), "cpu")
    assert [t.method for t in found if t.seed in (0, None)] == [name for name in METHODS.own if name != "peft"]
    assert len(found) == 22
    (task,) = found[0].tasks
    assert task.files == {"train": str(Path.cwd() / "train.csv"), "test": "/data/test.csv"}
    assert found[0].base == Base("org/model")
    assert {(t.training.steps, t.training.batch_size) for t in found if t.training} == {(400, 32)}


def test_loading_and_expanding_imports_no_heavy_library():
    code = (
        "import sys; from peftbench import suite; suite.expand(suite.load('quickstart'), 'cpu');"
        "print([m for m in ('torch', 'transformers', 'peft', 'pandas', 'matplotlib', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == "[]\n"


def test_the_build_finds_every_folder_of_the_package_and_the_suites():
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert build["package-dir"] == {"peftbench._suites": "suites"}
    assert (REPOSITORY / "peftbench" / "_suites" / "__init__.py").is_file()
    folders = {file.parent for file in (REPOSITORY / "peftbench").rglob("*.py")}
    assert len(folders) >= 5
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
    assert {"peftbench._suites", "peftbench.models.builtin", "peftbench.report"} <= set(build["package-data"])


def test_every_list_is_an_axis_and_the_first_varies_slowest(trials):
    text = HEAD + "methods:\n  lora: {rank: [2, 8], precision: [fp32, bf16], dropout: [0, 0.1]}\n"
    assert cells(trials(text)) == [
        "lora r=2 fp32",
        "lora r=2 dropout=0.1 fp32",
        "lora r=2 bf16",
        "lora r=2 dropout=0.1 bf16",
        "lora r=8 fp32",
        "lora r=8 dropout=0.1 fp32",
        "lora r=8 bf16",
        "lora r=8 dropout=0.1 bf16",
    ]


def test_a_list_of_blocks_is_several_grids(trials):
    text = HEAD + "methods:\n  lora:\n    - rank: [2, 4]\n    - {rank: 8, precision: bf16}\n    -\n"
    assert cells(trials(text)) == ["lora r=2 fp32", "lora r=4 fp32", "lora r=8 bf16", "lora r=8 fp32"]


def test_a_list_of_names_is_one_value_and_a_list_of_lists_an_axis(trials):
    text = HEAD + "methods:\n  lora:\n    target_modules: "
    assert cells(trials(text + "[q_proj, v_proj]")) == ["lora r=8 target_modules=q_proj+v_proj fp32"]
    found = trials(text + "[all-linear, [q_proj], [v_proj, o_proj]]")
    assert [t.options["target_modules"] for t in found] == ["all-linear", ["q_proj"], ["v_proj", "o_proj"]]
    assert len(set(cells(found))) == 3


def test_a_training_setting_that_distinguishes_cells_is_in_the_name(trials):
    text = (
        HEAD + "search: false\nmethods:\n"
        "  full: {learning_rate: [1e-3, 2e-3], clip_norm: [1, null]}\n  lora: {rank: [4, 8]}\n"
    )
    assert cells(trials(text)) == [
        "full lr=0.001 clip_norm=1 fp32",
        "full lr=0.001 clip_norm=none fp32",
        "full lr=0.002 clip_norm=1 fp32",
        "full lr=0.002 clip_norm=none fp32",
        "lora r=4 fp32",
        "lora r=8 fp32",
    ]


def test_a_list_in_train_is_an_axis_of_every_method_but_the_base(trials):
    text = HEAD + "train: {steps: [50, 100], batch_size: 4}\nmethods: [base, full]\n"
    assert cells(trials(text)) == ["base fp32", "full steps=50 fp32", "full steps=100 fp32"]
    text = HEAD + "train: {batch_size: [4, 8]}\nmethods: [full]\n"
    assert cells(trials(text)) == ["full batch_size=4 fp32", "full batch_size=8 fp32"]
    assert [t.training.micro_batch_size for t in trials(text)] == [4, 8]


def test_an_amount_of_another_kind_replaces_the_weaker_ones(trials):
    text = HEAD + "train: {epochs: [1, 2]}\nmethods:\n  full:\n  lora: [{tokens: 5000}, {steps: 7}]\n"
    amounts = [(t.cell, t.training.steps, t.training.epochs, t.training.tokens) for t in trials(text)]
    assert amounts == [
        ("full epochs=1 fp32", None, 1.0, None),
        ("full epochs=2 fp32", None, 2.0, None),
        ("lora r=8 tokens=5000 fp32", None, None, 5000),
        ("lora r=8 steps=7 fp32", 7, None, None),
    ]
    assert trials(HEAD + "methods: {full: {steps: null}}")[0].training.steps == 100


def test_the_block_wins_over_train_over_the_recipe_over_the_default(trials):
    def training(train, block):
        (found,) = trials(HEAD + f"train: {train}\nmethods:\n  qlora: {block}\n")
        return found.training.learning_rate, found.training.optimizer, found.training.schedule

    assert training("{}", "{}") == (5e-3, "paged_adamw", "linear")
    assert training("{learning_rate: 1, optimizer: sgd}", "{}") == (1.0, "sgd", "linear")
    assert training("{learning_rate: 1, schedule: cosine}", "{learning_rate: 2}") == (2.0, "paged_adamw", "cosine")
    assert training("{optimizer: sgd}", "{optimizer: adamw, schedule: constant}") == (5e-3, "adamw", "constant")


def test_defaults_are_those_of_the_table(trials):
    (found,) = trials(HEAD + "methods: [full]\n")
    for key in set(TRAIN) - {"learning_rate", "micro_batch_size"}:
        assert getattr(found.training, key) == TRAIN[key].default, key
    assert found.training.micro_batch_size == 16
    assert found.training.data == (("judge", 1.0), ("compute", 1.0))


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_every_methods_record_fits_the_table_of_settings(method):
    assert set(method.training) <= set(TRAIN)
    assert not set(method.options) & ({"precision", "rank", "data"} | set(TRAIN))
    for key, value in method.training.items():
        assert repr(TypeAdapter(TRAIN[key].type).validate_python(value, strict=True)) == repr(value)
    for key, setting in {**method_settings(method), **TRAIN}.items():
        if not (key == "learning_rate" and setting.default is None):
            checked = TypeAdapter(setting.type).validate_python(setting.default, strict=True)
            assert repr(checked) == repr(setting.default), key
    assert not method.trains or method.variants or method.training["learning_rate"] > 0  # tuners differ too much


def test_alpha_may_be_a_multiple_of_the_rank(trials):
    found = trials(HEAD + "methods:\n  lora: {rank: [2, 8], alpha: [1r, 16]}\n")
    assert [(t.cell, t.options["alpha"]) for t in found] == [
        ("lora r=2 alpha=1r fp32", 2.0),
        ("lora r=2 alpha=16 fp32", 16.0),
        ("lora r=8 alpha=1r fp32", 8.0),
        ("lora r=8 alpha=16 fp32", 16.0),
    ]


def test_ranks_by_pattern_and_starts_are_axes(trials):
    found = trials(HEAD + "methods:\n  lora: {rank_pattern: [{}, {q_proj: 2}], initialization: [kaiming, pissa]}\n")
    assert [t.cell for t in found] == [
        "lora r=8 fp32",
        "lora r=8 initialization=pissa fp32",
        "lora r=8 rank_pattern=q_proj:2 fp32",
        "lora r=8 rank_pattern=q_proj:2 initialization=pissa fp32",
    ]
    assert found[2].options["rank_pattern"] == {"q_proj": 2}


def test_alpha_is_twice_the_rank_and_in_the_name_only_if_given(trials):
    found = trials(HEAD + "methods:\n  lora: [{rank: [2, 8]}, {rank: 2, alpha: 16}]\n")
    assert [(t.cell, t.options["alpha"]) for t in found] == [
        ("lora r=2 fp32", 4.0),
        ("lora r=8 fp32", 16.0),
        ("lora r=2 alpha=16 fp32", 16.0),
    ]


def test_the_base_is_one_row_per_precision_without_seed_rank_and_training(trials):
    text = "base: nano\ntasks: [judge]\nrank: 4\ntrain: {steps: [1, 2]}\nmethods: {base: {precision: [fp32, nf4]}}\n"
    found = trials(text)
    assert [(t.cell, t.seed, t.rank, t.training) for t in found] == [
        ("base fp32", None, None, None),
        ("base nf4", None, None, None),
    ]


def test_top_level_precision_and_rank_are_for_methods_that_give_none(trials):
    text = HEAD + "rank: [2, 4]\nprecision: bf16\nmethods: {full: , lora: , adapter: {rank: 8, precision: fp32}}\n"
    assert cells(trials(text)) == ["full bf16", "lora r=2 bf16", "lora r=4 bf16", "adapter r=8 fp32"]


def test_an_unsupported_cell_is_kept_with_its_reason(trials):
    found = trials(HEAD + "methods: {full: {precision: [fp32, nf4]}, lora: {precision: tf32}}\n")
    assert [bool(t.unsupported) for t in found] == [False, True, True]
    assert "no gradient" in found[1].unsupported
    assert "tf32 does not exist on cpu" in found[2].unsupported
    assert found[1].unsupported == f"full does not exist in nf4, because {found[1].unsupported_reason}"
    assert found[2].unsupported_reason == found[2].unsupported
    assert trials(HEAD + "methods: {lora: {precision: tf32}}\n", device="cuda")[0].unsupported is None


def test_a_trial_knows_the_settings_that_its_name_states(trials):
    tuned = "lora: {rank: [2, 4], alpha: [4, 8], learning_rate: [1e-3, 1e-2]}"
    text = HEAD + f"search: false\nmethods: {{base: , {tuned}, peft: {{peft_type: VERA, r: [4, 8], dropout: 0.5}}}}\n"
    text = text.replace("dropout", "vera_dropout").replace("VERA,", "VERA, learning_rate: 1e-3,")
    found = {t.cell: t.named_settings for t in trials(text)}
    assert found["base fp32"] == ""
    assert found["lora r=2 alpha=4 lr=0.01 fp32"] == "alpha=4 lr=0.01"
    assert found["peft VERA r=8 vera_dropout=0.5 fp32"] == "VERA vera_dropout=0.5"


@pytest.mark.parametrize("name", ["quickstart", "nano_grid", "nano_tuning", "peft_zoo"])
def test_names_of_the_shipped_suites_state_the_same_settings_as_their_trials(name):
    found = suite.expand(suite.load(name, environ={}), "cpu")
    for trial in found:
        known = {trial.method, trial.precision, f"r={trial.rank}"}
        assert trial.named_settings == " ".join(word for word in trial.cell.split() if word not in known)


def test_max_length_is_the_grids_longest_sequence_whatever_is_selected(trials):
    text = HEAD + "train: {sequence_length: 32}\nmethods: {base: , full: , lora: {sequence_length: [48, 64]}}\n"
    assert {t.evaluation.max_length for t in trials(text, only=["method=base,full"])} == {64}
    assert {t.evaluation.max_length for t in trials(text + "evaluate: {max_length: 20}\n")} == {20}


def test_threads_are_shared_by_the_workers(trials, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    text = HEAD + "methods: [full]\n"
    assert [trials(text + more)[0].threads for more in ("", "workers: 3", "workers: 20", "threads: 5")] == [8, 2, 1, 5]


def test_the_test_seed_is_of_builtin_tasks_and_part_of_the_key(trials):
    text = "base: nano\nseeds: 1\nmethods: [full]\ntasks: [judge]\nevaluate: {test_seed: 2}\n"
    (found,) = trials(text)
    assert [task.test_seed for task in found.tasks] == [2]
    assert trial_key.settings(found)["tasks"][0]["test_seed"] == 2


def test_a_builtin_task_may_be_limited(trials):
    (found,) = trials("base: nano\nseeds: 1\nmethods: [full]\ntasks:\n  judge:\n  describe: {limit: 5}\n")
    assert found.tasks == (
        Task("judge", "choice", builtin="judge", max_new_tokens=4, test_seed=1),
        Task("describe", "generation", builtin="describe", max_new_tokens=40, limit=5, test_seed=1),
    )


def test_a_users_task_is_a_record_with_paths_from_the_suites_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.yaml").write_text(
        "base: ./model\nmethods: [base, full]\nseeds: [7]\ntrain: {data: {mine: 2, extra: 1}}\ntasks:\n"
        "  mine: {kind: choice, train: a.csv, test: ../b.csv, prompt: '{{ q }}', target: '{{ a }}',\n"
        "    choices: [no, yes], validation_fraction: 0.1, columns: [q, a]}\n"
        "  extra: {kind: generation, train: /c.jsonl, prompt: p, target: t, max_new_tokens: 9}\n"
    )
    base, full = suite.expand(suite.load("sub/x.yaml"), "cpu")
    mine = Task(
        "mine",
        "choice",
        files={"train": str(tmp_path / "sub" / "a.csv"), "test": str(tmp_path / "b.csv")},
        columns=("q", "a"),
        prompt="{{ q }}",
        target="{{ a }}",
        choices=("no", "yes"),
        validation_fraction=0.1,
    )
    extra = Task(
        "extra", "generation", files={"train": "/c.jsonl"}, prompt="p", target="t", max_new_tokens=9, stop=None
    )
    assert full.tasks == (mine, replace(extra, stop=None))
    assert base.tasks == (mine,)  # extra is only trained on
    assert full.evaluate == base.evaluate == ("mine",)
    assert full.training.data == (("mine", 2.0), ("extra", 1.0))
    assert (full.seed, base.base.source) == (7, str(tmp_path / "sub" / "model"))


def test_validation_is_scored_if_the_suite_asks_for_it(trials):
    text = HEAD + "methods: [full]\nevaluate: {split: validation, batch_size: 8}\ntrain: {validate_every: 5, score: "
    (found,) = trials(text + "best_on_validation}\n")
    assert (found.evaluation.split, found.evaluation.batch_size) == ("validation", 8)
    assert (found.training.validate_every, found.training.score) == (5, "best_on_validation")


def test_scalars_are_read_as_yaml_1_2(trials):
    text = (
        "base: {source: nano, revision: 0123456}\nmethods: {full: {learning_rate: [1e-3, 1E-4, .5]}}\nseeds: 1\n"
        "search: false\nname: 1e5x\ndescription: 2024-01-01\ntasks:\n"
        "  t: {kind: choice, train: a, test: b, prompt: p, target: t, choices: [on, off, yes, n]}\n"
    )
    found = trials(text)
    assert [t.training.learning_rate for t in found] == [1e-3, 1e-4, 0.5]
    assert found[0].tasks[0].choices == ("on", "off", "yes", "n")
    assert found[0].base.revision == "0123456"


def test_anchors_and_merges_work(trials):
    text = (
        HEAD + "methods:\n  lora:\n    - &a {rank: 4, dropout: 0.1}\n    - {<<: *a, rank: 8}\n    - {<<: *a, rank: 2}\n"
    )
    assert cells(trials(text)) == [f"lora r={r} dropout=0.1 fp32" for r in (4, 8, 2)]


def test_a_device_that_is_not_resolved_is_refused():
    with pytest.raises(ValueError, match="device: given 'auto'"):
        suite.expand(suite.load("quickstart"), "auto")
