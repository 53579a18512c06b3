"""Notes on methods: size matched to a budget, published settings, adapted share, causality."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peftbench.methods import profiles
from peftbench.models import causality
from peftbench.planner import match
from peftbench.records.units import percent
from peftbench.records.wording import series
from peftbench.report.collect import Cell, Results, read_json
from peftbench.results.rows import is_number


def matched_parameters(results: Results) -> Iterable[str]:
    """Yield how close the cells come to the number of trainable parameters that their ranks were chosen for."""
    if not (results.grid and results.grid.parameters):
        return
    budget = results.grid.parameters
    counts = [(cell, n) for cell in results.tuned if (n := cell.mean("trainable_parameters")) is not None]
    sized = [(cell.name, n) for cell, n in counts if cell.record and cell.record.rank_meaning]
    near = [f"{name} {match.miss(n, budget)}" for name, n in sized if not match.far(n, budget)]
    far = [(name, n) for name, n in sized if match.far(n, budget)]
    unsized = [(cell.name, n) for cell, n in counts if not (cell.record and cell.record.rank_meaning)]
    yield f"Ranks were chosen for {budget:,} trainable parameters: {', '.join(near) or 'no cell comes close'}."
    if far:
        yield f"More than {match.FAR:.0%} off: {_multiples(far, budget)}."
    if unsized:
        yield f"No rank to choose: {_multiples(unsized, budget)}."


def _multiples(counts: Sequence[tuple[str, float]], budget: int) -> str:
    return ", ".join(f"{name} ({n / budget:.3g} times)" for name, n in counts)


def profile_settings(results: Results) -> Iterable[str]:
    """Yield which cells use a profile's settings, what published ones leave open and what was not adopted."""
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in results.cells:
        for text in cell.texts("settings_json", ok=False):
            profile = (read_json(text).get("train") or {}).get("profile")
            if profile:
                cells.setdefault((profile, cell.method if profile in profiles.RECIPES else ""), []).append(cell)
                break
    for (profile, method), found in cells.items():
        if recipe := profiles.recipe(profile, method):
            told = profiles.describe(recipe)
            yield f"Profile {profile}, {found[0].title}, unless the suite sets otherwise: {told}"
        else:
            titles = series(tuple(dict.fromkeys(cell.title for cell in found)))
            yield f"Profile {profile}: the same settings for all methods, in place of the recipes of {titles}."


def not_causal(results: Results) -> Iterable[str]:
    """Yield the cells whose prediction at a position depends on later tokens."""
    column = "later_token_influence"
    known = {c.name: [row[column] for row in c.rows if is_number(row[column])] for c in results.tuned}
    ahead = {name: max(shares) for name, shares in known.items() if shares and max(shares) > causality.NOISE}
    if ahead:
        yield (
            f"Not causal: {series(tuple(ahead))}. Later tokens change the predictions at earlier positions (by up to "
            f"{100 * max(ahead.values()):.2g} % of the effect of a position's own token), so training losses and "
            "likelihoods are partly computed from the answer."
        )


_ADAPTED = ("settings_json", "adapted_share", "unadapted_matrices")


def adapted_share(results: Results) -> Iterable[str]:
    """Yield which matrices ``all-linear`` did not adapt: fused experts are not always linear layers."""
    cells: dict[tuple[float, str], list[str]] = {}
    for cell in results.cells:
        for text, share, missed in ((row[n] for n in _ADAPTED) for row in cell.rows):
            if not is_number(share) or not isinstance(missed, str):
                continue
            if read_json(text).get("options", {}).get("target_modules") == "all-linear":
                cells.setdefault((share, missed), []).append(cell.name)
    for (share, missed), names in cells.items():
        yield (
            f"{series(tuple(dict.fromkeys(names)))}: all-linear adapts {percent(share)} of the weights in the base "
            f"model's matrices; not adapted: {missed}."
        )


def left_out(results: Results) -> Iterable[str]:
    """Yield which parts of a base model text does not pass through, so that no method adapts or trains them."""
    rows = results.trials[["left_out_modules", "left_out_parameters", "base_parameters"]].dropna().drop_duplicates()
    for names, count, whole in rows.itertuples(index=False):
        yield (
            f"Text does not pass through {series(names.split(', '))} ({percent(count / whole)} of the base model's "
            "parameters): no method adapts or trains them, and they count in no number of trainable parameters."
        )
