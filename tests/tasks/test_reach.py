"""Which targets decoding can give, known before anything runs; and the default stop texts, which follow from them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from peftbench import suite
from peftbench.commands import plan as plan_command
from peftbench.errors import UserError
from peftbench.records import Example, Task
from peftbench.runner import prepare
from peftbench.suite.trial_key import settings
from peftbench.tasks import reach
from tests.support import tiny_base, trials

EXACT = Task("mine", "exact_match", max_new_tokens=6)
TEXT = Task("mine", "generation", max_new_tokens=6)


class Letters:
    """A tokenizer with a token for each lower-case letter, which joins white space and drops other scripts."""

    def encode(self, texts):
        return [[ord(c) for c in " ".join(text.lower().split(" ")) if ord(c) < 256] for text in texts]

    def decode(self, ids):
        return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["red", "blue"], ("\n",)),
        (["red\n", "blue \n \n"], ("\n",)),
        (["red", "one\ntwo"], ("\n\n",)),
        (["\nred"], ("\n\n",)),
        (["one\ntwo", "one\n\ntwo"], ()),
        (["one\r\ntwo"], ("\n\n",)),
        ([], ("\n",)),
        (["<think>a</think>b"], ("\n",)),
    ],
)
def test_the_default_stop_is_in_no_target(targets, expected):
    assert reach.default_stops(EXACT, targets) == expected


def test_a_thinking_block_of_a_chat_task_contains_line_feeds():
    assert reach.default_stops(replace(EXACT, chat=True), ["<think>a</think>b"]) == ()


@pytest.mark.parametrize(
    ("task", "target", "stops", "counted"),
    [
        (EXACT, "red", ["\n"], (0, 0, 0)),
        (EXACT, "a\nb", ["\n"], (1, 0, 0)),
        (EXACT, "ab\n", ["\n"], (0, 0, 0)),
        (EXACT, "a, b", [","], (1, 0, 0)),
        (EXACT, "abcdef", [], (0, 1, 0)),
        (EXACT, "abcde", [], (0, 0, 0)),
        (EXACT, "Red", [], (0, 0, 1)),
        (EXACT, "rötл", [], (0, 0, 1)),
        (TEXT, "Red", [], (0, 0, 0)),
        (TEXT, "a.\n", ["."], (0, 0, 0)),
        (TEXT, "a. b", ["."], (1, 0, 0)),
        (TEXT, "ab cdef", [], (0, 1, 0)),
        (replace(EXACT, answer_pattern="number"), "7 is it\nno", ["\n"], (0, 0, 0)),
        (replace(EXACT, answer_pattern="number"), "it\n7", ["\n"], (1, 0, 0)),
        (replace(EXACT, answer_pattern="number"), "is it 17", [], (0, 1, 0)),
        (replace(EXACT, answer_pattern="number"), "7 apples", [], (0, 0, 0)),
    ],
)
def test_a_target_is_out_of_reach_if_scoring_would_not_take_it(task, target, stops, counted):
    found = reach.count(task, [Example("q", target)], stops, Letters())
    assert (found.stopped, found.longer, found.changed) == counted
    assert found.unreachable == int(any(counted))


def test_the_end_of_a_chat_turn_must_fit_too():
    for end, expected in (("<end>\n", 1), ("!", 0), ("", 0)):
        (found,) = [reach.count(EXACT, [Example("q", "abcd", end=end, join="")], [], Letters())]
        assert found.longer == expected


def test_choices_that_a_tokenizer_does_not_tell_apart_are_found():
    examples = [Example("q", "Yes", ("Yes", "no")), Example("q", "us", ("US", "us", "Us"))]
    assert reach.alike(examples, Letters()) == [("US", "us")]


# before a run


def write(folder, rows, more="", kind="exact_match", base="nano"):
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"q": q, "a": a}) + "\n" for q, a in rows))
    (folder / "s.yaml").write_text(
        f"base: {base}\nseeds: 1\nmethods: [lora]\ntasks:\n  mine: {{kind: {kind}, train: train.jsonl, test: "
        f"test.jsonl, prompt: '{{{{ q }}}}', target: '{{{{ a }}}}'{more}}}\n"
    )
    return suite.load(folder / "s.yaml")


LINES = [(f"q{n}", f"first {n}\nsecond") for n in range(4)]


def plan_text(loaded, capsys):
    code = plan_command.plan(loaded, plan_command.PlanOptions())
    return code, " ".join(capsys.readouterr().out.split())  # its notes are wrapped


def test_the_default_stop_is_in_the_settings_and_the_key(tmp_path):
    found = {}
    for rows in (LINES, [(q, a.replace("\n", " ")) for q, a in LINES]):
        trials_ = suite.expand(write(tmp_path, rows), "cpu")
        (job,) = prepare.prepare(trials_, tmp_path / "results", 1, "x").jobs
        (task,) = settings(job.trial)["tasks"]
        found[tuple(task["stop"])] = job.key
    assert set(found) == {("\n\n",), ("\n",)}
    given = suite.expand(write(tmp_path, LINES, ', stop: ["\\n\\n"]'), "cpu")
    (given,) = prepare.prepare(given, tmp_path / "results", 1, "x").jobs
    assert given.key == found["\n\n",], "a stop text that is given and one that follows are the same setting"


def test_a_task_that_is_not_trained_on_has_the_same_stop_for_the_untuned_base(tmp_path):
    loaded = write(tmp_path, LINES)
    both = suite.expand(replace(loaded, blocks=loaded.blocks), "cpu")
    untrained = replace(both[0], method="base", training=None, seed=None, options={}, rank=None)
    jobs = prepare.prepare([*both, untrained], tmp_path / "results", 1, "x").jobs
    assert {task.stop for job in jobs for task in job.trial.tasks} == {("\n\n",)}


@pytest.mark.parametrize(
    ("rows", "more", "kind", "notes"),
    [
        (LINES, "", "exact_match", ["targets contain line feeds, so a blank line ends an answer"]),
        ([*LINES, ("x", "a\n\nb")], "", "generation", ["so only end-of-text ends an answer"]),
        (
            LINES,
            ", max_new_tokens: 2",
            "generation",
            [
                "task mine, test split: 4 of 4 targets cannot be decoded: 4 that max_new_tokens cuts (2; the longest",
                "task mine, train split: 4 of 4 targets",
            ],
        ),
        (
            [("a", "one two"), ("b", "one, two")],
            ", stop: [',']",
            "exact_match",
            ["task mine, test split: 1 of 2 targets cannot be decoded: 1 that a stop text cuts (',')"],
        ),
        ([("a", "red"), ("b", "blue")], "", "exact_match", []),
    ],
)
def test_a_plan_says_which_targets_are_out_of_reach(tmp_path, capsys, rows, more, kind, notes):
    code, text = plan_text(write(tmp_path, rows, more, kind), capsys)
    assert code == 0
    for note in notes:
        assert note in text
    if not notes:
        assert "note:" not in text
    else:
        made = prepare.prepare(suite.expand(suite.load(tmp_path / "s.yaml"), "cpu"), tmp_path / "results", 1, "x")
        assert all(any(note in said for said in made.notes) for note in notes), "and so does a run"


def test_a_stop_text_that_cuts_every_exact_answer_is_an_error_that_names_the_key(tmp_path, capsys):
    loaded = write(tmp_path, LINES, ', stop: ["\\n"]')
    message = r"tasks.mine.stop: given \['\\n'\]; every one of the 4 targets of the test split contains"
    with pytest.raises(UserError, match=message):
        plan_text(loaded, capsys)
    with pytest.raises(UserError, match=message):
        prepare.prepare(suite.expand(loaded, "cpu"), tmp_path / "results", 1, "x")
    assert not (tmp_path / "results").exists()
    assert plan_text(write(tmp_path, LINES, ', stop: ["\\n"]', "generation"), capsys)[0] == 0, "it can still score"


def test_a_tokenizer_that_does_not_give_text_back_is_noted_before_and_after_a_run(tiny, tmp_path, capsys):
    import shutil

    from tokenizers import Tokenizer, normalizers

    folder = shutil.copytree(tiny, tmp_path / "uncased")
    lower = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lower.normalizer = normalizers.Lowercase()
    lower.save(str(folder / "tokenizer.json"))
    loaded = write(tmp_path, [("a", "Red"), ("b", "blue")], base="./uncased")
    assert "1 of 2 targets cannot be decoded: 1 that the tokenizer does not give back" in plan_text(loaded, capsys)[1]
    choices = write(tmp_path, [("a", "Yes"), ("b", "no")], ', choices: ["Yes", "yes", "no"]', "choice", "./uncased")
    text = plan_text(choices, capsys)[1]
    assert (
        "encodes choices alike in 2 of 2 examples ('Yes' and 'yes'): the first of them is always ranked first" in text
    )
    made = trials.trial(folder, tmp_path, "base", evaluate=("colour_text",))
    tasks = tuple(
        replace(task, target="{{ colour | capitalize }}") for task in made.tasks if task.name == "colour_text"
    )
    found = trials.run(replace(made, tasks=tasks), tmp_path)
    assert found.row.status == "ok"
    assert found.scores[0].targets["changed"] == found.scores[0].examples == 8


def test_a_base_without_a_tokenizer_file_is_checked_for_stop_texts_only(tmp_path):
    from peftbench.runner.preflight import speller

    assert speller.speller_of(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    speller.speller_of.cache_clear()
    assert speller.speller_of(tmp_path) is None
    found = reach.count(EXACT, [Example("q", "a\nb")], ["\n"], None)
    assert (found.stopped, found.longer, found.unreachable, found.longest_tokens) == (1, None, 1, None)
    assert reach.sentence("x", found.settings(), ["\n"], 6).endswith("1 that a stop text cuts ('\\n')")


def test_the_two_ways_to_load_a_tokenizer_count_alike(tmp_path):
    from peftbench.evaluation.scoring import _Speller
    from peftbench.runner.preflight import speller

    made = tiny_base.tokenizer()
    made.save_pretrained(tmp_path)
    speller.speller_of.cache_clear()
    examples = [Example("the sky is", text) for text in ("blue", " red ", "é one\ntwo", "")]
    one, other = (reach.count(TEXT, examples, ["\n"], s) for s in (speller.speller_of(tmp_path), _Speller(made)))
    assert one == other
