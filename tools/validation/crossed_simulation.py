"""Validate the crossed model by simulation: ``python -m tools.validation.crossed_simulation [--draws N]``.

Tables with known truth are drawn and analysed by the functions that reports use. The results are written to
``results/reference/crossed.json``, from which ``tools/docs/reference.py`` renews ``docs/statistics.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from peftbench.results.crossed_effects.model import Outcomes, difference
from peftbench.results.crossed_effects.planning import Noise, detectable, noise, seeds_needed
from peftbench.results.crossed_effects.ranking import rank

PATH = Path(__file__).resolve().parents[2] / "results" / "reference" / "crossed.json"
SPREADS = (0.0, 0.4, 1.15, 2.0)
ITEM, METHOD_ITEM, SEED_ITEM = 0.6, 0.1, 0.3
"""Shares of an outcome's latent variance: difficulty of the example for all methods, for one method, for one run."""
SCORE = 0.6
BEYOND = "beyond what was asked:"
"""Prefix of the names of designs in which variance between seeds dominates that of examples more than in others."""
UNEQUAL = (2.0, 2.0, 0.4, 0.4, 0.4, 0.4, 0.4)
"""Unequal standard deviations between seeds of seven methods, points."""


@dataclass(frozen=True)
class Design:
    """A table with known truth."""

    truth: tuple[float, ...]
    """True score of each method, fractions of 1."""
    spreads: tuple[float, ...]
    """True standard deviation between seeds of each method's score, points."""
    seeds: int = 3
    examples: int = 500
    continuous: bool = False
    """Whether outcomes are continuous between 0 and 1, as with ROUGE, instead of right or wrong."""
    common: float = 0.0
    """Correlation of a seed's effects between methods."""


def null(methods: int, spread: float, **given: Any) -> Design:
    """Return a design in which all methods are equal."""
    return Design((SCORE,) * methods, (spread,) * methods, **given)


def two_lead(methods: int, spread: float, **given: Any) -> Design:
    """Return a design with two equal methods far ahead, in which a false "best" is most likely."""
    return replace(null(methods, spread, **given), truth=(SCORE, SCORE) + (SCORE - 0.2,) * (methods - 2))


def draw(design: Design, generator: np.random.Generator) -> dict[str, Outcomes]:
    """Return one table of the design."""
    m, s, i = len(design.truth), design.seeds, design.examples
    shared, own = generator.standard_normal((1, s)), generator.standard_normal((m, s))
    seed = np.sqrt(design.common) * shared + np.sqrt(1 - design.common) * own
    effect = np.asarray(design.spreads)[:, None] / 100 * seed
    latent = np.sqrt(ITEM) * generator.standard_normal((1, 1, i), dtype=np.float32)
    latent = latent + np.sqrt(METHOD_ITEM) * generator.standard_normal((m, 1, i), dtype=np.float32)
    latent = latent + np.sqrt(SEED_ITEM) * generator.standard_normal((m, s, i), dtype=np.float32)
    truth = np.asarray(design.truth)[:, None]
    if design.continuous:
        # E ndtr(c + 2 z) = ndtr(c / sqrt 5), so the mean of the outcomes is the truth
        centre = np.sqrt(5) * ndtri((truth - 0.1) / 0.8)
        outcomes = 0.1 + 0.8 * ndtr(centre[..., None] + 2 * latent) + effect[..., None]
    else:
        outcomes = (latent + ndtri(np.clip(truth + effect, 0.001, 0.999))[..., None] > 0).astype(float)
    return {f"m{place}": Outcomes((table,)) for place, table in enumerate(np.clip(outcomes, 0, 1))}


@dataclass(frozen=True)
class Found:
    """Results over many tables of one design, as shares of the tables."""

    covered_score: float
    """The interval of the first method's score contains the truth."""
    covered_difference: float
    """The interval of the first two methods' difference contains the truth."""
    called_best: float
    """Some method is significantly best."""
    called_best_wrongly: float
    """Some method is significantly best, but not the only truly best one."""
    called_different: float
    """Some method differs significantly from the first (the reference), Holm-adjusted."""
    last_told: float
    """The last method differs significantly from the first, Holm-adjusted."""
    draws: int


