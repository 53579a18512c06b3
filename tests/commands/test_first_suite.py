"""What peftbench init chooses and writes: texts that YAML and Jinja give back, budgets of tokens, a time that fits."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from peftbench import suite
from peftbench.commands.first_suite import choose, data, model_facts, timing
from peftbench.commands.first_suite.draft import Draft, MethodLine, quoted, text
from peftbench.errors import UserError
from peftbench.records import Example
from peftbench.runner import pilot
from peftbench.runner.pilot import Measured
from peftbench.tasks import read
from peftbench.tasks.recognize import Asked, recognize
from peftbench.tasks.survey import columns
from peftbench.training.token_lengths import Lengths
from tests.support.results_factory import make_result

ODD = ["a\x85b", "del\x7f", "a\u2028b", "\ufeffx", "\U000e0001", "tab\there", "both \" and '", "${HOME}", "# no", "é\n"]


@pytest.mark.parametrize("word", ODD)
def test_a_suite_gives_back_every_text(word, tmp_path):
    methods = (MethodLine("base", {}, f"say {word}"),)
    block = {"kind": "choice", "train": "x.csv", "test": "x.csv", "prompt": f"{word}:", "target": "{{ label }}"}
    block |= {"choices": [word, "b"]}
    made = text(Draft(word, "nano", "colours", block, methods, head=(f"made by {word}",), comments={"train": word}))
    (tmp_path / "s.yaml").write_text(made, encoding="utf-8")
    (tmp_path / "x.csv").write_text("label\nb\n")
    task = suite.load(tmp_path / "s.yaml").tasks[0]
    assert (task.prompt, task.choices) == (f"{word}:", (word, "b"))
    assert quoted(word).isprintable()


NAMES = ["text {{ x }}", 'it\'s "odd"', "{% raw %}", "{#", "a\x85b", "true", "None", "True", "class", "for", "row"]
NAMES += ["self", "loop", "x}}", "-1", "naïve", "Class Index", "${HOME}", "\\u0041"]


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_a_column_of_any_name_becomes_a_prompt(name, missing, tmp_path):
    rows = [{name: f"the sky is {n}", "answer": f"yes it is {n}"} for n in range(40)] + [{"answer": "none"}] * missing
    found = recognize(columns(rows), False, Asked((name,), "answer"))
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    block = {"train": "x.jsonl", "test_fraction": 0.2, **found.block}
    (tmp_path / "s.yaml").write_text(text(Draft("d", "nano", "ask", block, (MethodLine("base"),))), encoding="utf-8")
    prompts = {e.prompt for e in read.examples(suite.load(tmp_path / "s.yaml").tasks[0], "train")}
    title = " ".join(name.split())
    assert f"{title[0].upper()}{title[1:]}: the sky is 3\nAnswer:" in prompts


GOOD = [{"text": f"the {a} {n}", "label": b} for n in range(20) for a, b in (("sky", "blue"), ("rose", "red"))]
ASK = [{"instruction": f"say {n} now", "input": None, "output": f"here is {n}"} for n in range(40)]


def _file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("lacking", [{"text": "fog", "label": None}, {"text": "fog", "label": " "}, {"text": "fog"}])
def test_training_records_without_an_answer_are_refused_before_there_is_a_template(lacking, tmp_path):
    path = _file(tmp_path / "x.jsonl", [*GOOD, lacking, lacking])
    with pytest.raises(UserError) as raised:
        data.look(path, None, False, Asked())
    assert str(raised.value) == (
        f"--train {path}: 'label', which has the answers, is missing or empty in 2 records (the first is record 41); "
        "remove them from the file, or name another column with --answer"
    )


def test_a_template_that_is_given_needs_its_inputs(tmp_path):
    assert data.look(_file(tmp_path / "x.jsonl", ASK), None, False, Asked()).found.block["template"] == "alpaca"
    path = _file(tmp_path / "y.jsonl", [{"instruction": None, "input": "", "output": "no"}, *ASK])
    with pytest.raises(UserError, match=r"'instruction', which has the inputs, is missing .* is record 1\)"):
        data.look(path, None, False, Asked())


@pytest.mark.parametrize("where", ["train", "test"])
def test_an_input_that_some_records_lack_is_left_out_of_their_prompts_and_said(where, tmp_path):
    gap = [*GOOD, {"label": "red"}, {"text": None, "label": "red"}]
    train = _file(tmp_path / "x.jsonl", gap if where == "train" else GOOD)
    test = _file(tmp_path / "y.jsonl", gap if where == "test" else GOOD)
    found = data.look(train, test, False, Asked())
    assert found.found.block["prompt"] == "Text: {{ row.get('text') or '' }}\nLabel:"
    assert found.notes == ("'text' is missing or empty in 2 records; prompts there leave it out",)


def test_a_test_file_without_the_input_is_refused(tmp_path):
    train = _file(tmp_path / "x.jsonl", GOOD)
    test = _file(tmp_path / "y.jsonl", [{"words": row["text"], "label": row["label"]} for row in GOOD])
    with pytest.raises(UserError, match="there is no column 'text', which has the inputs in the training file"):
        data.look(train, test, False, Asked())


@pytest.mark.parametrize(("train", "test"), [("0", "0.0"), ("positive", "Positive"), ("1", "01")])
def test_labels_of_the_test_in_another_spelling_are_refused(train, test, tmp_path):
    rows = [{"text": f"weather {n}", "label": train if n % 2 else "2"} for n in range(40)]
    other = [{"text": f"sky {n}", "label": test if n % 2 else "2"} for n in range(40)]
    paths = _file(tmp_path / "x.jsonl", rows), _file(tmp_path / "y.jsonl", other)
    with pytest.raises(UserError, match=rf"'label' is '{test}' here and '{train}' in the training file"):
        data.look(*paths, False, Asked())


def test_a_class_that_only_the_test_has_is_said(tmp_path):
    other = [{"text": "a new one", "label": "violet"}, *GOOD]
    found = data.look(_file(tmp_path / "x.jsonl", GOOD), _file(tmp_path / "y.jsonl", other), False, Asked())
    assert "1 class only in the test file, never trained on: 'violet'" in found.notes
    assert found.classes["violet"] == 0


def _lengths(prompts, answers):
    return Lengths(tuple(p + a for p, a in zip(prompts, answers, strict=True)), tuple(prompts), len(prompts))


GENERATION = Draft("d", "nano", "t", {"kind": "generation", "prompt": "{{ q }}", "target": "{{ a }}"}, ())


@pytest.mark.parametrize(
    ("prompts", "answers", "context", "new", "said"),
    [
        ([50] * 100, [90] * 99 + [100], 512, 104, "the longest answer has 100 tokens"),
        (
            [50] * 100,
            [90] * 99 + [300],
            512,
            96,
            "the longest answer has 300 tokens, 99 % at most 90; 1 of 100 answers are longer and cannot be decoded",
        ),
        (
            [100] * 100,
            [300] * 80 + [500] * 20,
            512,
            392,
            "20 of 100 answers are longer and cannot be decoded",
        ),
        ([300] * 50 + [20] * 50, [100] * 100, 330, 104, "50 prompts are cut, as the context has room for 310"),
    ],
)
def test_new_tokens_leave_most_examples_whole_and_say_what_is_lost(prompts, answers, context, new, said):
    tokens = choose.Tokens(_lengths(prompts, answers), _lengths(prompts, answers))
    made, lines = choose.with_lengths(replace(GENERATION, classes={}), tokens, context)
    assert made.block["max_new_tokens"] == new
    (line,) = [line for line in lines if line.startswith(f"max_new_tokens {new}: ")]
    assert said in line
    assert ("cannot be decoded" in line) == ("cannot be decoded" in said)


def test_nearly_all_test_examples_are_scored_rather_than_a_draw():
    few, many = ([Example("q", "a")] * count for count in (220, 630))
    assert "limit" not in choose.with_amounts(GENERATION, few, few)[0].block
    assert choose.with_amounts(GENERATION, few, many)[0].block["limit"] == 200


SUITE = """
base: nano
tasks: { judged: { kind: choice, train: x.jsonl, test: x.jsonl, prompt: "{{ text }}", target: "{{ label }}",
  choices: [blue, red] } }
