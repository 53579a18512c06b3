"""Scores of a head for whole texts: their metrics, and outcomes per example of metrics of a whole split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from peftbench.evaluation import influence, whole_texts
from peftbench.records import Example, Task

N = 120
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, N)
    return targets, np.where(rng.random(N) < 0.6, targets, rng.integers(0, 3, N))


def jackknife(metric, *pair):
    """The standard error of a metric by leaving each example out."""
    left = [metric(*(np.delete(x, i) for x in pair)) for i in range(len(pair[0]))]
    return np.sqrt((len(left) - 1) * np.var(left))


def standard_error(outcomes):
    return np.std(outcomes, ddof=1) / np.sqrt(len(outcomes))


def test_influences_on_pearsons_correlation_have_it_as_mean_and_its_standard_error():
    rng = np.random.default_rng(1)
    targets = rng.normal(size=N)
    predictions = 0.7 * targets + rng.normal(size=N) + 3
    r, outcomes = influence.pearson(targets, predictions)
    assert r == pytest.approx(pearsonr(targets, predictions).statistic)
    assert np.mean(outcomes) == pytest.approx(r)
    assert standard_error(outcomes) == pytest.approx(
        jackknife(lambda a, b: pearsonr(a, b).statistic, targets, predictions), rel=0.04
    )


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("matthews", matthews_corrcoef),
        ("f1_macro", lambda a, b: f1_score(a, b, average="macro", zero_division=0.0)),
    ],
)
def test_influences_on_metrics_of_classes_have_them_as_mean_and_their_standard_error(name, metric, drawn):
    targets, said = drawn
    outcomes = influence.of_classes(name, targets.tolist(), said.tolist(), 4)  # a class that does not occur
    assert np.mean(outcomes) == pytest.approx(metric(targets, said))
    assert standard_error(outcomes) == pytest.approx(jackknife(metric, targets, said), rel=0.04)


def test_a_model_that_always_says_the_same_has_a_correlation_of_nothing():
    assert influence.pearson([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]) == (None, [0.0] * 3)
    assert influence.pearson([1.0, 2.0, 3.0], [5.0, 5.0000005, 5.000001]) == (None, [0.0] * 3), "it is rounding"
    assert influence.pearson([1.7e9, 1.7e9 + 1, 1.7e9 + 2], [0.0, 1e-9, 2e-9])[0] == pytest.approx(1)
    assert influence.pearson([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]) == (None, [0.0] * 3)
    assert influence.of_classes("matthews", [0, 1, 1], [1, 1, 1], 2) == pytest.approx([0.0] * 3)


class Fixed:
    """A reader whose logits are given."""

    def __init__(self, logits):
        self.given, self.rows = logits, 4
        self.precision = type("Precision", (), {"compute": "float32"})

    def encoded(self, task, examples):
        return [type("Encoded", (), {"truncated": i == 0})() for i, _ in enumerate(examples)]

    def logits(self, texts):
        return self.given


def evaluated(task, targets, logits):
    examples = [Example(f"text {i}", target, second="pair") for i, target in enumerate(targets)]
    return whole_texts.evaluate(Fixed(logits), task, examples)


@pytest.mark.parametrize("metric", [None, "matthews", "f1_macro"])
def test_a_classification_has_its_metrics_majority_and_chance(metric, drawn):
    asked, said = drawn
    targets, predicted = [CLASSES[i] for i in asked], [CLASSES[i] for i in said]
    logits = torch.nn.functional.one_hot(torch.tensor(said), 3).float()
    score, rows = evaluated(Task("t", "classification", choices=CLASSES, metric=metric), targets, logits)
    own = {
        "accuracy": float(np.mean(asked == said)),
        "matthews": matthews_corrcoef(targets, predicted),
        "f1_macro": f1_score(targets, predicted, average="macro"),
    }
    assert score.metrics == pytest.approx(own)
    assert score.metric == (metric or "accuracy")
    assert score.value == pytest.approx(own[score.metric])
    most = max(CLASSES, key=targets.count)
    always = {"accuracy": targets.count(most) / N, "matthews": 0.0}
    always["f1_macro"] = f1_score(targets, [most] * N, average="macro", zero_division=0.0)
    assert score.majority == pytest.approx(always[score.metric])
    assert score.chance == {"accuracy": pytest.approx(1 / 3), "matthews": 0.0, "f1_macro": None}[score.metric]
    assert (score.truncated_prompts, score.lost_prompts) == (1, 0)
    assert [row.prediction for row in rows] == predicted
    assert rows[0].prompt == "text 0\npair"


def test_a_regression_has_both_correlations_and_the_error(drawn):
    rng = np.random.default_rng(2)
    targets = rng.normal(size=N)
    said = 0.5 * targets + rng.normal(size=N)
    score, rows = evaluated(
        Task("t", "regression"), [repr(float(x)) for x in targets], torch.tensor(said)[:, None].float()
    )
    assert score.metrics["pearson"] == pytest.approx(pearsonr(targets, said).statistic, abs=1e-6)
    assert score.metrics["spearman"] == pytest.approx(spearmanr(targets, said).statistic, abs=1e-6)
    assert score.metrics["mean_squared_error"] == pytest.approx(float(np.mean((targets - said) ** 2)), rel=1e-5)
    assert score.value == pytest.approx(score.metrics["pearson"])
    assert (score.chance, score.majority) == (0.0, None)
    assert float(rows[3].prediction) == pytest.approx(said[3], rel=1e-5)