def simulate(design: Design, draws: int, seed: int = 0) -> Found:
    """Analyse many tables of a design with the crossed model."""
    generator = np.random.default_rng(seed)
    top = [place for place, value in enumerate(design.truth) if value == max(design.truth)]
    counts = np.zeros(6)
    for _ in range(draws):
        cells = draw(design, generator)
        ranking = rank(cells, "m0")
        pair = difference(cells["m1"], cells["m0"])
        own = ranking.scores["m0"]
        best = ranking.significantly_best
        found = [comparison.significant for comparison in ranking.with_reference]
        counts += (
            own.low <= design.truth[0] <= own.high,
            pair.low <= design.truth[0] - design.truth[1] <= pair.high,
            best is not None,
            best is not None and not (len(top) == 1 and best == f"m{top[0]}"),
            any(found),
            found[-1],
        )
    return Found(*(float(count) for count in counts / draws), draws)


def known_noise(design: Design, draws: int = 200) -> Noise:
    """Return the noise of a pair of methods in a design, averaged over many tables."""
    generator = np.random.default_rng(1)
    tables = (list(draw(design, generator).values()) for _ in range(draws))
    found = noise((cells[0], cells[1]) for cells in tables)
    assert found is not None
    return found


def power_at(design: Design, gap: float, draws: int) -> float:
    """Return how often a last method, better than all others by ``gap``, differs significantly from the first."""
    better = replace(design, truth=(*design.truth[:-1], design.truth[0] + gap))
    return simulate(better, draws).last_told


def designs() -> Iterator[tuple[str, Design]]:
    """Yield the name and design of every case of the committed validation."""
    for seeds, examples in ((3, 300), (3, 500), (3, 1319), (5, 500)):
        for spread in SPREADS:
            given = {"seeds": seeds, "examples": examples}
            yield from (("all the same", null(methods, spread, **given)) for methods in (2, 7))
            yield "two lead", two_lead(7, spread, **given)
    for seeds in (3, 5):
        for spread in SPREADS:
            alike = null(7, spread, seeds=seeds, examples=1319)
            yield "one leads by 5 points", replace(alike, truth=(SCORE + 0.05, *alike.truth[1:]))
    for spread in SPREADS:
        yield "continuous", null(7, spread, continuous=True)
        yield "continuous, two lead", two_lead(7, spread, continuous=True)
    for spread in SPREADS[1:]:
        yield "correlated seed effects", null(7, spread, common=0.5)
    for examples in (500, 1319):
        yield "unequal spreads", replace(null(7, 0, examples=examples), spreads=UNEQUAL)
        yield "unequal spreads, two lead", replace(two_lead(7, 0, examples=examples), spreads=UNEQUAL)
    for high in (0.9, 0.97):
        yield f"scores of {100 * high:.0f} %", replace(null(2, 0.4, examples=300), truth=(high, high))
    for seeds in (3, 5):
        yield f"{BEYOND} spread", null(2, 4.0, seeds=seeds, examples=1319)
        yield f"{BEYOND} examples", null(2, 2.0, seeds=seeds, examples=5000)


def record(draws: int) -> dict[str, Any]:
    """Return all results that the document shows, as JSON."""
    rows = []
    for name, design in designs():
        found = simulate(design, draws)
        rows.append({"name": name, "design": asdict(design), "found": asdict(found)})
        print(name, design.spreads, design.seeds, design.examples, found, flush=True)
    power = []
    for spread in SPREADS:
        for methods in (2, 7):
            for seeds in (3, 5):
                for examples in (500, 1319):
                    design = null(methods, spread, seeds=seeds, examples=examples)
                    known = known_noise(design)
                    smallest = detectable(known, seeds, methods - 1)
                    row = {"spread": spread, "methods": methods, "seeds": seeds, "examples": examples}
                    row |= {"detectable": smallest, "told": power_at(design, smallest, draws)}
                    row |= {f"seeds_for_{gap}": seeds_needed(known, gap / 100, methods - 1) for gap in (2, 3, 5)}
                    power.append(row)
                    print(row, flush=True)
    from tools.validation import crossed_rules

    return {"draws": draws, "rows": rows, "power": power, "rules": crossed_rules.tried(draws)}


def write(found: dict[str, Any], path: Path = PATH) -> None:
    """Write the results, one row per line."""
    parts = []
    for name, value in found.items():
        rows = ",\n".join(f"  {json.dumps(row)}" for row in value) if isinstance(value, list) else ""
        parts.append(f' "{name}": [\n{rows}\n ]' if rows else f' "{name}": {json.dumps(value)}')
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    write(record(parser.parse_args().draws))
