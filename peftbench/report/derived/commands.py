"""The commands that a report shows: each can be pasted where the report was made.

A reader most likely is in the folder in which ``peftbench report`` or ``answer`` ran: suites and results have been
given from there. So paths are written relative to it where they are inside of it. Other paths stay absolute: a command
that works is worth more than one without a path of this machine, and the page is the user's own. Whoever publishes
pages makes them in the folder above results and suites, as the committed documents are, and they have no such path.
"""

from __future__ import annotations

import itertools
import os
import shlex
from pathlib import Path

from peftbench.report.collect import Results, read_json
from peftbench.results import cache

_SELECTING = ("--only", "--seeds")
"""Options of ``run`` that select trials, each with a value."""


def whole(results: Results) -> str:
    """Return the command that makes the results: as recorded, else by the suite's name; with their folder.

    It is empty for results that another benchmark made.
    """
    if results.imported:
        return ""
    return _with_folder(_words(results), results) or _recorded(results)


def again(results: Results) -> str:
    """Return the command that made the results, without what selects trials, to which a selection can be added.

    It is empty for results that another benchmark made.
    """
    if results.imported:
        return ""
    return _with_folder(_without(_words(results), (*_SELECTING, "--fresh")), results) or _recorded(results)


def more_seeds(results: Results, seeds: int) -> str | None:
    """Return the command that runs a number of seeds; None if the command of the results was not recorded.

    Seeds that were listed, as ``seeds: [10, 11, 12]``, are kept with others added, so that their trials are used.
    """
    words = _words(results) if results.grid else []
    kept = _without(words, ("--seeds", "--only seed"))
    known = sorted({int(seed) for seed in results.trials["seed"].dropna()})
    more = [seed for seed in range(seeds + len(known)) if seed not in known]
    every = [*known, *more[: max(0, seeds - len(known))]]
    counted = all(seed < seeds for seed in known)
    given = str(seeds) if counted else ",".join(map(str, every)) + "," * (len(every) == 1)
    return _with_folder([*kept, "--seeds", given], results) if words else None


def ask(results: Results) -> str:
    """Return the command that prints the answer, to which options can be added."""
    return shlex.join(["peftbench", "answer", *([place(results.folder)] if results.folder else ["RESULTS"])])


def _recorded(results: Results) -> str:
    if results.grid:
        return results.grid.command
    for text in results.trials["environment_json"].dropna():
        recorded = read_json(text).get("command")
        if recorded:
            return shlex.join(map(str, recorded)) if isinstance(recorded, list) else str(recorded)
    return f"peftbench run {results.common('suite') or 'SUITE'}"


def _words(results: Results) -> list[str]:
    """Return the words of the recorded command, its suite where it lies seen from here; none if it cannot be read."""
    try:
        words = shlex.split(_recorded(results))
    except ValueError:
        return []
    if words[:2] == ["peftbench", "run"] and len(words) > 2 and results.folder:
        words[2] = _suite(words[2], results.folder)
    return words


def _suite(given: str, folder: Path) -> str:
    """Return the path of a suite that was given in another folder, or without its folder.

    It is looked for in the folders above the results, then in what this machine remembers of the run.
    """
    if Path(given).is_absolute() or Path(given).exists() or not given.endswith((".yaml", ".yml")):
        return given
    above = (parent / given for parent in folder.absolute().parents)
    found = next((path for path in above if path.is_file()), None)
    if found is None and (known := cache.suite_of(folder)) and known.name == Path(given).name:
        found = known
    return given if found is None else place(found)


def _with_folder(words: list[str], results: Results) -> str:
    """Return words as a command, with the folder of the results if it is not the one that ``run`` would choose."""
    if words and results.folder and not {"-o", "--results"} & set(words):
        default = [Path("results") / str(suite) for suite in results.distinct("suite")]
        if [path.absolute() for path in default] != [results.folder.absolute()]:
            words = [*words, "-o", place(results.folder)]
    return shlex.join(words)


def _without(words: list[str], options: tuple[str, ...]) -> list[str]:
    """Return words without some options and their values; ``--only seed`` is an ``--only`` that selects seeds."""
    kept: list[str] = []
    skip = False
    for word, after in itertools.zip_longest(words, words[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        value = value if equals else after
        named = f"{name} seed" if name == "--only" and value.startswith("seed=") else name
        drop = not skip and (name in options or named in options)
        if not (skip or drop):
            kept.append(word)
        skip = drop and not equals and name != "--fresh"
    return kept


def place(path: Path) -> str:
    """Return a path relative to the working directory if it is inside of it, or was given so."""
    here = Path.cwd()
    text = str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else str(path)
    return f".{os.sep}{text}" if text.startswith("-") else text
