"""Defaults that follow from the base model and the data: what the suite does not give, for other bases than nano."""

import json
import math
import shutil
import subprocess
import sys

import pytest

from peftbench import suite
from peftbench.errors import UserError
from peftbench.records import Example, Task
from peftbench.suite import base_defaults, learning_rate_search, trial_key
from peftbench.training import token_lengths
from tests.support import tiny_base

METHODS = "methods: {base: , full: , lora: , qlora: , prompt_tuning: , prefix_tuning: , adapter: , llama_adapter: }\n"
TASK = """tasks:
  colour:
    kind: exact_match
    train: train.jsonl
    test: train.jsonl
    validation_fraction: 0.1
    prompt: "{{ p }}"
    target: "{{ t }}"
    max_new_tokens: 4
seeds: 1
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny base model and 400 examples, of which 1 % are long."""
    folder = tmp_path_factory.mktemp("defaults")
    tiny_base.make(folder / "tiny")
    rows = [{"p": "one " * (60 if i % 100 == 0 else 1 + i % 10), "t": "red"} for i in range(400)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def trials(place, monkeypatch):
    """Return the resolved trials of a suite's text."""
    monkeypatch.chdir(place)

    def expand(text, base="./tiny", device="cpu", **options):
        (place / "x.yaml").write_text(f"base: {base}\n{TASK}{text}")
        made = base_defaults.resolve(suite.load("x.yaml", environ={}), **options)
        return suite.expand(made, device)

    return expand


def by_method(found):
    return {trial.method: trial for trial in found}


def test_rates_follow_from_the_width_and_are_marked_as_the_rule_s(trials):
    found = by_method(trials(METHODS))
    assert {name: t.training.learning_rate for name, t in found.items() if t.training} == {
        "full": 7.5e-4,
        "lora": 7.4e-3,
        "qlora": 7.4e-3,
        "prompt_tuning": 0.1,
        "prefix_tuning": 0.015,
        "adapter": 2.9e-3,
        "llama_adapter": 0.075,
    }
    assert {t.learning_rate_source for t in found.values() if t.training} == {"rule"}
    assert found["base"].learning_rate_source is None
    assert found["lora"].defaults["learning_rate"] == "untuned default for a hidden size of 64"
    assert found["qlora"].training.optimizer == "paged_adamw"  # the rest of the recipe stays


def test_a_7b_model_gets_bf16_and_rates_that_do_not_destroy_it(trials):
    found = by_method(trials(METHODS, base="{shape: llama-7b}"))
    assert {name: t.precision for name, t in found.items()} == dict.fromkeys(found, "bf16") | {"qlora": "nf4"}
    assert found["full"].training.learning_rate == 4.1e-5
    assert found["lora"].training.learning_rate == 4e-4
    assert "6.74 billion" in found["full"].defaults["precision"]
    assert "precision" not in found["qlora"].defaults
    assert by_method(trials(METHODS, base="{shape: gpt2-medium}"))["full"].precision == "fp32"


def test_a_mixture_of_experts_counts_as_wide(trials):
    found = by_method(trials("methods: [lora]\n", base="{shape: mixtral-8x7b}"))["lora"]
    assert found.training.learning_rate == 3.2e-4
    assert "mixture of experts counted as 5,600" in found.defaults["learning_rate"]


def test_the_length_is_a_percentile_of_the_data_and_the_steps_are_one_pass(trials):
    found = by_method(trials("train: {batch_size: 8}\nmethods: [full, prompt_tuning]\n"))
    full = found["full"].training
    assert full.steps == math.ceil(360 / 8)  # 400 less the validation split
    assert found["full"].defaults["steps"] == "one pass over 360 training examples, at most 1,000 steps"
    assert full.sequence_length % 8 == 0
    assert full.sequence_length < 40
    assert found["prompt_tuning"].training.sequence_length == full.sequence_length
    assert "99 % have at most" in found["full"].defaults["sequence_length"]
    assert "% are longer and truncated" in found["full"].defaults["sequence_length"]
    assert found["full"].evaluation.max_length > 60  # no scored prompt is cut


def test_one_pass_is_bounded_and_depends_on_each_cell_s_batch(trials):
    found = trials("train: {batch_size: [1, 16]}\nmethods: [lora]\n")
    assert {t.training.batch_size: t.training.steps for t in found} == {1: 360, 16: 23}
    assert base_defaults.layers.LONGEST_RUN == 1000


def test_the_length_leaves_room_for_virtual_tokens_within_the_context(trials):
    found = trials("rank: [4, 120]\nmethods: [prompt_tuning, lora]\n")
    assert {t.training.sequence_length for t in found} == {8}
    assert {t.evaluation.max_length for t in found} == {8}
    assert "limited by the context to 8" in found[0].defaults["sequence_length"]


def test_nothing_is_read_for_a_suite_that_says_it_all(trials):
    said = "precision: fp32\ntrain: {steps: 5, sequence_length: 32, learning_rate: 1e-3}\n"
    found = trials(said + METHODS.replace("qlora: , ", ""), folder=lambda base: pytest.fail("the base was read"))
    assert {t.learning_rate_source for t in found if t.training} == {"suite"}
    assert all(t.defaults is None for t in found)


def test_each_setting_is_left_or_given_on_its_own(trials):
    (found,) = trials("train: {epochs: 2, sequence_length: 48}\nmethods: {lora: {precision: fp16}}\n", device="cuda")
    assert (found.training.epochs, found.training.steps, found.training.sequence_length) == (2, None, 48)
    assert set(found.defaults) == {"learning_rate"}
    assert found.evaluation.max_length == 48  # as before: the longest sequence_length


def test_the_key_has_the_values_and_not_where_they_are_from(trials):
    (left,) = trials("methods: [lora]\n")
    said = f"train: {{steps: {left.training.steps}, sequence_length: {left.training.sequence_length}}}\n"
    said += f"evaluate: {{max_length: {left.evaluation.max_length}}}\n"
    (given,) = trials(said + f"methods: {{lora: {{learning_rate: {left.training.learning_rate}}}}}\n")
    assert trial_key.key(left, "b", "d") == trial_key.key(given, "b", "d")
    (wider,) = trials("methods: [lora]\n", base="{shape: gpt2-medium}")
    assert trial_key.settings(wider)["train"]["learning_rate"] == 1.1e-3


def test_the_built_in_base_keeps_its_recipes(trials):
    found = by_method(trials(METHODS, base="nano"))
    assert found["full"].training.learning_rate == 1e-3
    assert (found["full"].training.steps, found["full"].training.sequence_length) == (100, 128)
    assert found["full"].learning_rate_source == "recipe"
    assert found["full"].defaults is None


def test_a_profile_s_rates_are_the_papers(trials):
    found = trials("profile: paper\nmethods: [lora, adapter]\n")
    assert {t.learning_rate_source for t in found} == {"paper"}
    assert [t.training.learning_rate for t in found] == [2e-4, 3e-4]


def test_search_asks_for_five_rates_around_the_default(trials, place):
    trials("methods: {full: {learning_rate: search}, lora: {learning_rate: search}}\n")
    made = base_defaults.resolve(suite.load("x.yaml", environ={}))
    tried = learning_rate_search.candidates(made, "cpu")
    full = [t.training.learning_rate for t in tried if t.method == "full"]
    assert full == pytest.approx([7.5e-5, 2.25e-4, 7.5e-4, 2.25e-3, 7.5e-3], rel=0.03)
    assert len(tried) == 10
    assert {t.learning_rate_source for t in suite.expand(made, "cpu")} == {"search"}


def test_search_on_the_built_in_base_is_around_its_recipe(trials):
    trials("methods: {lora: {learning_rate: search}}\n", base="nano")
    tried = learning_rate_search.candidates(base_defaults.resolve(suite.load("x.yaml", environ={})), "cpu")
    assert [t.training.learning_rate for t in tried] == [5e-4, 1.5e-3, 5e-3, 1.5e-2, 5e-2]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("search: false\nmethods: {lora: {learning_rate: search}}\n", "given search, but search: false"),
        ("methods: {lora: {learning_rate: [search, 1e-3]}}\n", "given search in a list"),
        ("methods: {peft: {peft_type: VERA, learning_rate: search}}\n", "peft has no default"),
        ("methods: {lora: {learning_rate: serach}}\n", "allowed: a number, above 0, or search"),
    ],
)
def test_a_search_that_cannot_be_is_refused(trials, text, part):
    with pytest.raises(UserError, match="learning_rate") as error:
        trials(text)
    assert part in str(error.value)


