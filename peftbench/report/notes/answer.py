"""The answer in words: which method to take, what it costs, or why that cannot be told."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from peftbench.records import units as fmt
from peftbench.records.wording import abridged, plural, series
from peftbench.report.collect import MEAN
from peftbench.report.derived.answer import Answer, Costs
from peftbench.report.derived.smoke import MEANING
from peftbench.report.names import renamed
from peftbench.report.notes import busy, lacking
from peftbench.results.answer import FIRST_SEEDS, LEAST_SEEDS
from peftbench.results.answer.decision import ONE_SEED, Refusal
from peftbench.results.crossed_effects.model import Estimate

WIDTH = 100
"""Longest line in characters."""
LINES = 8
"""Most lines."""
MORE_SEEDS = f"At least {LEAST_SEEDS} seeds of every cell are needed."
"""What decides if a cell of one seed may be the best."""
BESIDE_TENSORS = " including non-tensor GPU memory"
"""What the memory that a budget has to hold includes on a GPU."""
NO_TIMES = "a time budget needs times that were not measured on a busy machine, and there are none"
"""Why a question with a time budget may have no answer."""
UNKNOWN_MEMORY = "Not judged by memory, which is not known: {}."
"""Which cells may be within a memory budget or not."""
UNKNOWN_TIME = "Not judged by time, which was not measured on an idle machine: {}."
"""Which cells may be within a time budget or not."""


def lines(found: Answer) -> tuple[str, ...]:
    """Return the answer as at most eight lines of at most 100 columns; a sentence that does not fit is left out.

    A command may take more columns, because one that is cut could not be copied. What finishes the run is kept.
    """
    said = sentences(found)
    last = _lines(said[-1]) if found.finish_first else []
    kept: list[str] = []
    for sentence in said[:-1] if found.finish_first else said:
        wrapped = _lines(sentence)
        room = LINES - len(kept) - len(last) - (found.command is not None)
        if len(wrapped) <= room:
            kept += wrapped
    return (*kept, *last, *([f"  {found.command}"] if found.command else []))


def _lines(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, WIDTH, break_long_words=True, break_on_hyphens=False)


def sentences(found: Answer) -> tuple[str, ...]:
    """Return the answer as sentences, the most important first; its command is not among them.

    The last one says how many trials have no result yet, if the run is to be finished first. Cells have their
    display names.
    """
    each = {"answer": _answered, "cannot tell": _undecided, "over budget": _over_budget, "refused": _refused}
    said = (*each[found.decision.status](found), *lacking.finishing(found))
    return tuple(renamed(sentence, found.names) for sentence in said)


def points(value: float) -> str:
    """Return "2 points", "1 point" or "2.25 points": a loss with the digits that were given, up to six."""
    text = f"{value:g}"
    return f"{text} point{'s' * (text != '1')}"


def _answered(found: Answer) -> Iterator[str]:
    decision = found.decision
    name = decision.by_memory or decision.by_time or decision.good[0]
    yield _taken(found, name)
    yield _score(found, name)
    yield from _times(found, name)
    yield from beside(found.costs[name])
    if decision.base_within:
        yield f"The untuned base model itself lies within {points(decision.question.within)} of the best."
    if decision.fits_below_best is not None:
        known = " known to be" * _may_fit(found, str(decision.best))
        yield (
            f"The best of all, {decision.best}, is not{known} within the budget: the best that is, {decision.fits}, "
            f"loses {loss(decision.fits_below_best)}."
        )
    yield from _missing(found)


def _taken(found: Answer, name: str) -> str:
    decision, count = found.decision, len(found.decision.good)
    within = f"within {points(decision.question.within)} of the best{_on(found)}"
    if len(decision.judged) == 1:
        return f"{name} is the only cell that can be judged, so nothing is compared with it."
    if count == 1:
        return f"Take {name}: the only cell{_limits(found)} that is known to lie {within}."
    cells = f"the {count} cells{_limits(found)} that are known to lie {within}"
    if decision.by_memory:
        peak = fmt.memory(found.costs[name].peak_train_bytes)
        return f"Take {name}: of {cells}, it needs the least memory ({peak})."
    if decision.by_time:
        return f"Take {name}: of {cells}, it trains fastest; their memory was not measured."
    return f"Take any of {cells}: {abridged(decision.good, 4)}. Neither their memory nor all their times are known."


def _score(found: Answer, name: str) -> str:
    decision = found.decision
    own = f"Score {percent(found, name)}"
    if name != decision.best:
        own += f"; the best, {decision.best}, has {percent(found, str(decision.best))}"
    share = 100 * decision.probabilities[name]
    known = paid(found.costs[name])
    sure = f"P(within {decision.question.within:g}) is {share:.0f} %"
    return f"{own}; {sure}. {known}" if known else f"{own}; {sure}."


def paid(cost: Costs) -> str:
    """Return "Peak 3.0 GiB, training 80.0 s, checkpoint 1.0 MiB."; empty if none of them is known."""
    known = [f"Peak {fmt.memory(cost.peak_train_bytes)}"] if cost.peak_train_bytes is not None else []
    known += (
        [f"{'training' if known else 'Training'} {fmt.seconds(cost.train_seconds)}"]
        if cost.train_seconds is not None
        else []
    )
    known += (
        [f"{'checkpoint' if known else 'Checkpoint'} {fmt.memory(cost.checkpoint_bytes)}"]
        if cost.checkpoint_bytes is not None
        else []
    )
    return f"{', '.join(known)}." if known else ""


def _times(found: Answer, name: str) -> Iterator[str]:
    decision = found.decision
    if decision.by_time and decision.by_time != name:
        other = found.costs[decision.by_time]
        peak = "" if other.peak_train_bytes is None else f", {fmt.memory(other.peak_train_bytes)}"
        yield f"By time it is {decision.by_time}: {fmt.seconds(other.train_seconds)}{peak}."
    elif decision.by_time and len(decision.good) > 1 and decision.by_memory:
        yield "It also trains fastest of them."
    elif not decision.by_time:
        yield no_times(found)


def no_times(found: Answer) -> str:
    """Return why the times of cells are not compared."""
    if found.busy:
        return (
            f"Times are not compared: {found.busy.count} of {plural(found.busy.known, 'trial')} ran on a busy machine "
            f"({busy.why(found.busy)})."
        )
    return "Times are not compared: they were not measured for all of these cells."


def beside(cost: Costs) -> Iterator[str]:
    """Yield in one sentence what a cell costs beside score, memory and time."""
    known = []
    if cost.forgetting is not None:
        change = cost.forgetting.value
        known.append(f"{'forgets' if change >= 0 else 'gains'} {abs(change):.2f} nats/token of general text")
    if cost.decode is not None:
        low, high = (f"{end:.2f}" for end in (cost.decode.low, cost.decode.high))  # one process measured it
        known.append(f"decodes in {cost.decode.mean:.2f} times ({low} to {high}) the base's time")
    merge = {"yes": "can be merged", "no": "cannot be merged", "whole model": "has no adapter to merge"}
    if cost.merge is not None:
        known.append(merge[cost.merge])
    if known:
        yield f"It {series(known)}."


def _undecided(found: Answer) -> Iterator[str]:
    decision = found.decision
    if decision.may_be_best:
        yield from _rivals(found)
        return
    yield (
        f"Cannot tell yet: no cell{_limits(found)} is known to lie within {points(decision.question.within)} of the "
        f"best{_on(found)} for new seeds and new examples."
    )
    scores = dict(zip(decision.probabilities, decision.losses.scores, strict=True)) if decision.losses else {}
    shares = {name: f"{100 * share:.0f}" for name, share in decision.probabilities.items() if name in decision.allowed}
    likely = sorted(shares.items(), key=lambda item: (-int(item[1]), -scores[item[0]]))[:3]
    yield f"Likeliest to: {', '.join(f'{name} ({share} %)' for name, share in likely)}."
    yield from _shown(found)
    yield from _missing(found)
    yield from deciding(found)


def _rivals(found: Answer) -> Iterator[str]:
    """Yield which cells that were not judged may be the best; no probability is known then."""
    names = found.decision.may_be_best
    scored = abridged([f"{name} ({percent(found, name)})" for name in names], 3)
    verb = "was not judged and" if len(names) == 1 else "were not judged, and one of them"
    yield f"Cannot tell yet{_on(found)}: {scored} {verb} may be the best."
    yield from _missing(found)
    if found.decision.needed is not None:
        yield from deciding(found)
    elif any(found.decision.left_out[name] == ONE_SEED for name in names):
        yield MORE_SEEDS


def deciding(found: Answer) -> Iterator[str]:
    """Yield how many seeds or examples would decide what cannot be told yet."""
    needed = found.decision.needed
    if needed is None:
        return
    now = f"{plural(needed.examples_now, 'test example')}"
    if needed.seeds is None:
        yield f"More seeds and examples would hardly decide it (now {_seeds_now(found)} seeds, {now})."
    elif needed.examples:
        yield (
            f"No number of seeds would decide with {now}; about {needed.examples:,} examples and "
            f"{needed.seeds} seeds would, in 80 % of cases."
        )
    else:
        said = f"About {needed.seeds} seeds (now {_seeds_now(found)}) would decide it in 80 % of cases"
        yield f"{said} (--seeds {needed.seeds})." if found.finish_first else f"{said}{':' if found.command else '.'}"


def _seeds_now(found: Answer) -> str:
    """Return "2", or "2 to 3" if cells have different numbers of seeds."""
    least = found.decision.needed.seeds_now if found.decision.needed else found.seeds
    return f"{least} to {found.seeds}" if found.seeds > least else f"{least}"


def _shown(found: Answer) -> Iterator[str]:
    decision = found.decision
    if decision.shown and decision.shown_within:
        yield f"Known so far: {decision.shown} lies within {points(decision.shown_within)} of the best."


def _over_budget(found: Answer) -> Iterator[str]:
    decision, limits = found.decision, _limits(found)
    if decision.fits is None:
        known = [(cost.needs_bytes, name) for name, cost in found.costs.items() if cost.needs_bytes]
        with_reserve = BESIDE_TENSORS if any(cost.reserve_bytes for cost in found.costs.values()) else ""
        smallest = (
            f": the smallest peak is {fmt.memory(min(known)[0])}{with_reserve} ({min(known)[1]})" if known else ""
        )
        timed = [(cost.train_seconds, name) for name, cost in found.costs.items() if cost.train_seconds is not None]
        if decision.question.time_seconds is not None and timed:
            smallest += f"; the shortest training takes {fmt.seconds(min(timed)[0])} ({min(timed)[1]})"
        known_to = " is known to have" * any(_may_fit(found, name) for name in decision.judged)
        yield f"No cell{known_to}{limits}{smallest}."
    else:
        best = f"{decision.best} ({percent(found, str(decision.best))})"
        within = points(decision.question.within)
        yield f"No cell{limits} is known to lie within {within} of the best{_on(found)}, {best}."
    yield from _unmeasured(found)
    if decision.fits and decision.fits_below_best is not None:
        yield (
            f"The best that is, {decision.fits} ({percent(found, decision.fits)}), loses "
            f"{loss(decision.fits_below_best)}."
        )
        yield from beside(found.costs[decision.fits])
    if found.busy and decision.question.time_seconds is not None:
        yield no_times(found)
    yield from _missing(found, unmeasured=False)


def _unmeasured(found: Answer) -> Iterator[str]:
    """Yield the judged cells of which it is not known whether they stay within a budget, a sentence for each budget."""
    question, costs = found.decision.question, found.costs
    if question.budget_bytes is not None:
        unknown = [name for name in found.decision.judged if costs[name].needs_bytes is None]
        if unknown:
            yield UNKNOWN_MEMORY.format(abridged(unknown, 3))
    if question.time_seconds is not None:
        unknown = [name for name in found.decision.judged if costs[name].train_seconds is None]
        if unknown:
            yield UNKNOWN_TIME.format(abridged(unknown, 3))


def _may_fit(found: Answer, name: str) -> bool:
    """Whether it is not known if a cell stays within the budgets: a cost is unknown, and none is above its limit."""
    question, cost = found.decision.question, found.costs[name]
    pairs = ((question.budget_bytes, cost.needs_bytes), (question.time_seconds, cost.train_seconds))
    costs = [(limit, own) for limit, own in pairs if limit is not None]
    return any(own is None for _, own in costs) and all(own is None or own <= limit for limit, own in costs)


def loss(below: Estimate) -> str:
    """Return a measured loss with its 95 % interval: "13.2 points [3.1, 23.4]"."""
    return f"{points(round(-100 * below.value, 1))} [{-100 * below.high:.1f}, {-100 * below.low:.1f}]"


def _refused(found: Answer) -> Iterator[str]:
    refusal = found.decision.refusal
    assert refusal is not None
    yield f"No answer: {_reason(found, refusal)}."
    if found.imported:
        return
    if refusal in ("all zero", "not above base", "not above majority", "not above chance"):
        yield "More steps (train.steps) or a search of learning rates (learning_rate: search) may change that."
    if refusal not in ("no scores", "no outcomes", "smoke run", "all zero"):
        yield from _missing(found)
    if refusal == "single seed":
        ends = ":" if found.command and not found.finish_first else "."
        yield f"At least {LEAST_SEEDS} seeds are needed, and {FIRST_SEEDS} are usual{ends}"


def _reason(found: Answer, refusal: Refusal) -> str:
    best = max(found.costs, key=lambda name: found.costs[name].score or 0.0, default=None)
    top = f" (best: {best}, {percent(found, best)}" if best else " ("
    if refusal == "not above base":
        base = fmt.spread(found.base_score, None, 100)
        return f"nothing is better than the untuned base model beyond noise{_on(found)}{top}; base: {base})"
    if refusal in ("not above majority", "not above chance"):
        kind = "majority" if refusal == "not above majority" else "chance"
        what = "the majority answer" if kind == "majority" else "chance"
        level = fmt.spread(found.levels[kind], None, 100)  # type: ignore[index]
        return f"nothing is better than {what} beyond noise{_on(found)}{top}; {kind}: {level})"
    return {
        "no tuned cell": "no tuned cell has a finished trial",
        "no scores": f"nothing was scored{', as the base model has random weights' * found.random_weights}",
        "no outcomes": "the outcomes of single examples cannot be used "
        f"({'; '.join(dict.fromkeys(found.decision.left_out.values()))}), so what new examples would give is not known",
        "single seed": "no cell has more than one finished seed, so what another seed would give is not known",
        "no times": NO_TIMES,
        "all zero": f"every tuned cell scores 0{_on(found)}, so none is known to be better than another",
        "smoke run": f"this is a smoke run: {MEANING}",
    }[refusal]


def _missing(found: Answer, unmeasured: bool = True) -> Iterator[str]:
    if unmeasured and found.decision.status != "refused":
        yield from _unmeasured(found)
    if found.decision.refusal != "single seed":
        yield from lacking.not_judged(found)
    if found.decision.without_memory and found.decision.by_memory:
        yield f"Memory was not measured for {abridged(found.decision.without_memory, 3)}."
    yield from lacking.unfinished(found)


def _limits(found: Answer) -> str:
    question, parts = found.decision.question, []
    if question.budget_bytes is not None:
        parts.append(fmt.memory(question.budget_bytes))
    if question.time_seconds is not None:
        parts.append(fmt.seconds(question.time_seconds))
    return f" trained within {' and '.join(parts)}" if parts else ""


def _on(found: Answer) -> str:
    return "" if found.task == MEAN or found.decision.question.task is None else f" on {found.task}"


def percent(found: Answer, name: str) -> str:
    """Return a cell's score in percent."""
    return fmt.spread(found.costs[name].score, None, 100)
