"""What to run: base models and data found and hashed, the key of every trial, and which trials are done. No torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported, UserError
from peftbench.measure import environment
from peftbench.methods import base_facts, context_length
from peftbench.models import causality, find
from peftbench.planner import cuda_reserve
from peftbench.records import Base, Example, Job, Status, Task, Trial
from peftbench.records.failures import without_paths
from peftbench.records.watch import Watch
from peftbench.results import store
from peftbench.runner import leftovers, training_states
from peftbench.runner.executor import local
from peftbench.runner.preflight import answers, attaching, chats, engines, generation, optimizers, texts, truncation
from peftbench.runner.preflight import bases as base_models
from peftbench.runner.preflight.texts import Texts
from peftbench.suite import trial_key
from peftbench.tasks import chat, hub, overlap, read
from peftbench.tasks.general_text import as_task


@dataclass(frozen=True)
class Grid:
    """A suite's trials, resolved against this machine and a results folder."""

    folder: Path
    tasks: tuple[str, ...]
    """Names of the scored tasks, each of which has score columns in the results."""
    jobs: tuple[Job, ...]
    """All trials, in the suite's order."""
    pending: tuple[Job, ...]
    """The trials without a final row, in the order in which they run: seed by seed."""
    workers: int
    notes: tuple[str, ...] = ()
    """What was found before anything runs: in the data, and about targets that decoding cannot give."""

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all trials, in the order in which they run."""
        return tuple(dict.fromkeys(job.trial.seed for job in self.jobs if job.trial.seed is not None))

    def place(self, job: Job) -> int:
        """Return the place of a trial's seed in ``seeds``; 0 without a seed, so that it runs among the first."""
        return 0 if job.trial.seed is None else self.seeds.index(job.trial.seed)


@dataclass(frozen=True)
class Options:
    """How a grid is run, apart from its trials."""

    fresh: bool = False
    """Whether finished trials run again."""
    keep_adapters: bool = False
    budget_bytes: int | None = None
    """Bytes for the training steps of one time; trials predicted to need more than their share are skipped."""
    reserve_bytes: int | None = None
    """The part of a trial's share for non-tensor memory, in bytes; None for what its device is known to need."""
    whole_command: str | None = None
    """The command without its selection of trials; None if nothing is selected."""
    stand_in: bool = False
    """Whether the data only stands in for the suite's own, as in smoke mode, so that nothing is noted about it."""
    predicts: bool = True
    """Whether a cell's first trial predicts its memory peak before it measures it."""
    strict: bool = False
    """Whether it is an error if rows differ in a setting that is not held equal and not an axis of the grid."""
    parameters: int | None = None
    """The number of trainable parameters to which ranks were matched; None if they were not."""
    watch: Watch | None = None
    """What a comparison with another night judges; None if the suite does not say it."""
    ladder: str | None = None
    """What each cell stands beside in the ladder of a report, as in the suite."""
    shares_budget: bool = True
    """Whether trials at the same time share the budget; false if each of them has all of it."""


_ORDINARY = Options()


@dataclass
class Inputs:
    """Base models and data on this machine, each resolved and hashed once."""

    bases: dict[Base, tuple[Path, str]] = field(default_factory=dict)
    data: dict[tuple[str, ...], str] = field(default_factory=dict)
    overlaps: dict[tuple[str, ...], str | None] = field(default_factory=dict)
    texts: Texts = field(default_factory=Texts)

    def of(self, trial: Trial) -> tuple[Path, str, str]:
        """Return the base model's folder, its hash and the hash of the tasks' examples."""
        if trial.base not in self.bases:
            found = find.resolve_base(trial.base)
            self.bases[trial.base] = found, find.base_fingerprint(found)
        names = tuple(repr(task) for task in trial.tasks)
        if names not in self.data:
            self.data[names] = read.fingerprint(trial.tasks, self.examples)
        return *self.bases[trial.base], self.data[names]

    def examples(self, task: Task, split: str) -> list[Example]:
        """Return a split's examples, which are read only once."""
        return self.texts.examples(task, split)

    def overlap(self, trial: Trial) -> str | None:
        """Return the overlap of the trial's scored prompts with its training data, as JSON for the column."""
        trained = () if trial.training is None else tuple(name for name, _ in trial.training.data)
        names = (*map(repr, trial.tasks), repr(trained), *trial.evaluate, trial.evaluation.split)
        if names not in self.overlaps:
            self.overlaps[names] = overlap.of_trial(trial, self.examples)
        return self.overlaps[names]

    def key(self, trial: Trial) -> str:
        """Return the trial's key."""
        _, base_sha256, data_sha256 = self.of(trial)
        text = self.texts.general_text(trial.retention) if trial.retention else None
        return trial_key.key(trial, base_sha256, data_sha256, text.sha256 if text else None)