def test_a_hub_id_that_is_not_here_leaves_a_note(place, monkeypatch):
    monkeypatch.chdir(place)
    (place / "x.yaml").write_text(f"base: somebody/some-model\n{TASK}methods: [lora]\n")
    made = base_defaults.resolve(suite.load("x.yaml", environ={}))
    assert "not here yet" in made.defaults.notes[0]


def test_data_that_cannot_be_read_leaves_a_note_and_is_reported_by_the_check(trials, place):
    trials("methods: [lora]\n")
    text = (place / "x.yaml").read_text().replace("train.jsonl", "gone.jsonl")
    (place / "x.yaml").write_text(text)
    made = base_defaults.resolve(suite.load("x.yaml", environ={}))
    assert "cannot be used" in made.defaults.notes[0]
    assert made.defaults.width == 64


def test_a_chat_template_counts_in_the_length(trials, place):
    shutil.copytree(place / "tiny", place / "chatty", dirs_exist_ok=True)
    config = json.loads((place / "chatty" / "tokenizer_config.json").read_text())
    config["chat_template"] = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    (place / "chatty" / "tokenizer_config.json").write_text(json.dumps(config))
    (plain,) = trials("methods: [lora]\n", base="./chatty")
    (place / "x.yaml").write_text((place / "x.yaml").read_text().replace("kind:", "chat: true\n    kind:"))
    made = base_defaults.resolve(suite.load("x.yaml", environ={}))
    (chat,) = suite.expand(made, "cpu")
    assert chat.training.sequence_length > plain.training.sequence_length


