"""Predict a trial's memory and work: run the real training step under the real memory ledger, on fake tensors.

The step is ``training.loop.step``, the ledger is ``measure.ledger.account``, and the method is attached by its record
in ``METHODS``, so the planner repeats no formula of theirs. A model is traced at two small depths, and every moment of
the step is extrapolated linearly in the number of decoder layers. Of layers that train in turns, the lowest and the
highest that have a turn are traced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported, UserError
from peftbench.methods.support import LIGER
from peftbench.models import configs
from peftbench.planner import pretended
from peftbench.planner.depth import Depths, at, depths, in_turns
from peftbench.planner.records import Pass, Prediction, Unplannable, longest
from peftbench.planner.trace import Moment, Window, trace
from peftbench.records import Base, Trial

Windows = Mapping[Window, Sequence[Moment]]


def predict(trial: Trial, config: Any, passes: Sequence[Pass] | None = None, rank: int = 0) -> Prediction:
    """Return the predicted memory and work of a trial, from its base model's config alone.

    Args:
        trial: a trial that trains.
        config: the base model's transformers config, or a folder with its ``config.json``.
        passes: the forward passes of the step; by default the longest that the trial's settings allow, so that the
            predicted peak is an upper bound.
        rank: of several devices, the one whose memory is predicted; the work is that of this device, too.

    Raises:
        Unsupported: if the method or precision does not exist for this base model.
        UserError: if an option is wrong for this base model.
        Unplannable: if the step reads values of tensors, or tensors move between a GPU and its host.
    """
    assert trial.training is not None
    if trial.device == "cuda" and trial.devices is not None and trial.devices.offload != "none":
        raise Unplannable("what is offloaded to the host and what is on the GPU cannot be told apart in a trace")
    for key, instead in LIGER.items():
        if getattr(trial.training, key) == "liger":
            raise Unplannable(
                f"{key}: liger: a trace has no kernels of liger, and so not what they hold; see {key}: {instead}"
            )
    passes = tuple(passes or longest(trial.training, trial.devices))
    if isinstance(config, str | Path):
        config = load_config(trial.base, Path(config))
    try:
        where = depths(trial, config)
        with pretended.rank_of(trial.devices, rank) as parallel:
            each = [
                [trace(*at(trial, config, depth), passes, parallel, turn) for depth in where.traced]
                for turn in range(2 if in_turns(trial) else 1)
            ]
    except Exception as error:
        raise _original_error(error) from error
    peak = max((_highest_of([t.windows for t in turn], where) for turn in each), key=lambda found: sum(found.values()))
    traced = each[0]
    host = max(sum(_highest_of([t.host for t in turn], where).values()) for turn in each)
    loading = _highest_of([t.loading for t in traced], where) if all(t.loading for t in traced) else {}
    totals: dict[str, Any] = {name: _extrapolate([t.totals[name] for t in traced], where) for name in traced[0].totals}
    totals["flops"] = sum(_extrapolate([t.totals["flops"] for t in turn], where) for turn in each) / len(each)
    tokens = sum(p.examples * p.tokens for p in passes)
    return Prediction(
        peak_bytes=sum(peak.values()),
        categories=peak,
        loading=loading,
        offloaded_bytes=host,
        flops_per_token=totals.pop("flops") / tokens,
        passes=passes,
        depths=where.traced,
        depth=where.own,
        attention=traced[0].attention,
        **totals,
    )


def load_config(base: Base, folder: Path) -> Any:
    """Return the transformers config in a base model's folder.

    Raises:
        UserError: if transformers cannot read it, or does not know the model type.
    """
    try:
        return configs.load_config(folder, base.trust_remote_code)
    except Exception as error:  # of many kinds, and a model's own code may raise any
        reason = (str(error) or type(error).__name__).strip().partition("\n")[0]
        raise UserError(f"base {base.source!r}: {folder / 'config.json'}: {reason}") from error


def _original_error(error: Exception) -> Exception:
    """Return an error that the trial would raise too, or ``Unplannable`` if it comes from tensors without values."""
    from peftbench.planner import fake

    if isinstance(error, Unsupported | UserError) and not fake.lacks_values(error):
        return error
    cause = error.__cause__ or error
    return Unplannable(f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}")


def _highest_of(traced: Sequence[Windows], where: Depths) -> Mapping[str, int]:
    """Return the bytes by category at the moment of the model's own depth when their sum is highest."""
    return max(_moments(traced, where), key=lambda found: sum(found.values()))


def _moments(traced: Sequence[Windows], where: Depths) -> Iterator[Mapping[str, int]]:
    """Yield the bytes by category at every moment, extrapolated to the model's own depth."""
    if len(traced) == 1:
        yield from (found for moments in traced[0].values() for _, found in moments)
        return
    shallow, deep = (_aligned(t, depth, where) for t, depth in zip(traced, where.traced, strict=True))
    for window, moments in shallow.items():
        for one, other in _paired(moments, deep.get(window, ())):
            yield {name: _extrapolate((one[name], other[name]), where) for name in one}


def _aligned(traced: Windows, depth: int, where: Depths) -> Windows:
    """Return windows by layer positions that both depths share; middle layers are left out."""
    found = {}
    for (kind, place, *rest), moments in traced.items():
        if place is None or place < where.low:
            found[kind, place, *rest] = moments
        if place is not None and place >= depth - where.high:
            found[kind, place - depth, *rest] = moments
    return found


def _paired(shallow: Sequence[Moment], deep: Sequence[Moment]) -> Iterator[tuple[Mapping[str, int], Mapping[str, int]]]:
    """Yield pairs of corresponding moments of a window in two depths.

    If both ran the same operators, moments correspond one by one; otherwise each operator's highest moment.
    """
    if [name for name, _ in shallow] == [name for name, _ in deep]:
        yield from zip((found for _, found in shallow), (found for _, found in deep), strict=True)
        return
    one, other = _highest(shallow), _highest(deep)
    yield from ((one[name], other[name]) for name in one if name in other)


def _highest(moments: Sequence[Moment]) -> dict[str, Mapping[str, int]]:
    return dict(sorted(moments, key=lambda moment: sum(moment[1].values())))


def _extrapolate(values: Sequence[int], where: Depths) -> int:
    """Return a number at the model's own depth, by linear extrapolation from the traced depths."""
    if len(values) == 1:
        return values[0]
    (first, second), (low, high) = values, where.traced
    return first + (second - first) * (where.own - low) // (high - low)
