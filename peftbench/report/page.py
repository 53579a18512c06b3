"""The page: one HTML file that opens offline and fetches nothing; of very many trials, details in files beside it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from peftbench.errors import UserError
from peftbench.report import page_template
from peftbench.report.collect import Results
from peftbench.report.payload.assemble import payload
from peftbench.results.learning_rate_search import FOLDER
from peftbench.results.store.files import GRID
from peftbench.results.store.schema import KINDS
from peftbench.version import __version__

PART = "peftbenchPart("
"""How each file beside a page begins."""
LARGEST = 5_000_000
"""Bytes of a page; what would exceed them is in files beside it, which are read when something is opened."""
_NAMES = ("data", "answer", "tips", "plot", "table", "trial", "sections", "anatomy", "folders", "every", "start")
SCRIPTS = tuple(f"page_{name}.js" for name in _NAMES)
"""The page's own scripts, in their order."""
SECTIONS = (
    ("ladder", "Memory ladder: what each setting saves"),
    ("heat", "Rank by precision"),
    ("ledger", "Memory at the training peak"),
    ("curves", "Training loss"),
    ("phases", "Time by phase"),
    ("samples", "Samples side by side"),
    ("deployed", "Score after deployment"),
    ("search", "Learning-rate search"),
    ("notes", "Notes on the numbers"),
    ("settings", "Settings"),
    ("environment", "Environment"),
    ("anatomy", "Anatomy of the base"),
)
"""What is folded on the page: name in the scripts, title."""


def refuse_inside(results_folder: Path, output: Path) -> None:
    """Refuse to write among the results folder's own files.

    Raises:
        UserError: If the output is there.
    """
    folder, target = results_folder.resolve(), output.resolve()
    own = [folder / name for name in (*KINDS, GRID, FOLDER)]
    if any(target == place or place in target.parents for place in own):
        raise UserError(f"cannot write the report {output}: only results are stored there; choose another path")


def save(text: str, output: Path) -> None:
    """Write a text as a file that appears whole or not at all; a device, like ``/dev/null``, is written to.

    Raises:
        UserError: If it cannot be written.
    """
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.exists() and not output.is_file() and not output.is_dir():
            output.write_text(text, encoding="utf-8")  # replacing it would put a file in the place of the device
            return
        part.write_text(text, encoding="utf-8")
        part.replace(output)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise UserError(f"cannot write the report {output}: {error.strerror or error}") from error


@dataclass(frozen=True)
class Page:
    """A page, and the files that must stand beside it."""

    text: str
    files: dict[str, str]
    """By name, in the folder that the page names; none unless the results are very large."""


def make(results: Results, folder: str) -> Page:
    """Return the page: the same text for the same results.

    Args:
        results: what is reported.
        folder: name of the folder beside the page for what would make it too large.
    """
    made = payload(results)
    texts = {"core": made.core, **made.parts}
    if sum(len(text.encode()) for text in texts.values()) + own_size() <= LARGEST:
        return Page(render((results,), (made.core,), made.parts, ""), {})
    files = {f"{name}.js": f"{PART}{json.dumps(name)},{text});\n" for name, text in made.parts.items()}
    return Page(render((results,), (made.core,), {}, folder), files)


def html(results: Results) -> str:
    """Return the page as text, whatever its size."""
    made = payload(results)
    return render((results,), (made.core,), made.parts, "")


def write(output: Path, make: Callable[[str], Page]) -> None:
    """Write a page, and beside it the folder of its files if it has any.

    Args:
        output: the file of the page.
        make: makes the page, from the name of that folder.

    Raises:
        UserError: If they cannot be written.
    """
    folder = output.with_name(f"{output.stem}.files")
    made = make(folder.name)
    for name, text in made.files.items():
        save(text, folder / name)
    save(made.text, output)
    _remove_older(folder, keep=made.files)


def _remove_older(folder: Path, keep: Container[str]) -> None:
    """Remove the files of an earlier page, and the folder if nothing is left in it; nobody else's files."""
    with contextlib.suppress(OSError):
        for path in folder.glob("*.js"):
            if path.name not in keep and path.read_bytes().startswith(PART.encode()):
                path.unlink()
        folder.rmdir()


def render(each: Sequence[Results], cores: Sequence[str], parts: dict[str, str], files: str, folders: str = "") -> str:
    """Return a page as text.

    Args:
        each: the results, one for each folder.
        cores: what the page's scripts read of each.
        parts: what they read when it is needed, by name.
        files: name of the folder beside the page that has the parts; empty if the page has them.
        folders: what they read about several folders; empty for one.
    """
    return page_template.template("page.html.j2").render(
        version=__version__,
        suite=", ".join(dict.fromkeys(str(name) for one in each for name in one.distinct("suite"))),
        base=", ".join(dict.fromkeys(str(name) for one in each for name in one.distinct("base"))),
        cores=[Markup(core) for core in cores],  # packed: nothing in it can be read as HTML
        folders=Markup(folders),
        parts={name: Markup(text) for name, text in parts.items()},
        files=files,
        sections=SECTIONS,
        scripts=SCRIPTS,
        libraries=libraries(),
    )


@cache
def libraries() -> tuple[dict[str, Markup], ...]:
    """Return the vendored libraries: script and licence of each, in the order of the record."""
    folder = resources.files("peftbench.report") / "vendor"
    record = json.loads((folder / "vendored.json").read_text(encoding="utf-8"))
    return tuple(
        {
            part: Markup((folder / f"{each['name']}.{end}").read_text(encoding="utf-8"))
            for part, end in (("script", "js"), ("licence", "LICENSE"))
        }
        for each in record
    )


@cache
def own_size() -> int:
    """Return the bytes of a page without its data."""
    templates = resources.files("peftbench.report") / "templates"
    own = [each.read_text(encoding="utf-8") for each in templates.iterdir() if each.is_file()]
    return sum(len(text.encode()) for text in [*own, *(text for each in libraries() for text in each.values())])
