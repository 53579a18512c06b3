"""The commands as Python functions: load and run a suite, read, compare, watch and report its results.

``peftbench`` forwards to these functions, so that ``import peftbench`` stays fast. What is not in its ``__all__`` is
internal. Example::

    import peftbench

    run = peftbench.run_suite("quickstart", only={"method": ["base", "lora"]}, seeds=1)
    trials = peftbench.read_results(run.folder).trials
    trials[["cell", "status", "score_compute", "peak_train_bytes"]]
    peftbench.write_report(run.folder, "quickstart.html")
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.commands import python_arguments as arguments
from peftbench.commands.python_arguments import Only, Overrides
from peftbench.commands.run import RunOptions, RunSummary
from peftbench.errors import UserError, unknown

if TYPE_CHECKING:
    from peftbench.results.store import Tables
    from peftbench.results.watch.comparison import Comparison
    from peftbench.suite import Suite


def load_suite(
    name: str | os.PathLike[str],
    *,
    overrides: Overrides = (),
    only: Only = (),
    seeds: int | Sequence[int] | None = None,
    smoke: bool = False,
) -> Suite:
    """Return a validated suite without running it.

    Args:
        name: a YAML file, or the name of a suite that comes with peftbench (``peftbench list suites``).
        overrides: settings in place of the suite's: ``{"train.steps": 20, "base": "./my-model"}``.
        only: the trials to select by method, precision, rank or seed: ``{"method": ["lora", "full"]}``. Values of
            one field are alternatives; different fields must all match.
        seeds: how many seeds (3 for 0, 1, 2), or which, in place of the suite's.
        smoke: whether to run every cell for two steps on the built-in base model and data instead of the suite's own.

    Raises:
        UserError: if the suite or an argument is wrong. Every problem is a line that says where, what was given and
            what is allowed.
    """
    from peftbench import suite

    chosen = None if seeds is None else arguments.seeds(seeds)
    return suite.load(
        arguments.path("name", name),
        overrides=arguments.overrides(overrides),
        only=arguments.only(only),
        seeds=chosen,
        smoke=smoke,
    )


def run_suite(
    suite: str | os.PathLike[str] | Suite,
    results: str | os.PathLike[str] | None = None,
    *,
    overrides: Overrides = (),
    only: Only = (),
    seeds: int | Sequence[int] | None = None,
    smoke: bool = False,
    fresh: bool = False,
    keep_adapters: bool = False,
    budget: int | str | None = None,
    reserve: int | str | None = None,
    executor: str = "local",
    address: str | None = None,
    verbose: bool = False,
) -> RunSummary:
    """Run a suite's trials, each in a process of its own, and store their results.

    Finished trials are not run again, so the same call continues an interrupted run. A trial that fails does not raise:
    it is a row of the results with its status and message.

    Args:
        suite: a suite from ``load_suite``, or a name or file as for ``load_suite``.
        results: the results folder, or a URL like ``s3://bucket/folder``; by default ``results/NAME`` in the current
            folder. ``{date}`` in it is replaced by today's date in UTC.
        overrides: as for ``load_suite``, like ``only``, ``seeds`` and ``smoke``; not with a loaded suite, which has its
            own.
        only: the trials to select.
        seeds: how many seeds, or which.
        smoke: whether to run in smoke mode.
        fresh: whether to run finished trials again and replace their rows.
        keep_adapters: whether to save each tuned adapter, in ``adapters/`` of the results folder.
        budget: memory in bytes, a text like ``"16GiB"``, or ``"device"``: trials that are predicted to need more are
            skipped.
        reserve: the part of the budget for non-tensor memory, in bytes or as text; by default an estimate.
        executor: where trials run: ``"local"``, or ``"ray"`` for a cluster of Ray or all GPUs of this machine.
        address: of the cluster of Ray; by default this machine alone.
        verbose: whether to print progress to standard error, as ``peftbench run`` does.

    Returns:
        The results folder, how many trials ended with which status, and whether any failed.

    Raises:
        UserError: if the suite or an argument is wrong, a base model or data is missing, or the results folder is not
            usable.
    """
    from peftbench.commands import dated_folder, run
    from peftbench.suite import Suite

    if not isinstance(suite, Suite):
        suite = load_suite(suite, overrides=overrides, only=only, seeds=seeds, smoke=smoke)
    elif overrides or only or seeds is not None or smoke:
        raise UserError("run_suite got a loaded suite; pass overrides, only, seeds and smoke to load_suite instead")
    how = RunOptions(
        results=dated_folder.results_folder(None if results is None else arguments.path("results", results)),
        fresh=fresh,
        keep_adapters=keep_adapters,
        budget=arguments.size(budget),
        reserve=arguments.size(reserve),
        executor=executor,
        address=address,
    )
    return run.run(suite, how, sys.stderr if verbose else io.StringIO())


def read_results(folder: str | os.PathLike[str], *, all_rows: bool = False) -> Tables:
    """Return the rows of a results folder as DataFrames.

    Args:
        folder: a results folder, or its URL.
        all_rows: whether to return every stored row. By default the rows of the suite, settings and selection that the
            folder's last runs were about, which are those that a report shows.

    Returns:
        A record of three DataFrames: ``trials`` (one row per trial), ``steps`` (one per optimizer step) and
        ``examples`` (one per scored example). Their column ``key`` names the trial.

    Raises:
        UserError: if the folder does not exist or holds no results, or a file in it cannot be read.
    """
    from peftbench.results import store
    from peftbench.results.folder import place

    here = place(arguments.path("folder", folder))
    tables = store.read(here)
    grid = None if all_rows else store.recorded_grid(here)
    if grid is None:
        return tables
    frames = (tables.trials, tables.steps, tables.examples)
    return replace(
        tables,
        **{
            name: frame[frame["key"].isin(grid.keys)].reset_index(drop=True)
            for name, frame in zip(("trials", "steps", "examples"), frames, strict=True)
        },
    )


def answer(
    folder: str | os.PathLike[str],
    *,
    within: float = 2.0,
    budget: int | str | None = None,
    time: float | str | None = None,
    task: str | None = None,
) -> dict[str, Any]:
    """Return which cell of a results folder to take: the cheapest one that is known to lie near the best.

    Args:
        folder: a results folder, or its URL.
        within: the loss against the best cell that is tolerated, in points of the score.
        budget: training memory in bytes, a text like ``"16GiB"``, or ``"device"``; None for no limit.
        time: training time in seconds, or a text like ``"2h"``; None for no limit.
        task: score of one task; by default the mean over tasks.

    Returns:
        The record that ``peftbench answer --json`` prints. ``status`` is ``answer``, ``cannot_tell``, ``over_budget``
        or ``refused``, ``cell_by_memory`` and ``cell_by_time`` are the answer, ``lines`` says it in words, and
        ``warnings`` names the tasks on which every tuned cell scores 0. Every number has its unit in its name; what is
        not known is None.

    Raises:
        UserError: if an argument is wrong, the folder does not exist or holds no results, or its rows cannot stand in
            one table.
    """
    from peftbench.commands.answer import Asked, question
    from peftbench.report import answer as report
    from peftbench.report.collect import collect
    from peftbench.results.folder import place

    here = place(arguments.path("folder", folder))
    wanted = question(here, Asked(within, arguments.size(budget), time, task))
    return report.record(collect(here), wanted)


def compare(
    old: str | os.PathLike[str], new: str | os.PathLike[str], *, watch: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what regressed, improved, is unchanged or cannot be told between two results folders.

    Args:
        old: the results folder to compare with.
        new: the results folder to judge.
        watch: keys of a suite's ``watch:`` in place of those that the suites of the folders give:
            ``{"judge": ["score", "memory"], "speed_percent": 10}``.

    Returns:
        The record that ``peftbench compare --format json`` prints. ``verdict`` is ``regressed``, ``no regression`` or
        ``no verdict``; ``findings`` has one entry for each cell and quantity, with its verdict, both values, the
        change with its interval, and why it cannot be told; ``moved`` is what else is not the same, the likeliest to
        matter first. What is not known is None.

    Raises:
        UserError: if a key of ``watch`` is wrong, a folder does not exist or holds no results, or a file in it cannot
            be read.
    """
    from peftbench.report.nights.record import record

    return record(compare_results(old, new, watch=watch))