def prepare(
    trials: Sequence[Trial],
    folder: Path,
    workers: int,
    command: str,
    whole: Sequence[Trial] | None = None,
    options: Options = _ORDINARY,
) -> Grid:
    """Resolve base models and data, compute every trial's key, and find out which trials are done.

    The keys of all trials that were ever requested are recorded in the results folder, and reports show exactly their
    rows. So a command with a selection does not shrink a report, and trials that were never requested do not count as
    missing.

    Args:
        trials: the trials to run.
        folder: the results folder.
        workers: number of trials at the same time.
        command: the command, as shown in reports.
        whole: the grid from which the trials were selected; None if they are the whole grid.
        options: how to run it.

    Raises:
        UserError: if a base model or a data file is missing or unreadable, or the results folder cannot be used.
    """
    described = json.dumps({**environment.describe(), "command": _without_paths(command)}, sort_keys=True)
    inputs = Inputs(texts=Texts(stand_in=options.stand_in))
    jobs, seen = list[Job](), set[str]()
    tasks = tuple(dict.fromkeys(name for trial in trials for name in trial.evaluate))
    notes = find.folder_notes(trial.base for trial in trials) + find.storage_notes(trial.base for trial in trials)
    notes += texts.check(trials, inputs.texts)
    asking, trials = trials, answers.resolved(trials, inputs.examples)
    for trial in trials:
        base_folder, base_sha256, data_sha256 = inputs.of(trial)
        key = inputs.key(trial)
        reading_json, classes_json = texts.columns(trial, inputs.texts)
        alone = trial.devices is None  # what several devices need is not what one needs
        jobs.append(
            Job(
                trial=trial,
                key=key,
                base_folder=str(base_folder),
                base_sha256=base_sha256,
                data_sha256=data_sha256,
                environment_json=described,
                workers=workers,
                scratch=str(folder),
                predicts=options.predicts and trial.training is not None and trial.cell not in seen,
                measures_inference=trial.inference and alone and trial.cell not in seen,
                budget_bytes=_budget(options, workers) if alone else None,
                reserve_bytes=_reserve(trial, options),
                adapter_folder=str(folder / "adapters" / key) if options.keep_adapters else None,
                overlap_json=inputs.overlap(trial),
                reading_json=reading_json,
                classes_json=classes_json,
                log=str(folder / "logs" / f"{key}.log"),
            )
        )
        seen.add(trial.cell)
    notes += answers.notes(asking, trials, inputs.examples, lambda trial: inputs.bases[trial.base][0])
    notes += truncation.notes(trials, inputs.examples, lambda trial: inputs.bases[trial.base][0])
    notes += generation.notes(trials, lambda trial: inputs.bases[trial.base][0]) + optimizers.notes(trials)
    notes += (*store.open_for_run(folder, tasks), *_mended_grid(folder))
    _prepare_logs(folder)
    keys = [job.key for job in jobs]
    grid_of = trials if whole is None else answers.resolved(whole, inputs.examples)
    everything = keys if whole is None else [inputs.key(trial) for trial in grid_of]
    asked = _asked_for(folder, keys, everything)
    of_key = dict(zip(everything, grid_of, strict=True))
    bases = {key: find.base_name(of_key[key].base) for key in asked}
    named = {
        "cells": {key: of_key[key].cell for key in asked},
        "axes": {t.cell: store.CellAxes(t.method, t.precision, t.rank) for t in (of_key[key] for key in asked)},
        "bases": bases if len(set(bases.values())) > 1 else {},
    }
    # a command with a selection is recorded as it is only if no other trial of the grid was requested before
    narrow = len(asked) == len(keys) < len(everything)
    whole_command = _without_paths(command if narrow else options.whole_command or command)
    more = {name: getattr(options, name) for name in ("strict", "parameters", "watch", "ladder")}
    store.record_grid(folder, asked, whole_command, **more, **named)
    done = set() if options.fresh else store.done(folder)
    if options.keep_adapters and done:
        done -= _without_adapter(folder, jobs)
    left = tuple(job for job in jobs if job.key not in done)
    engines.check(job.trial for job in left)
    training_states.sweep(folder, set(keys) if options.fresh else done)
    grid = Grid(folder, tasks, tuple(jobs), left, workers, () if options.stand_in else notes)
    # every cell's first seed runs before any second, so that an interrupted run is a comparison of all cells already
    return replace(grid, pending=tuple(sorted(left, key=grid.place)))


def _without_paths(command: str) -> str:
    """Return a command as rows have it: results are passed on, so they name no folder of this machine."""
    return shlex.join(map(without_paths, shlex.split(command)))


def _budget(options: Options, workers: int) -> int | None:
    shares = workers if options.shares_budget else 1
    return None if options.budget_bytes is None else options.budget_bytes // shares


def _reserve(trial: Trial, options: Options) -> int:
    return cuda_reserve.reserve(trial) if options.reserve_bytes is None else options.reserve_bytes


def _mended_grid(folder: Path) -> tuple[str, ...]:
    """Set the record of the grid aside if it cannot be read; return a note about that."""
    try:
        store.recorded_grid(folder)
    except store.Damaged as damaged:
        return (store.set_grid_aside(folder, damaged),)
    return ()


