"""BLEU, NIST, CIDEr, METEOR and ROUGE-L are those of the official E2E scorer on the same texts (``make exports``)."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from peftbench import suite
from peftbench.errors import UserError
from peftbench.evaluation import more_metrics, scoring
from peftbench.models.precision import PRECISIONS
from peftbench.records import Example, Task
from peftbench.report import collect
from peftbench.report.notes import answers as answer_notes
from peftbench.report.tables.task_metrics import task_metrics
from peftbench.runner.preflight import generation
from peftbench.tasks import more_metrics as names
from peftbench.tasks.splits import with_all_references
from tests.support import exports, method_cells, trials
from tests.support.results_factory import make_result, store

RECORD = json.loads((Path(__file__).parent / "e2e_reference.json").read_text(encoding="utf-8"))
"""Texts of ours with the scores of the official scorer, which prints four decimals (tools/validation/e2e_scorer.py)."""
OFFICIAL = {"bleu_lowercase": "BLEU", "nist": "NIST", "cider": "CIDEr", "meteor": "METEOR", "rouge_l_coco": "ROUGE_L"}
WORDS = {key: dict(enumerate(RECORD["words"][key])) for key in ("references", "answers")}
CAPTIONS = [name for name, metric in names.MORE_METRICS.items() if metric.captions]


def found(*asked, answers=RECORD["answers"], references=RECORD["references"]):
    return more_metrics.compute(asked, answers, references)


def test_bleu_and_nist_are_those_of_mteval():
    scores, reasons = found("bleu_lowercase", "nist")
    assert reasons == {}
    for name, score in scores.items():
        assert score == pytest.approx(RECORD["scores"][OFFICIAL[name]], abs=6e-5)


@pytest.mark.slow
def test_nltk_has_another_score_by_the_name_of_nist():
    """Why it is computed here: if this fails, nltk computes NIST's own score, and should do it."""
    nltk = pytest.importorskip("nltk.translate.nist_score")
    texts = [[text.lower().split() for text in each] for each in RECORD["references"]]
    mine = [text.lower().split() for text in RECORD["answers"]]
    ours = more_metrics.nist([" ".join(text) for text in mine], [[" ".join(t) for t in each] for each in texts])
    assert abs(nltk.corpus_nist(texts, mine) - ours) > 0.3


@pytest.mark.parametrize("name", ["cider", "rouge_l_coco"])
def test_scores_of_captions_are_those_of_the_official_scorer_on_its_words(name):
    exports.library("pycocoevalcap", "e2e")
    score = more_metrics._SCORERS[name](WORDS["references"], WORDS["answers"])
    assert score == pytest.approx(RECORD["scores"][OFFICIAL[name]], abs=6e-5)


@pytest.fixture(scope="module")
def with_java():
    exports.library("pycocoevalcap", "e2e")
    if shutil.which("java") is None:
        pytest.skip("there is no Java on this machine, which METEOR and the tokenizer of captions need")
    return found(*names.MORE_METRICS)


def test_all_five_are_those_of_the_official_scorer_on_its_texts(with_java):
    scores, reasons = with_java
    assert reasons == {}
    assert scores.keys() == names.MORE_METRICS.keys()
    for name, score in scores.items():
        assert score == pytest.approx(RECORD["scores"][OFFICIAL[name]], abs=6e-5), name


def test_line_feeds_and_other_spaces_in_texts_are_spaces(with_java):
    broken = [text.replace(" ", "\n", 1).replace(" ", "\u2028", 1) for text in RECORD["answers"]]
    assert found("nist", "cider", answers=broken) == ({k: with_java[0][k] for k in ("nist", "cider")}, {})


def test_java_that_fails_gives_no_number(with_java, tmp_path, monkeypatch):
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    scores, reasons = found("nist", "cider", "meteor")
    assert scores.keys() == {"nist"}
    assert reasons.keys() == {"cider", "meteor"}
    assert "did not give a line for each text" in reasons["cider"]


def test_what_this_machine_lacks_gives_no_number_but_the_reason(monkeypatch):
    monkeypatch.setattr(names, "find_spec", lambda name: None)
    monkeypatch.setattr(names.shutil, "which", lambda name: None)
    scores, reasons = found("nist", "cider")
    assert scores.keys() == {"nist"}
    lacking = "the package pycocoevalcap (pip install 'peftbench[e2e]') and Java (the command java)"
    assert reasons == {"cider": f"not found on this machine: {lacking}"}
    assert names.why_not(["nist", "bleu_lowercase"]) is None