def compare_results(
    old: str | os.PathLike[str], new: str | os.PathLike[str], *, watch: Mapping[str, Any] | None = None
) -> Comparison:
    """Return what changed between two results folders, as the record that ``compare`` is made from.

    Args:
        old: the results folder to compare with.
        new: the results folder to judge.
        watch: as for ``compare``.

    Returns:
        The comparison; ``verdict`` is True if something was judged and nothing regressed, False if something did, and
        None if nothing could be judged.

    Raises:
        UserError: as ``compare`` does.
    """
    from peftbench.commands import compare
    from peftbench.results.folder import place

    before, after = place(arguments.path("old", old)), place(arguments.path("new", new))
    return compare.compared(before, after, arguments.watch(watch))


def history(
    nights: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    watch: Mapping[str, Any] | None = None,
    last: int | None = None,
) -> dict[str, Any]:
    """Return what changed over many nights, and when.

    Args:
        nights: a folder of dated results folders, or a list of results folders or of such folders; URLs too.
        watch: keys of a suite's ``watch:`` in place of those that the newest night's suite gives:
            ``{"judge": ["speed"], "speed_percent": 10}``.
        last: number of newest nights in which a change must have begun to count as a regression; None for all.

    Returns:
        The record that ``peftbench history --format json`` prints. ``verdict`` is ``regressed``, ``no regression`` or
        None; ``changes`` has one entry for each change of a cell's quantity, or of one that cells have in common, with
        its night, the levels before and after, the rule that found it and what else moved that night; ``series`` has
        every value of every night. What is not known is None.

    Raises:
        UserError: if a key of ``watch`` is wrong, ``last`` is no number of nights, or a path is neither a results
            folder nor a folder of them.
    """
    from peftbench.commands import history
    from peftbench.report.history.text import record

    if last is not None and (isinstance(last, bool) or not isinstance(last, int) or last < 1):
        raise UserError(f"last: given {last!r}; allowed: a number of nights from 1 on")
    keys = arguments.watch(watch)
    given = list(nights) if isinstance(nights, Iterable) and not isinstance(nights, str | os.PathLike) else [nights]
    folders = [place for each in given for place in history.places(arguments.path("nights", each))]
    if not folders:
        raise UserError("history: no night is given")
    return record(history.found(folders, keys, last))


def write_report(
    folder: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, *, format: str = "html"
) -> Path:
    """Write the report of a results folder and return the file's path.

    Args:
        folder: a results folder, or its URL.
        output: the file to write; by default ``reports/NAME.html`` in the current folder.
        format: ``html`` for the page; ``text``, ``brief``, ``md``, ``csv`` or ``tex`` for the table; ``ranks`` for
            tables of rank by precision in Markdown; ``deployed`` for the score after deployment as csv. All but the
            page need ``output``.

    Raises:
        UserError: if the folder holds no results, its rows cannot stand in one table, the format is unknown, or the
            file cannot be written.
    """
    from peftbench import report
    from peftbench.commands.results import default_page
    from peftbench.results.folder import place

    if format not in ("html", *report.FORMATS):
        raise UserError(f"write_report: {unknown('format', format, ('html', *report.FORMATS))}")
    if output is None and format != "html":
        raise UserError(f"write_report: format={format!r} needs output, the file to write")
    here = place(arguments.path("folder", folder))
    target = default_page(here) if output is None else Path(arguments.path("output", output))
    return report.publish(here, target, format)[0]
