"""What peftbench init chooses and writes: texts that YAML and Jinja give back, budgets of tokens, a time that fits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from peftbench import suite
from peftbench.commands.first_suite import choose, data, described, model_facts
from peftbench.commands.first_suite.draft import Draft, MethodLine, quoted, text
from peftbench.commands.first_suite.fitting import Fitted
from peftbench.errors import UserError
from peftbench.records import Example
from peftbench.tasks import read
from peftbench.tasks.recognize import Asked, recognize
from peftbench.tasks.survey import columns
from peftbench.training.token_lengths import Lengths

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
        ([50] * 100, [90] * 99 + [100], 512, 104, "the longest answer of the test data has 100 tokens"),
        (
            [50] * 100,
            [90] * 99 + [300],
            512,
            96,
            "the longest answer of the test data has 300 tokens, 99 % have at most 90",
        ),
        (
            [100] * 100,
            [300] * 80 + [500] * 20,
            512,
            392,
            "20 of 100 test answers are longer and cannot be given in full",
        ),
        (
            [300] * 50 + [20] * 50,
            [100] * 100,
            330,
            104,
            "50 of 100 test prompts lose their start: the context of 330 tokens has room for 310 beside 20 virtual",
        ),
    ],
)
def test_new_tokens_leave_most_examples_whole_and_say_what_is_lost(prompts, answers, context, new, said):
    tokens = choose.Tokens(_lengths(prompts, answers), _lengths(prompts, answers))
    made, (chosen, *cut) = choose.with_lengths(replace(GENERATION, classes={}), tokens, context)
    assert made.block["max_new_tokens"] == new
    assert chosen.endswith(f", max_new_tokens {new}")
    why = made.comments["max_new_tokens"]
    assert said in why
    assert ("given in full" in why) == any(answer > new for answer in answers)
    assert all(line in why or line in made.comments["sequence_length"] for line in cut), "the suite has all of it"
    assert ("given in full" in why) == ("given in full" in " ".join(cut))


@pytest.mark.parametrize("unknown", [{}, {"adapter": "no, because", "full": "nor this"}])
def test_a_method_without_a_prediction_is_not_said_to_fit(unknown):
    fitted = Fitted({"lora": {}}, {"lora": 2**30}, 4, False, {}, unknown)
    made, said = choose.with_methods(GENERATION, fitted, model_facts.facts("nano"), 2**34)
    assert said[0] == "predicted peaks 1.0 GiB, within 16.0 GiB"
    assert ("no prediction: adapter, full" in said) is bool(unknown)
    assert said[-1] == f"micro-batches of 4, so that all{' with a prediction' if unknown else ''} fit"
    assert {line.name for line in made.methods} == {"base", "lora", *unknown}


def test_nearly_all_test_examples_are_scored_rather_than_a_draw():
    few, many = ([Example("q", "a")] * count for count in (220, 630))
    assert "limit" not in choose.with_amounts(GENERATION, few, few).block
    assert choose.with_amounts(GENERATION, few, many).block["limit"] == 200


def test_scores_of_the_built_in_base_are_not_said_to_be_of_other_models():
    (unknown,) = model_facts.facts("nano").unknown
    assert unknown == "what your own model would score: nano was trained on the built-in tasks' grammar alone"


def test_overlap_is_said_as_a_run_counts_it():
    same, other = [Example("one two three", "a")], [Example("four five six", "a")]
    none = "no scored prompt is a training prompt"
    assert list(described.of_overlap(same, other, True)) == [none]
    exact = "1 of 1 scored prompt is a training prompt too"
    assert list(described.of_overlap(same, same)) == [exact]
    hint = "the file repeats prompts: {} of the scored prompts are also trained on{}"
    advice = "; remove the repeats or give --test"
    assert list(described.of_overlap(same, same, True)) == [exact, hint.format("100 %", advice)]
    rare = [*same, *(Example(f"other {n}", "a") for n in range(99))]
    little = "; the effect on the score is small"
    assert list(described.of_overlap(same, rare, True))[1:] == [hint.format("1 %", little)]
    rare += [Example(f"another {n}", "a") for n in range(300)]
    assert list(described.of_overlap(same, rare, True))[1:] == [hint.format("less than 1 %", little)]
    words = " ".join(f"word{n}" for n in range(13))
    near = [Example(f"so {words}", "a"), Example(words, "a"), Example("else", "a")]
    assert list(described.of_overlap([Example(words, "a")], near)) == [
        "1 of 3 scored prompts is a training prompt too",
        "1 more shares 13 words in a row with a training prompt",
    ]
    assert list(described.of_overlap([Example(f"{words} end", "a")], near[:1])) == [
        "1 of 1 scored prompt shares 13 words in a row with a training prompt"
    ]


def test_test_examples_that_repeat_a_prompt_are_counted():
    one = Example("one", "a")
    assert list(described.of_repeated_tests([one, Example("two", "a")])) == []
    repeats = ["1 test example repeats the prompt of another one, and both count"]
    assert list(described.of_repeated_tests([one, Example("one", "b")])) == repeats
    several = ["2 test examples repeat the prompts of others, and all count"]
    assert list(described.of_repeated_tests([one] * 3)) == several
    texts = [Example("", "text"), Example("", "other")]
    assert described.repeated_prompts(texts) == 0, "texts have no prompts"


def test_of_classes_it_is_said_how_many_records_the_rarest_and_the_most_frequent_one_have():
    assert described.of_classes({"0": 3, "1": 1_000, "2": 5}) == "3 to 1,000 records each"
    assert described.of_classes({"blue": 2, "red": 2}) == "2 records each"


def test_methods_that_are_left_out_for_one_reason_are_one_line():
    slow, why = "as it would take about 9 s", "as there was no time"
    assert described.of_left_out([("full", why), ("lora", slow), ("adapter", why)]) == [
        "full, adapter: there was no time",
        "lora: it would take about 9 s",
    ]


def test_lengths_are_said_with_their_median_and_their_longest():
    many = Lengths(tuple(range(1, 101)), (1,) * 100, 100)
    assert described.of_lengths(many) == "median 50, 95th percentile 95, longest 100"
    assert described.of_lengths(replace(many, examples=9000)).endswith("longest 100 (100 of 9,000 examples measured)")


def test_a_smaller_number_of_new_tokens_than_the_answers_have_says_why():
    lengths = _lengths([200] * 100, [64] * 60 + [150] * 40)
    made, (chosen, *cut) = choose.with_lengths(GENERATION, choose.Tokens(lengths, lengths), 290)
    assert made.block["max_new_tokens"] == 64
    assert "the longest answer of the test data has 150 tokens, 99 % have" in made.comments["max_new_tokens"]
    assert chosen == "sequence_length 270, max_new_tokens 64"
    assert cut[-2:] == [
        "with 152, more prompts would be cut than answers gained",
        "40 of 100 test answers are longer and cannot be given in full",
    ]


def test_the_passes_of_a_suite_with_a_search_are_over_what_is_left_to_train_on():
    draft = Draft("d", "nano", "t", {}, (), steps=100, comments={"steps": "of 1,000", "seeds": "kept"})
    found = choose.with_search(draft, 1000)
    left = 1000 - round(found.block["validation_fraction"] * 1000)
    assert 0 < left < 1000
    assert found.comments["steps"].endswith(f"over {left:,} training examples")
    assert found.comments["seeds"] == "kept"
    both = choose.with_search(replace(draft, block={"test_fraction": 0.2}), 80)
    assert both.comments["steps"] == "29 passes over 56 training examples"


def test_of_a_text_without_a_prompt_it_is_not_said_that_the_prompt_is_cut():
    lengths = _lengths([0] * 100, [90] * 99 + [300])
    text = replace(GENERATION, block={"kind": "language_modelling"})
    made, lines = choose.with_lengths(text, choose.Tokens(lengths, lengths), 512)
    assert lines == ["sequence_length 96"]
    assert made.comments["sequence_length"] == (
        "tokens; 99 % of the training examples have at most 90 tokens; 1 of 100 is longer and loses its start"
    )


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("work/tiny", "./tiny"),
        ("work/nano", "./nano"),
        ("work", "./."),
        (".", "./.."),
        ("tiny", "../tiny"),
        ("../tiny", None),
        ("work/~root", "./~root"),
    ],
)
def test_a_path_in_a_suite_cannot_be_read_as_a_name(path, named, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert choose.path_in(Path("work"), Path(path)) == (named or str(tmp_path / "tiny"))


def test_an_unknown_context_is_not_said_to_be_of_no_tokens():
    lengths = _lengths([0] * 3, [1_200_000] * 3)
    made, _ = choose.with_lengths(
        replace(GENERATION, block={"kind": "language_modelling"}), choose.Tokens(lengths, lengths), None
    )
    said = made.comments["sequence_length"]
    assert "the base names no context, and one of 1,000,000 tokens has room for 999,980 beside 20 virtual ones" in said