train: { steps: 400 }
methods: [base, full, lora, adapter]
"""


@pytest.fixture
def timed(tmp_path, monkeypatch):
    """Fit a draft to a time, with pilots that took what is given: by default for every method the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _file(tmp_path / "x.jsonl", GOOD * 10)
    (tmp_path / "s.yaml").write_text(f"threads: 2\n{SUITE}")  # on any machine: waiting is a share of the threads' time
    trials = list({trial.cell: trial for trial in suite.expand(suite.load(tmp_path / "s.yaml"), "cpu")}.values())
    draft = replace(GENERATION, block={"limit": 400}, steps=400)

    def call(limit, waited=0.0, status="ok", **found):
        plain = found.pop("plain", Measured(fixed_seconds=1.0, step_seconds=0.1, scoring_seconds=0.0))

        def measure(trials, observe):
            for trial in trials:
                observe(trial, make_result(status=status, train_seconds=1.0, train_waiting_seconds=waited))
            return {pilot.shape(trial): found.get(trial.method, plain) for trial in trials}

        monkeypatch.setattr(pilot, "measure", measure)
        return timing.fit(draft, trials, limit, read.examples, 400)

    return call


def test_too_few_steps_are_said_with_the_time_that_all_would_take(timed):
    made, lines, unknown = timed(100)
    assert (made.steps, made.search) == (100, False)
    assert lines[0] == "about 100.0 s of 100.0 s, 10.0 s of it set-up and scoring"
    assert lines[1] == "100 steps in place of 400, for which --time would have to be about 6 min 10 s"
    assert lines[-1].startswith("no time for a search of learning rates (about ")
    assert unknown == ["whether 100 steps are enough to tell methods apart, or for a method to learn at all"]


