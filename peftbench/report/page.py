"""The page: one self-contained HTML file that opens offline and fetches nothing."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from peftbench.errors import UserError
from peftbench.report.collect import Results
from peftbench.report.figures.svg import css_colors
from peftbench.report.guarded import guarded
from peftbench.report.notes import overview
from peftbench.report.sections import SECTIONS, MadeSection, Section
from peftbench.results.learning_rate_search import FOLDER
from peftbench.results.store.files import GRID
from peftbench.results.store.schema import KINDS
from peftbench.version import __version__


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


def html(results: Results) -> str:
    """Return the page as text: the same text for the same results. A section that cannot be made is a note."""
    environment = Environment(
        loader=PackageLoader("peftbench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["breakable"] = breakable
    made = [found for section in SECTIONS if (found := _made(section, results, environment))]
    used = {f"#{found}" for section in made for found in re.findall(r"var\(--c([0-9a-f]{6})\)", section.body)}
    return environment.get_template("page.html.j2").render(
        version=__version__,
        suite=", ".join(map(str, results.distinct("suite"))),
        base=", ".join(map(str, results.distinct("base"))),
        overview=guarded("the overview", lambda: overview.overview(results), str),
        command=guarded("the command", lambda: overview.command(results), str),
        sections=made,
        colors=css_colors(used),
    )


def _made(section: Section, results: Results, environment: Environment) -> MadeSection | None:
    """Return a section as HTML; None if it is optional and there is nothing to show."""

    def body() -> Markup | None:
        parts = {name: make(results) for name, make in section.parts.items()}
        if section.optional and not next(iter(parts.values())):
            return None
        return Markup(environment.get_template(f"sections/{section.id}.html.j2").render(**parts))

    found = guarded(section.heading, body, Markup('<p class="note">{}</p>').format)
    return None if found is None else MadeSection(section.id, section.link, section.heading, found)


def breakable(text: str) -> Markup:
    """Escape a dotted or underscored name and let it break over lines after each part."""
    return Markup("<wbr>").join(re.findall(r"[^._]*[._]?", text))
