"""Notes on training time and speed: cells without a speed, speeds that do not differ, disturbed measurements."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peftbench.measure.nvml import THROTTLED
from peftbench.records import Status
from peftbench.records.wording import abridged, plural, span
from peftbench.report.collect import Results, read_json
from peftbench.report.derived import rates
from peftbench.report.notes import busy
from peftbench.results.busy_machine import busy_trials

_MEANING = "less than the half width of its 95 % interval"
_LOAD_MARGIN = 1.25
"""A machine counts as loaded if its load average exceeds that of the trials themselves by this factor."""


def notes(results: Results) -> Iterable[str]:
    """Yield which cells have no speed, and how many pairs of speeds do not differ."""
    names = [c.name for c in results.tuned if c.mean(rates.RATE) is None and c.mean("train_seconds") is not None]
    if names:
        yield f"No speed for {abridged(names, 3)}: fewer than {rates.LEAST_STEADY} steps after the warm-up steps."
    found = rates.compare_rates(results)
    if found.closest:
        pair = " and ".join(cell.name for cell in found.closest)
        if found.alike == 1:
            yield f"The difference in speed between {pair} is not significant ({_MEANING})."
        else:
            many = f"{found.alike:,} of {found.known:,} pairs of cells"
            yield f"In {many} the difference in speed is not significant ({_MEANING}), e.g. {pair}."


def cautions(results: Results) -> Iterable[str]:
    """Yield what makes times and speeds unreliable: a busy machine, a shared or a throttled GPU."""
    found = busy_trials(results.trials)
    if found:
        yield f"{busy.sentence(found)} Means of times leave them out."
    yield from _loaded(results)
    rows = [row for cell in results.tuned for row in cell.ok_rows]
    ends = [read_json(row.get("device_state_json")).get("end") or {} for row in rows]
    slowed = [set(end.get("slowed_by") or ()) & THROTTLED for end in ends]
    if any(slowed):
        why = ", ".join(sorted(set().union(*slowed)))
        number = sum(map(bool, slowed))
        yield f"The GPU was throttled ({why}) at the end of training in {number} of {plural(len(rows), 'trial')}."


def _loaded(results: Results) -> Iterable[str]:
    """Yield whether the load average was high; it serves only where the waiting time of threads is not known."""
    unknown = results.trials["train_waiting_seconds"].isna() & results.trials["train_seconds"].notna()
    ok = results.trials[(results.trials["status"] == Status.OK.value) & unknown]
    loaded: list[float] = []
    cpus: set[Any] = set()
    known = ok[["load_average", "workers", "threads", "environment_json"]].dropna()
    for load, workers, threads, text in known.itertuples(index=False):
        available = read_json(text).get("cpus_available")
        own = workers * threads
        if load > _LOAD_MARGIN * (min(own, available) if available else own) + 0.5:
            loaded.append(load)
            cpus.add(available)
    if loaded:
        on = f" on {plural(cpus.pop(), 'CPU')}" if len(cpus) == 1 and None not in cpus else ""
        which = "" if len(loaded) == len(ok) else f" of {len(loaded)} of {len(ok)} trials"
        yield (
            f"Times{which} are unreliable: the machine was loaded (load average {span(loaded, '{:.1f}'.format)}{on})."
        )