def test_scoring_that_takes_most_of_the_time_becomes_shorter(timed):
    characters = sum(len(row["text"]) + len("bluered") for row in GOOD * 10)
    slow = Measured(fixed_seconds=1.0, step_seconds=0.1, scoring_seconds=0.0, seconds_per_character=20 / characters)
    made, lines, _ = timed(200, plain=slow)
    assert made.block["limit"] == 100
    assert "100 test examples are scored (limit) in place of 400, so that there is time to train" in lines
    assert made.steps > 100


def test_the_method_that_takes_most_of_the_time_is_named(timed):
    _, lines, _ = timed(100, lora=Measured(fixed_seconds=1.0, step_seconds=0.5, scoring_seconds=0.0))
    (line,) = [line for line in lines if "without its line under methods" in line]
    assert line.startswith("lora r=8 fp32 takes about ")
    assert line.endswith("155 steps would fit")


def test_too_little_time_names_what_takes_it(timed):
    with pytest.raises(UserError) as raised:
        timed(20, waited=0.5, adapter=Measured(fixed_seconds=9.0, step_seconds=0.1, scoring_seconds=0.0))
    said = str(raised.value)
    assert "--time: 20.0 s are too little: 20 steps of 4 cells with 3 seeds take about 52" in said
    assert "\nnot known: how long it takes on an idle machine: other programs took 25%" in said
    assert "the slowest is adapter r=64 fp32 with 33.0 s; give more time, or no --time" in said


def test_a_busy_machine_is_said(timed, capsys):
    _, _, unknown = timed(100, waited=0.5)
    assert any("other programs took 25% of the CPU time of the measured steps" in line for line in unknown)
    assert "measuring a few steps and scored examples of 4 cells, at most 60 s each" in capsys.readouterr().err


def test_pilots_that_were_stopped_give_at_least_their_time(timed):
    stopped = Measured(problem="the pilot reached its limit in phase evaluate (stopped after 60 s)")
    made, lines, unknown = timed(480, status="timeout", plain=stopped)
    assert (made.steps, lines) == (400, [])
    assert "the time of full fp32: the pilot reached its limit in phase evaluate (stopped after 60 s)" in unknown
    assert "a suite that fits 8 min 00 s: their 10 trials take at least 10 min 00 s, and the steps here" in unknown[-1]
    _, _, unknown = timed(3600, status="timeout", plain=stopped)
    assert "whether 60 min 00 s are enough, as the time of 4 cells is not known" in unknown


def test_a_file_that_repeats_prompts_is_said_where_its_records_become_the_test():
    same, other = [Example("one two three", "a")], [Example("four five six", "a")]
    assert data.overlapping(same, other, True) is None
    assert data.overlapping(same, same, False) == (
        "1 of 1 test prompt are training prompts too, and 1 share 13 words in a row with one"
    )
    said = data.overlapping(same, same, True)
    assert said is not None
    assert said.endswith(", as the file repeats prompts: remove the repeats, or give --test")


def test_scores_of_the_built_in_base_are_not_said_to_be_of_other_models():
    (unknown,) = model_facts.facts("nano").unknown
    assert unknown == "what scores would be of a model of yours: nano has seen the built-in tasks' grammar only"