def test_nist_of_a_perfect_answer_of_no_answer_and_of_a_short_one():
    one, two = "a b c d", "a b e"
    perfect = more_metrics.nist([one, two], [[one], [two]])
    # words: log2(7/2) for each a and b, log2(7) for c, d and e; then what is not certain after what stands before it
    single, double, triple = (4 * 1.8073549 + 3 * 2.8073549) / 7, (1 + 1) / 5, (1 + 1) / 3
    assert perfect == pytest.approx(single + double + triple, abs=1e-6)
    assert more_metrics.nist(["", ""], [[one], [two]]) == 0.0
    short = more_metrics.nist(["a b c", ""], [[one], [two]])
    assert 0 < short < perfect / 2


def test_an_answer_that_several_examples_have_counts_as_often():
    alike = [Example("p", "x"), Example("p", "y"), Example("p", "x"), Example("q", "z")]
    assert [e.references for e in with_all_references(alike)] == [("x", "y", "x"), ("z",)]


TASK = Task("judge", "generation", max_new_tokens=6, more_metrics=("nist", "cider"))


@pytest.fixture
def lacking(monkeypatch):
    monkeypatch.setattr(names, "find_spec", lambda name: None)


def test_a_trial_has_them_beside_the_others_and_says_what_is_missing(tiny, tmp_path, lacking):
    base = method_cells.loaded(tiny, "base", "fp32")
    harness = scoring.Harness(base.model.eval(), base.tokenizer, trials.Evaluation(4, 48, "test"), PRECISIONS["fp32"])
    examples = [Example("one two", "red green", references=("red green", "blue")), Example("yes", "no a b")]
    (score,), _ = scoring.evaluate(harness, [TASK], {"judge": examples})
    assert score.metric == "rouge_l"
    assert score.metrics.keys() == {"rouge_l", "bleu", "chrf", "nist"}
    assert score.settings["not_computed"].keys() == {"cider"}
    (plain,), _ = scoring.evaluate(harness, [dataclasses.replace(TASK, more_metrics=())], {"judge": examples})
    assert "not_computed" not in plain.settings

    row = make_result(
        "lora fp32 r=8", "lora", "fp32", 8, 0, scores_json=json.dumps({"judge": dataclasses.asdict(score)})
    )
    results = collect.collect(store(tmp_path / "r", row))
    (note,) = [text for text in answer_notes.notes(results) if "Not computed" in text]
    assert note.startswith("Not computed: CIDEr of judge (not found on this machine: the package pycocoevalcap")
    searched = dataclasses.replace(TASK, num_beams=2, length_penalty=0.9, no_repeat_ngram_size=4)
    (score,), _ = scoring.evaluate(harness, [searched], {"judge": examples})
    beams = make_result("lora fp32 r=8", "lora", "fp32", 8, 0, scores_json=json.dumps({"judge": vars(score)}))
    said = list(answer_notes.notes(collect.collect(store(tmp_path / "s", beams))))
    assert "Answers are not decoded greedily: judge (2 beams, length penalty 0.9, no repeated 4-grams)." in said
    (table,) = task_metrics(results)
    shown = dict(zip(table.names, table.fractions, strict=True))
    assert shown == {"ROUGE-L": True, "BLEU": True, "chrF": True, "NIST": False, "unreadable answers": True}


def test_a_plan_says_what_this_machine_cannot_compute(tmp_path, tiny, lacking):
    made = dataclasses.replace(trials.trial(tiny, tmp_path, "lora"), tasks=(TASK,), evaluate=("judge",))
    (note,) = generation.notes([made], lambda trial: tmp_path)
    assert note.startswith("task 'judge': cider will not be computed: not found on this machine: the package")
    plain = dataclasses.replace(made, tasks=(dataclasses.replace(TASK, more_metrics=("nist",)),))
    assert generation.notes([plain], lambda trial: tmp_path) == ()


@pytest.mark.parametrize(
    ("task", "part"),
    [
        (
            "describe: {more_metrics: [nist, cidr]}",
            "describe.more_metrics: unknown metric 'cidr'; did you mean 'cider'",
        ),
        ("judge: {more_metrics: [nist]}", "only a generation task has them; this one's kind is choice"),
        ("describe: {more_metrics: nist}", "describe.more_metrics: given 'nist' (text); allowed: a list of text"),
        ("describe: {metric: nist}", "unknown metric 'nist'; allowed: rouge_l (metrics with one outcome per example)"),
    ],
)
def test_a_metric_that_the_task_cannot_have_is_refused(tmp_path, task, part):
    (tmp_path / "x.yaml").write_text(f"base: nano\nmethods: [base]\ntasks: {{{task}}}\n")
    with pytest.raises(UserError) as error:
        suite.load(tmp_path / "x.yaml")
    assert part in str(error.value)
