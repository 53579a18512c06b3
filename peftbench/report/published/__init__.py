"""Tables of the literature beside measured results: a registry of published tables, and layouts to show them in.

``tables/`` has the published tables with their sources, protocols and traps (made by ``python -m tools.published``),
``layouts/`` how a table is laid out and which tasks count for its columns, ``names.yaml`` what base models and methods
are called. Adding one of them is adding a file or an entry. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FORMATS = ("md", "tex", "csv", "html")
"""What ``text`` can return."""


def text(results_folders: Sequence[Path], table: str, format: str = "md", with_published: bool = False) -> str:
    """Return results folders laid out as a table of the literature.

    Args:
        results_folders: Folders that ``peftbench run`` or ``peftbench import`` wrote.
        table: Name of a layout, or a YAML file with one.
        format: One of ``FORMATS``.
        with_published: Whether the published rows stand under the measured ones.

    Raises:
        UserError: If there is no such layout or format, or no folder has anything that it shows.
    """
    from peftbench.errors import UserError, unknown
    from peftbench.report import folders
    from peftbench.report.published import arrange, load, writers

    if format not in FORMATS:
        raise UserError(f"--format: {unknown('format', format, FORMATS)} with --table")
    layout = load.layout(table)
    return writers.write(arrange.laid_out(folders.read(results_folders), layout, with_published), format)
