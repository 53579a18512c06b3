"""The score of one task of a run of lm-eval, and its examples."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.records import ExampleRow, Score

_UNREAD = "[invalid]"
"""The output of lm-eval's filters if they find no answer."""
_SIZES = {"acc": lambda choice: 1, "acc_norm": len, "acc_bytes": lambda choice: len(choice.encode())}
"""Metric -> the size of a choice by which it divides the log-probability before choices are ranked."""
_PER_BYTE = "probability_per_byte"
_FRACTIONS = re.compile(
    r"(\w+_)?acc(uracy)?(_\w+)?|(\w+_)?exact_match(_\w+)?|em|f1|likelihood|mc[12]|mcc|pass_?(at_|@).+"
)
"""Metrics that lm-eval gives as fractions of 1 (``mcc``: -1 to 1). Others may be of 100, as BLEU is."""
_LOWER = ("brier_score", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ter", "wer")
"""Metrics that are better when lower, for files that do not say it."""
_EQUAL = 1e-6
"""Largest difference of a score from the mean of its examples' outcomes that rounding makes."""
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class TaskRun:
    """A task of one run."""

    name: str
    score: Score | None
    """None if no metric is known to be a fraction of 1 and better when higher."""
    stored: dict[str, Any]
    """Its record for ``scores_json``."""
    examples: tuple[ExampleRow, ...]
    """Without their key; empty if no samples were logged."""
    settings: Mapping[str, Any]
    sha256: str | None
    """lm-eval's hash of its examples; None without samples."""


def task_run(found: Mapping[str, Any], name: str, samples: Path) -> TaskRun:
    """Return a task of a results file.

    Args:
        found: the whole file.
        name: of the task.
        samples: the file of its samples, which may not exist.

    Raises:
        UserError: if the file of samples is not whole, or not of this run.
    """
    config, listed = found["configs"].get(name, {}), found["results"][name]
    metrics, errors = _numbers(listed, "", "_stderr"), _numbers(listed, "_stderr", "")
    version = found.get("versions", {}).get(name)
    settings = {
        "name": name,
        "lm_eval": name,
        "version": version,
        "num_fewshot": found.get("n-shot", {}).get(name),
        "output_type": config.get("output_type"),
        "dataset": config.get("dataset_path"),
    }
    count = found.get("n-samples", {}).get(name, {}).get("effective", listed.get("sample_len"))
    higher = _directions(found, name)
    logged = _samples(samples, count) if samples.is_file() else []
    try:
        if config.get("output_type") == "loglikelihood_rolling":
            examples = tuple(_texts(name, logged))
            headline, value = _PER_BYTE, math.fsum(e.outcome for e in examples) / len(examples) if examples else None
            error = _standard_error([e.outcome for e in examples])
            metrics |= {_PER_BYTE: value} if value is not None else {}
        else:
            headline, value = next(_headlines(metrics, higher, logged), ("", None))
            error = errors.get(headline)
            mine = _outcomes(logged, headline, value, config, samples)
            examples = tuple(_example(name, sample, headline, config) for sample in mine)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as problem:
        raise UserError(f"{samples} has a sample that is none of lm-eval: {problem!r:.120}") from problem
    record = {"task": name, "metric": headline or next(iter(metrics), ""), "value": value, "metrics": metrics}
    if value is None:
        return TaskRun(name, None, record | {"settings": settings, "examples": count}, (), settings, None)
    decoded = config.get("output_type") == "generate_until" and bool(examples)
    score = Score(
        name,
        _plain(headline),
        value,
        error,
        {_plain(metric): number for metric, number in metrics.items()},
        int(count if count is not None else len(examples)),
        _chance(examples, headline),
        _majority(examples),
        sum(e.format_ok is False for e in examples) if decoded else None,
        None,
        settings=settings,
    )
    digest = found.get("task_hashes", {}).get(name)
    return TaskRun(name, score, asdict(score), examples, settings, digest if examples else None)


def groups(found: Mapping[str, Any]) -> Iterator[Score]:
    """Yield the aggregates of groups: records for ``scores_json``, since their tasks have scores of their own."""
    for name, listed in (found.get("groups") or {}).items():
        metrics, errors = _numbers(listed, "", "_stderr"), _numbers(listed, "_stderr", "")
        headline, value = next(_headlines(metrics, _directions(found, name), ()), ("", None))
        if value is not None:
            plain = {_plain(metric): number for metric, number in metrics.items()}
            of = {"group_of": list(found.get("group_subtasks", {}).get(name, ()))}
            count = int(listed.get("sample_len") or 0)
            yield Score(name, _plain(headline), value, errors.get(headline), plain, count, *(None,) * 4, settings=of)


def _numbers(listed: Mapping[str, Any], ending: str, other: str) -> dict[str, float]:
    """Return the numbers of a task whose metric's name has an ending and not another, by "metric,filter"."""
    found = {}
    for key, value in listed.items():
        metric, comma, kept = key.partition(",")
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if comma and number and metric.endswith(ending) and not (other and metric.endswith(other)):
            found[f"{metric.removesuffix(ending)},{kept}"] = float(value)
    return found


def _directions(found: Mapping[str, Any], name: str) -> Mapping[str, bool]:
    """Return which metrics of a task are better when higher, as far as the file says it; older ones do in the task."""
    listed = found["configs"].get(name, {}).get("metric_list") or ()
    own = {str(each["metric"]): each["higher_is_better"] for each in listed if "higher_is_better" in each}
    return own | ((found.get("higher_is_better") or {}).get(name) or {})


def _headlines(
    metrics: Mapping[str, float], higher: Mapping[str, Any], samples: Sequence[Sample]
) -> Iterator[tuple[str, float]]:
    """Yield the metrics that are known to be fractions of 1 and better when higher, in lm-eval's order.

    A metric of which nothing is known is one if every sample has an outcome between 0 and 1, whose mean it is.
    """
    of_a_hundred = any(name.startswith("exact,") for name in metrics)  # SQuAD's, of which f1 is a percentage too
    for name, value in metrics.items():
        metric = name.partition(",")[0]
        mine = [float(sample[metric]) for sample in samples if _of(sample, name)]
        seen = bool(mine) and all(0 <= each <= 1 for each in mine) and abs(math.fsum(mine) / len(mine) - value) < _EQUAL
        known = bool(_FRACTIONS.fullmatch(metric)) and not (metric == "f1" and of_a_hundred)
        if (
            higher.get(metric, metric not in _LOWER)
            and (seen or known)
            and (-1 if metric == "mcc" else 0) <= value <= 1
        ):
            yield name, value


def _plain(metric: str) -> str:
    return metric.removesuffix(",none")


def _samples(path: Path, count: int | None) -> list[Sample]:
    """Return the logged samples of a task, each filter's apart, in the order of their documents."""
    found: list[dict[str, Any]] = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    found.append(_sample(path, number, line))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    kept = Counter(sample["filter"] for sample in found)
    for name, mine in kept.items() if found else [("none", 0)]:
        if count is not None and mine != count:
            raise UserError(
                f"{path}: {mine} samples of filter {name!r}, but the results are of {count}: the file is not whole; "
                "move it away to import the scores alone"
            )
    twice = [each for each, times in Counter((s["filter"], s["doc_id"]) for s in found).items() if times > 1]
    if twice:
        raise UserError(f"{path} has the document {twice[0][1]} more than once for filter {twice[0][0]!r}")
    return sorted(found, key=lambda sample: sample["doc_id"])


def _sample(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        sample = json.loads(line)
        return {**sample, "filter": sample.get("filter", "none"), "doc_id": int(sample["doc_id"])}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: line {number} is no sample of lm-eval: {error!r:.120}") from error


def _of(sample: Sample, headline: str) -> bool:
    metric, _, kept = headline.partition(",")
    return sample["filter"] == kept and isinstance(sample.get(metric), int | float)


def _outcomes(
    logged: Sequence[Sample], headline: str, value: float | None, config: Mapping[str, Any], path: Path
) -> list[Sample]:
    """Return the samples whose outcomes make up a score; none if it is no mean of outcomes.

    Raises:
        UserError: if the samples are not those of the score.
    """
    metric, _, kept = headline.partition(",")
    mine = [sample for sample in logged if _of(sample, headline)]
    if value is None or not logged:
        return []
    if all(sample["filter"] != kept for sample in logged):
        raise UserError(f"{path} has no samples of filter {kept!r}, of which the score is: the file is not whole")
    if not mine or len(mine) < sum(sample["filter"] == kept for sample in logged):
        return []
    if abs(math.fsum(float(sample[metric]) for sample in mine) / len(mine) - value) < _EQUAL:
        return mine
    aggregated = {each.get("metric"): each.get("aggregation") for each in config.get("metric_list") or ()}
    if aggregated.get(metric) == "mean":
        mean = math.fsum(float(sample[metric]) for sample in mine) / len(mine)
        raise UserError(
            f"{path}: the mean {metric} of its samples is {mean:.6g}, that of the results is {value:.6g}: they are not "
            "of one run; move the file away to import the scores alone"
        )
    return []


def _requests(sample: Sample) -> list[Sequence[Any]]:
    """Return the arguments of each request to the model; older versions wrote lists."""
    given = sample.get("arguments") or []
    if isinstance(given, Mapping):
        return [[each[name] for name in sorted(each)] for each in given.values()]
    return [list(each) for each in given]


def _first(nested: Any) -> str:
    """Return the first text in nested lists of texts."""
    while isinstance(nested, list | tuple):
        nested = nested[0] if nested else ""
    return str(nested)


def _example(task: str, sample: Sample, headline: str, config: Mapping[str, Any]) -> ExampleRow:
    requests, metric = _requests(sample), headline.partition(",")[0]
    prompt, target = str(requests[0][0]) if requests else "", str(sample.get("target"))
    prediction, read, logprobs = "", None, None
    if config.get("output_type") == "generate_until":
        prediction, answer = _first(sample["resps"]).strip(), _first(sample["filtered_resps"])
        read = bool(answer.strip()) and answer != _UNREAD
    elif config.get("output_type") == "multiple_choice":
        choices, values = _choices(sample, requests, str(config.get("target_delimiter", " ")))
        logprobs = json.dumps(values)
        if target.isdigit() and int(target) < len(choices):
            target = choices[int(target)]
        if metric in _SIZES and choices:
            ranks = [value / max(1, _SIZES[metric](choice)) for value, choice in zip(values, choices, strict=True)]
            prediction = choices[max(range(len(ranks)), key=ranks.__getitem__)]
    return ExampleRow("", task, sample["doc_id"], prompt, target, prediction, float(sample[metric]), read, logprobs)


def _choices(sample: Sample, requests: Sequence[Sequence[Any]], delimiter: str) -> tuple[list[str], list[float]]:
    """Return the choices of a sample and their log-probabilities, without those of choices alone."""
    values = [float(response[0]) for response in sample["filtered_resps"]]
    count = len(values) // 2 if "acc_mutual_info" in sample.get("metrics", ()) else len(values)
    texts = [str(request[1]) for request in requests[:count]]
    if len(set(texts)) < len(texts):  # the prompts differ, not the answers
        texts = [str(request[0]) for request in requests[:count]]
    return [text.removeprefix(delimiter) for text in texts], values[:count]


def _texts(task: str, samples: Sequence[Sample]) -> Iterator[ExampleRow]:
    """Yield the rows of a perplexity task: the mean probability of a text's bytes."""
    for sample in samples:
        text, logprob = str(sample["target"]), float(_first(sample["filtered_resps"]))
        outcome = math.exp(logprob / max(1, len(text.encode())))
        logprobs = json.dumps([logprob])
        yield ExampleRow("", task, sample["doc_id"], "", text, "", outcome, None, logprobs)


def _standard_error(outcomes: Sequence[float]) -> float | None:
    if len(outcomes) < 2:
        return None
    mean = math.fsum(outcomes) / len(outcomes)
    return math.sqrt(math.fsum((o - mean) ** 2 for o in outcomes) / (len(outcomes) - 1) / len(outcomes))


def _chance(examples: Sequence[ExampleRow], headline: str) -> float | None:
    """Return the expected score of a uniform guess among ranked choices."""
    sizes = [len(json.loads(e.choice_logprobs)) for e in examples if e.choice_logprobs]
    ranked = headline.partition(",")[0] in _SIZES and len(sizes) == len(examples)
    return math.fsum(1 / size for size in sizes) / len(sizes) if sizes and ranked and min(sizes) > 1 else None


def _majority(examples: Sequence[ExampleRow]) -> float | None:
    """Return the score of always giving the most common answer, if predictions are among few answers."""
    targets = Counter(e.target for e in examples if e.prediction and e.format_ok is None)
    few = sum(targets.values()) == len(examples) and {e.prediction for e in examples} <= set(targets)
    return max(targets.values()) / len(examples) if targets and few and 2 * len(targets) <= len(examples) else None