def test_no_torch_is_imported_to_resolve_defaults(place):
    (place / "y.yaml").write_text(f"base: ./tiny\n{TASK}methods: [lora]\n")
    code = (
        "import sys; from peftbench import suite; from peftbench.suite import base_defaults; "
        "made = base_defaults.resolve(suite.load('y.yaml')); assert made.defaults.sequence_length; "
        "print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_answers_that_are_ranked_fit_even_if_the_longest_is_not_the_target(trials, place):
    trials("methods: [base]\n")
    (place / "short.jsonl").write_text('{"p": "one", "t": "red"}\n' * 20)
    text = (place / "x.yaml").read_text().replace("exact_match", "choice").replace("    max_new_tokens: 4\n", "")
    text = text.replace("train.jsonl", "short.jsonl")
    lengths = []
    for choices in ("[red, blue]", f"[red, {'blue ' * 9}]"):
        (place / "x.yaml").write_text(text.replace("    target", f"    choices: {choices}\n    target"))
        (found,) = suite.expand(base_defaults.resolve(suite.load("x.yaml", environ={})), "cpu")
        lengths.append(found.evaluation.max_length)
    assert lengths[1] > lengths[0]


def test_the_default_length_follows_from_the_choice_with_the_most_tokens_not_characters(trials, place):
    trials("methods: [base]\n")
    (place / "short.jsonl").write_text('{"p": "one", "t": "one two three red"}\n' * 20)
    text = (place / "x.yaml").read_text().replace("exact_match", "choice").replace("    max_new_tokens: 4\n", "")
    text = text.replace("train.jsonl", "short.jsonl")
    (place / "x.yaml").write_text(
        text.replace("    target", "    choices: [one two three red, 红色的大苹果在天上面]\n    target")
    )
    (found,) = suite.expand(base_defaults.resolve(suite.load("x.yaml", environ={})), "cpu")
    assert found.evaluation.max_length >= 31, "10 characters, of three tokens each, behind a prompt"


def test_the_longest_of_many_scored_prompts_fits_the_default_length():
    examples = [Example("one", "red")] * 3000 + [Example("one two " * 20, "red")] + [Example("one", "red")] * 3000
    found = base_defaults._longest(examples)
    assert examples[3000] in found
    assert len(found) <= token_lengths.SAMPLE
    assert token_lengths._drawn(found) != found[:1]
    assert base_defaults._longest([]) == []


def test_a_prompt_whose_end_merges_with_the_answer_has_a_length(place):
    pairs = [Example("the col", "our", join="")]
    task = Task("t", "exact_match")
    (size,) = token_lengths.lengths(task, pairs, place / "tiny", False).wholes
    assert size > 1


@pytest.mark.parametrize("name", suite.names())
def test_shipped_suites_give_their_settings_so_nothing_of_them_changes(name):
    real = {"PEFTBENCH_BASE": "org/model", "PEFTBENCH_TRAIN": "train.csv", "PEFTBENCH_TEST": "test.csv"} | {
        "LLM_ADAPTERS": "checkout"
    }
    loaded = suite.load(name, environ=real)
    before, after = (
        [trial_key.settings(t) for t in suite.expand(each, "cuda")] for each in (loaded, base_defaults.resolve(loaded))
    )
    if name == "fits_in_16gb":  # a 7B shape for `plan`, without learning rates
        for each in (*before, *after):
            each["train"].pop("learning_rate")
    assert before == after
