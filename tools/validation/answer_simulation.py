"""Validate the answer by simulation: ``python -m tools.validation.answer_simulation [--draws N]``.

Tables with known truth, drawn as for ``crossed_simulation``, are given to the function that decides which cells lie
within the tolerated loss of the best. Cells cost the less the worse they are, so that every cell that is called good
enough falsely becomes the answer. The results are written to ``results/reference/answer.json``, from which
``tools/docs/reference.py`` renews ``docs/statistics.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peftbench.results.answer.losses import SURE, Size, losses
from tools.validation import crossed_simulation
from tools.validation.crossed_simulation import SCORE, SPREADS, Design, draw

PATH = crossed_simulation.PATH.with_name("answer.json")
WITHIN = 0.02
"""The tolerated loss, a fraction of 1."""
SIZE = Size(1000, 200, 500)
"""How much is drawn for each table; less than for reports, to save time."""
BOUNDARY = "all others at the tolerated loss"
ONE = "one at the tolerated loss, the rest far below"
AROUND = "losses from 0 to twice the tolerated one"
SAME = "all the same"


@dataclass(frozen=True)
class Found:
    """Results over many tables of one design, as shares of the tables."""

    cell_called_falsely: float
    """A cell whose true loss is at least the tolerated one is called good enough, averaged over these cells."""
    false: float
    """The answer is such a cell."""
    right: float
    """There is an answer, and it lies within the tolerated loss."""
    plain_false: float
    """The answer is false by the rule that was not taken: a probability of 95 % is enough in every table."""
    plain_right: float
    """The answer is right by that rule."""
    draws: int


def truth(kind: str, cells: int, best: float = SCORE) -> tuple[float, ...]:
    """Return the true scores of a design's cells, the best first."""
    if kind == AROUND:
        losses_ = [2 * WITHIN * place / (cells - 1) for place in range(cells)] if cells > 2 else [0.0, WITHIN / 2]
    else:
        rest = {BOUNDARY: [WITHIN] * (cells - 1), ONE: [WITHIN] + [0.2] * (cells - 2), SAME: [0.0] * (cells - 1)}
        losses_ = [0.0, *rest[kind]]
    return tuple(best - loss for loss in losses_)


def simulate(design: Design, draws: int, seed: int = 0) -> Found:
    """Answer many tables of a design."""
    generator = np.random.default_rng(seed)
    loss = max(design.truth) - np.asarray(design.truth)
    wrong = loss >= WITHIN - 1e-9
    counts = np.zeros(5)
    for _ in range(draws):
        found = losses(draw(design, generator), SIZE)
        good = found.good_enough(WITHIN)
        plain = found.probability(WITHIN) >= SURE
        answers = [_false_and_right(each, loss, wrong) for each in (good, plain)]
        counts += ((good & wrong).sum() / max(1, wrong.sum()), *answers[0], *answers[1])
    return Found(*(float(count) for count in counts / draws), draws)


def _false_and_right(called: NDArray[np.bool_], loss: Any, wrong: Any) -> tuple[bool, bool]:
    """Return whether the cheapest called cell, which is the worst of them, is a false answer, and a right one."""
    if not called.any():
        return False, False
    answer = int(np.where(called, loss, -1.0).argmax())
    return bool(wrong[answer]), not wrong[answer]


def designs() -> Iterator[tuple[str, Design]]:
    """Yield the name and design of every case of the committed validation."""
    for cells in (2, 14):
        for seeds in (3, 5):
            for spread in SPREADS:
                for kind in (BOUNDARY, ONE, AROUND, SAME):
                    if cells > 2 or kind != ONE:
                        yield kind, Design(truth(kind, cells), (spread,) * cells, seeds, 1319)
    many = Design(truth(BOUNDARY, 14), (0.4,) * 14, 5)
    for examples in (300, 500, 5000):
        for seeds in (3, 5):
            yield BOUNDARY, replace(many, seeds=seeds, examples=examples)
    for seeds in (3, 5):
        given = replace(many, seeds=seeds, examples=1319)
        yield "unequal spreads, the best's large", replace(given, spreads=(2.0, 2.0) + (0.4,) * 12)
        yield "unequal spreads, the best's small", replace(given, spreads=(0.4,) * 7 + (2.0,) * 7)
        yield "correlated seed effects", replace(given, spreads=(1.15,) * 14, common=0.5)
        yield "continuous", replace(given, continuous=True)
        for cells, examples in ((2, 100), (2, 300), (14, 300)):
            high = Design(truth(BOUNDARY, cells, 0.99), (0.0,) * cells, seeds, examples)
            yield "scores of 99 and 97 %", high


def record(draws: int) -> dict[str, Any]:
    """Return all results that the document shows, as JSON."""
    rows = []
    for place, (name, design) in enumerate(designs()):
        found = simulate(design, draws, place)
        rows.append({"name": name, "design": asdict(design), "found": asdict(found)})
        print(name, len(design.truth), design.spreads[0], design.seeds, design.examples, found, flush=True)
    return {"draws": draws, "within": WITHIN, "rows": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    crossed_simulation.write(record(parser.parse_args().draws), PATH)
