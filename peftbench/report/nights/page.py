"""A comparison of two nights as one HTML file without scripts, which opens offline and fetches nothing."""

from __future__ import annotations

from peftbench.report import page_template
from peftbench.report.nights import words
from peftbench.results.watch.comparison import Comparison
from peftbench.results.watch.findings import VERDICTS
from peftbench.version import __version__


def render(comparison: Comparison) -> str:
    """Return the page; every text in it is escaped."""
    rows = [words.row(found, comparison) for found in words.ordered(comparison.findings)]
    return page_template.template("nights.html.j2").render(
        version=__version__,
        old=comparison.old.name,
        new=comparison.new.name,
        suite=", ".join(comparison.new.contents[0]),
        base=", ".join(comparison.new.contents[1]),
        heading=words.unrelated(comparison) if comparison.unrelated else words.heading(comparison),
        good=comparison.verdict,
        head=words.HEAD[1:],
        right=words.RIGHT,
        changed=[row for row in rows if row[0] in ("regressed", "improved")],
        folded=[
            (verdict, [row for row in rows if row[0] == verdict])
            for verdict in VERDICTS
            if verdict not in ("regressed", "improved")
        ],
        why=[each.sentence(len(comparison.cells)) for each in words.cannot_tell(comparison)],
        together=words.together(comparison),
        moved=[words.moved(each) for each in comparison.moved],
        remarks=words.remarks(comparison),
    )