def _asked_for(folder: Path, selected: Sequence[str], whole: Sequence[str]) -> list[str]:
    """Return those keys of the whole grid that are selected now, were recorded before, or have a row."""
    if len(selected) == len(whole):
        return list(whole)
    recorded = store.recorded_grid(folder)
    known = {*selected, *(recorded.keys if recorded else ())}
    if any((folder / "trials").glob("*.parquet")):
        known |= set(store.read_trials(folder)["key"])
    return [key for key in whole if key in known]


def check(trials: Sequence[Trial], read_before: Texts | None = None) -> tuple[str, ...]:
    """Check that all base models and data splits of the trials exist, without fetching or hashing anything.

    Args:
        trials: the trials.
        read_before: texts that were read already; None if none were.

    Returns:
        Notes: what reading the data found, targets that decoding cannot give, and what only a run can check: hub ids
        that must be fetched.

    Raises:
        UserError: if something is missing or unreadable, as in ``prepare``.
    """
    here = {base: find.cached(base) for base in dict.fromkeys(trial.base for trial in trials)}
    away = tuple(base.source for base, folder in here.items() if folder is None)
    remote = {task.name: task.dataset for trial in trials for task in trial.tasks if hub.is_remote(task)}
    general = [as_task(trial.retention) for trial in trials if trial.retention]
    remote |= {task.name: task.dataset for task in general if hub.is_remote(task)}
    inputs = Inputs(texts=read_before or Texts())
    notes = find.folder_notes(here) + find.storage_notes(here) + texts.check(trials, inputs.texts, remote)
    complete = answers.resolved(trials, inputs.examples, remote)
    base_models.check(complete, remote)
    engines.check(trials)
    notes += answers.notes(trials, complete, inputs.examples, lambda trial: here[trial.base], remote)
    notes += truncation.notes(complete, inputs.examples, lambda trial: here[trial.base], remote)
    notes += generation.notes(trials, lambda trial: here[trial.base]) + optimizers.notes(trials)
    notes = () if inputs.texts.stand_in else notes
    unseen = [(f"base {source!r}", find.hint_of_shape(source)) for source in away]
    unseen += [(f"dataset {name!r}", "") for name in dict.fromkeys(remote.values())]
    ids = (f"{what}: no such folder here, so the run takes it for a hub id{hint}" for what, hint in unseen)
    return (*notes, *ids)


def check_bases(jobs: Sequence[Job]) -> None:
    """Check, in a process that has imported the libraries, that the base models of pending trials can be loaded.

    Raises:
        UserError: if one cannot, as in ``check``.
    """
    trials = [job.trial for job in jobs]
    if base_models.to_check(trials):
        local.ask(base_models.check, trials)


def impossible(trials: Sequence[Trial]) -> dict[str, str]:
    """Return the cells that would end as ``unsupported`` with their reasons, as far as configs show.

    Only base models on this machine are checked, and nothing that requires loading their weights. To those that are not
    built in, methods are attached without weights (``attaching``).
    """
    found: dict[str, str] = {}
    configs: dict[Base, Any] = {}
    tried: chats.Tried = {}
    refused = base_models.unsupported(trials)
    attached = attaching.unsupported([trial for trial in trials if trial.base not in refused])
    for trial in {trial.cell: trial for trial in trials}.values():
        if trial.unsupported is not None:
            found[trial.cell] = trial.unsupported
            continue
        known = refused.get(trial.base) or attached.get(trial.cell)
        if known is not None:
            found[trial.cell] = known
            continue
        if trial.base not in configs:
            configs[trial.base] = find.read_config(trial.base)
        try:
            if configs[trial.base]:
                causality.check_config(configs[trial.base], trial.head is not None)
                context_length.check(trial, configs[trial.base])
                base_facts.check(trial, configs[trial.base])
                chat.check(trial.tasks, find.config_folder(trial.base))
                generation.check(trial, find.config_folder(trial.base))
                chats.check(trial, find.config_folder(trial.base), tried)
        except Unsupported as error:
            found[trial.cell] = str(error)
        except UserError:  # the folder is refused by check
            continue
    return found


def _without_adapter(folder: Path, jobs: Sequence[Job]) -> set[str]:
    """Return the keys of finished trials whose adapter is requested now but was not kept when they ran."""
    trials = store.read_trials(folder)
    ok = set(trials.loc[trials["status"] == Status.OK, "key"])
    return {
        job.key
        for job in jobs
        if job.key in ok and job.trial.training and job.adapter_folder and not Path(job.adapter_folder).is_dir()
    }


def _prepare_logs(folder: Path) -> None:
    """Make the folder of logs, and remove files that killed trials left while saving."""
    try:
        (folder / "logs").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write logs to {folder / 'logs'}: {error.strerror}") from None
    leftovers.sweep_before_run(folder)
