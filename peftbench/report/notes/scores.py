"""Notes on what the scores are: mean and spread over seeds, metric of each task."""

from __future__ import annotations

from peftbench.report.collect import Results

_METRICS = {
    **{"rouge_l": "ROUGE-L", "bleu": "BLEU", "chrf": "chrF", "f1_macro": "macro F1", "matthews": "Matthews' r"},
    **{"bleu_lowercase": "BLEU (lower case)", "nist": "NIST", "rouge_l_coco": "ROUGE-L (COCO)", "cider": "CIDEr"},
    **{"meteor": "METEOR", "pearson": "Pearson's r", "spearman": "Spearman's r"},
}


def seeds(results: Results) -> str:
    """Return over how many seeds the numbers of the table are, and what their spread is."""
    counts = sorted({len(cell.ok) for cell in results.tuned})
    if not counts:
        return "No tuned cell has a finished trial."
    if counts == [1]:
        return "One seed per cell, so there is no spread."
    return "Scores, train time and speed: mean ± standard deviation over the n seeds that ended ok."


def metrics(results: Results) -> str | None:
    """Return the metric of each task; None if no trial has a score."""
    named = [(task, results.score_record(task).get("metric")) for task in results.tasks]
    each = [f"{metric_words(str(metric))} ({task})" for task, metric in named if metric]
    mean = "; mean: unweighted" if len(results.tasks) > 1 else ""
    return f"Metrics: {', '.join(each)}{mean}." if each else None


def metric_words(metric: str) -> str:
    """Return a metric's name as it is written in texts."""
    name, _, kept = metric.partition(",")  # lm-eval's name of a filter
    return _METRICS.get(name, name.replace("_", " ")) + (f" ({kept})" if kept else "")
