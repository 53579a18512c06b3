"""Choices are ranked with the end that was trained: in training's tokens, and only where it was trained."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from peftbench.evaluation import ranking, scoring
from peftbench.models.precision import PRECISIONS
from peftbench.records import Example, Task
from peftbench.report.collect import collect
from peftbench.report.notes import ranking as notes
from peftbench.training.encoded import encode, learned_ends
from tests.support import method_cells, trials
from tests.support.method_cells import logits
from tests.support.results_factory import make_result, store

TEN = tuple(str(n) for n in range(1, 11))
CHAT = Example("<s>one ?\n", "red", ("red", "blue"), join="", end=" four</s>")


@pytest.fixture(scope="module")
def base(tiny):
    return method_cells.loaded(tiny, "base", "fp32")


def harness(base, ends=(), size=4, model=None):
    evaluation = trials.Evaluation(size, 48, "test")
    return scoring.Harness(model or base.model, base.tokenizer, evaluation, PRECISIONS["fp32"], ends)


def scored(base, examples, ends=(), **task):
    made = Task("t", "choice", **task)
    (score,), rows = scoring.evaluate(harness(base, ends), [made], {"t": examples})
    return score, rows


# tokens


@pytest.mark.parametrize(
    "example",
    [
        Example("one two ?", "10", TEN),
        Example("one two ? ", "10", TEN),  # lm-eval moves the space to the answer, training does not
        Example("the col", "our", ("our",), join=""),  # the prompt's last token merges with the answer
        Example("<s>one ?", "red", ("red", "blue")),
        dataclasses.replace(CHAT, end=" four\n"),
        CHAT,
    ],
)
def test_the_ranked_tokens_are_those_of_training(example, base):
    (texts,) = ranking.texts(base.tokenizer, [example], True, 0)
    for choice, text in zip(example.choices, texts, strict=True):
        trained = dataclasses.replace(example, target=choice)
        (expected,) = encode(base.tokenizer, [(("t", 0), trained)], 1000, "completion")
        assert (text.ids, text.start) == (expected.ids, expected.loss_from)
        assert text.ids[-1] == base.tokenizer.eos_token_id != text.ids[-2]


def test_a_tokenizer_that_appends_end_of_text_itself_gives_it_once_or_not_at_all(tiny):
    from tokenizers.processors import TemplateProcessing

    tokenizer = method_cells.loaded(tiny, "base", "fp32").tokenizer
    example = Example("one ?", "red", ("red",))
    plain = [ranking.texts(tokenizer, [example], ended, 0) for ended in (True, False)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    assert tokenizer("red")["input_ids"][-1] == 1
    assert [ranking.texts(tokenizer, [example], ended, 0) for ended in (True, False)] == plain


def test_an_empty_prompt_gives_a_context_of_one_token(base):
    ((text,),) = ranking.texts(base.tokenizer, [Example("", "red", ("red",), join="")], False, 0)
    assert (text.ids[0], text.start) == (0, 1)


# scores


@pytest.mark.parametrize(("example", "ends"), [(Example("one ?", "10", TEN), ["t"]), (CHAT, ["t"]), (CHAT, [])])
def test_the_log_probability_is_that_of_a_direct_pass_over_choice_and_end(example, ends, base):
    score, (row,) = scored(base, [example], ends, chat=example is CHAT)
    for choice, logprob in zip(example.choices, json.loads(row.choice_logprobs), strict=True):
        end = example.end.removesuffix("</s>") + "</s>" if ends else ""
        whole = base.tokenizer.encode(example.prompt + example.join + choice + end)
        start = len(base.tokenizer.encode(example.prompt))
        found = logits(base.model, "fp32", torch.tensor([whole])).float().log_softmax(-1)[0]
        assert logprob == pytest.approx(sum(float(found[i - 1, whole[i]]) for i in range(start, len(whole))), abs=1e-4)
    told = "choice, end of turn and end-of-text" if example is CHAT else "choice and end-of-text"
    assert score.settings["ranked"] == (told if ends else "choice")


def test_without_an_end_a_choice_that_begins_another_ranks_before_it_and_this_is_stored(base):
    score, rows = scored(base, [Example(f"one {word} ?", "10", TEN) for word in ("two", "red", "sky")])
    for row in rows:
        logprobs = json.loads(row.choice_logprobs)
        assert logprobs[TEN.index("1")] > logprobs[TEN.index("10")]
    assert score.settings["begin_another"] == 1
    assert "begin_another" not in scored(base, [Example("one ?", "10", TEN)], ["t"])[0].settings
    assert "begin_another" not in scored(base, [Example("one ?", "2", TEN[1:9])])[0].settings


def test_chance_and_majority_do_not_depend_on_the_end(base):
    examples = [Example(f"one {word} ?", answer, TEN) for word, answer in (("two", "1"), ("red", "10"), ("sky", "1"))]
    with_end, without = (scored(base, examples, ends)[0] for ends in (["t"], []))
    assert (with_end.chance, with_end.majority) == (without.chance, without.majority) == (pytest.approx(0.1), 2 / 3)


def test_per_byte_the_log_probability_with_the_end_is_divided_by_the_choices_bytes(base):
    examples = [Example(f"one {word} ?", "10", TEN) for word in ("two", "red", "sky")]
    score, rows = scored(base, examples, ["t"], metric="accuracy_norm")
    for row in rows:
        ranks = [lp / len(c.encode()) for lp, c in zip(json.loads(row.choice_logprobs), TEN, strict=True)]
        assert row.prediction == TEN[ranks.index(max(ranks))]
    assert score.value == score.metrics["accuracy_norm"]


def test_a_trained_model_tells_apart_choices_that_begin_with_one_another(tiny, tmp_path):
    """Training learns answer and end. Ranked without the end, every 10 was answered with 1."""
    words = {"sky": "1", "grass": "10", "sea": "100"}
    rows = [{"thing": f"{word} {n}", "stars": stars} for n in range(4) for word, stars in words.items()]
    path = tmp_path / "stars.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = Task(
        "stars",
        "choice",
        choices=("1", "10", "100"),
        files={split: str(path) for split in ("train", "test")},
        prompt="the {{ thing }} ?",
        target="{{ stars }}",
    )
    training = {"data": (("stars", 1.0),), "steps": 40, "learning_rate": 1e-2}
    made = trials.trial(tiny, tmp_path, "full", tasks=(task,), evaluate=("stars",), training=training, inference=False)
    result = trials.run(made, tmp_path)
    assert result.row.status == "ok"
    assert {row.target: row.prediction for row in result.examples} == {stars: stars for stars in words.values()}
    assert result.scores[0].settings["ranked"] == "choice and end-of-text"
    untuned = dataclasses.replace(made, method="base", training=None, seed=None, rank=None, options={})
    assert trials.run(untuned, tmp_path).scores[0].settings["ranked"] == "choice"


# where the end was trained


def learned(tiny, folder, trained, method="lora"):
    made = (Task("stars", "choice"), Task("turns", "choice", chat=True), *trials.tasks(folder))
    made += (Task("text", "language_modelling"), Task("theirs", "lm_eval", lm_eval="arc_easy"))
    training = {"data": tuple((name, 1.0) for name in trained)}
    return learned_ends(trials.trial(tiny, folder, method, tasks=made, training=training))


def test_the_end_is_ranked_only_for_tasks_whose_answers_end_as_in_training(tiny, tmp_path):
    assert learned(tiny, tmp_path, ["stars"]) == {"stars", "colour"}
    assert learned(tiny, tmp_path, ["colour_text"]) == {"stars", "colour"}, "answers of any kind end so"
    assert learned(tiny, tmp_path, ["turns"]) == {"turns"}
    assert learned(tiny, tmp_path, ["turns", "colour", "text"]) == {"stars", "colour", "turns"}
    assert learned(tiny, tmp_path, ["text"]) == set(), "plain text has no answer"
    assert learned(tiny, tmp_path, ["stars"], "base") == set()


def test_a_choice_whose_end_does_not_fit_is_refused(base):
    example = dataclasses.replace(CHAT, end=" red" * 60)
    task = Task("t", "choice", chat=True)
    scoring.check_choices(base.tokenizer, task, [example], 48)
    with pytest.raises(scoring.UserError, match=r"the choice .* tokens; allowed: less than evaluate\.max_length"):
        scoring.check_choices(base.tokenizer, task, [example], 48, ended=True)


# what is told


def told(folder, *cells):
    """The notes on results of the given cells: name, method and the settings of its score."""
    results = []
    for name, method, settings in cells:
        made = make_result(name, method, rank=None, seed=None if method == "base" else 0)
        record = json.loads(made.row.scores_json)
        record["judge"]["settings"] = settings
        results.append(dataclasses.replace(made, row=dataclasses.replace(made.row, scores_json=json.dumps(record))))
    return [*notes.notes(collect(store(folder / str(len(list(folder.iterdir()))), *results)))]


ENDED, PLAIN = {"ranked": "choice and end-of-text"}, {"ranked": "choice"}


def test_the_note_names_the_rows_that_are_ranked_without_the_end_and_what_follows(tmp_path):
    first, second = told(tmp_path, ("base fp32", "base", PLAIN | {"begin_another": 1}), ("full fp32", "full", ENDED))
    assert first == (
        "Choices of judge are ranked by the probability of the choice and of the end that follows an answer in "
        "training (end-of-text)."
    )
    assert second == (
        "Not equal in all rows: the untuned base model did not learn this end, so there choices of judge are ranked by "
        "the probability of the choice alone. Without the end, a choice with which another choice begins always wins "
        "against it: 1 choice of judge."
    )
    assert told(tmp_path, ("full fp32", "full", ENDED)) == [first]
    assert told(tmp_path, ("full fp32", "full", PLAIN)) == [
        "Choices of judge are ranked by the probability of the choice alone, as no model here learned an end of "
        "answers."
    ]
    assert told(tmp_path, ("full fp32", "full", {})) == [], "rows of older protocols"


def test_the_note_says_where_evaluation_ran_prompts_more_often(tmp_path):
    once = ENDED | {"prompts": "run once for all choices"}
    often = ENDED | {"prompts": "run with each choice", "prompts_reason": "the model keeps nothing"}
    *_, note = told(tmp_path, ("full fp32", "full", once), ("lora fp32", "lora", often))
    assert note == (
        "Evaluation ran a prompt once for all of its choices, but with each choice for lora fp32 (the model keeps "
        "nothing): scores are not affected, evaluation's time and memory are."
    )
    assert len(told(tmp_path, ("full fp32", "full", often), ("lora fp32", "lora", often))) == 1
