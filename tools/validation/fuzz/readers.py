"""What reads bytes: each reader returns if they are right and raises UserError if they are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from tools.validation.fuzz import imports
from tools.validation.fuzz.suites import SUITES

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".parquet", ".csv.gz", ".txt.xz")
_ROWS = [{"thing": "a, b", "colour": "red"}, {"thing": 'say "x"', "colour": "green"}, {"thing": "é", "colour": "red"}]


def suite_text(place: Path, content: bytes) -> None:
    """Load a suite and expand its grid."""
    from peftbench import suite

    (place / "x.yaml").write_bytes(content)
    suite.expand(suite.load(place / "x.yaml", environ={}), "cpu")


def data_file(place: Path, content: bytes) -> None:
    """Read a data file; the first two bytes say its kind and how it is read."""
    from peftbench.records import Task
    from peftbench.tasks import files

    how, rest = (*content[:2], 0, 0)[:2], content[2:]
    path = place / f"d{SUFFIXES[how[0] % len(SUFFIXES)]}"
    path.write_bytes(rest)
    kind = ("generation", "language_modelling")[how[1] & 1]
    encoding = (None, None, "cp1252", "utf-16")[how[1] >> 1 & 3]
    delimiter, quoting = (None, ";")[how[1] >> 3 & 1], (None, None, "none", "minimal")[how[1] >> 4 & 3]
    files.read(Task("mine", kind, encoding=encoding, delimiter=delimiter, quoting=quoting), path)


def results_file(place: Path, content: bytes) -> None:
    """Report a results folder whose only file of trials has these bytes."""
    from peftbench import report
    from peftbench.report.collect import collect

    path = place / "r" / "trials" / "part-00000000-0000-4000-8000-000000000000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    report._text(collect(place / "r"), "text")


def imported_file(place: Path, content: bytes) -> None:
    """Read a result of another benchmark; the first byte says of which."""
    from peftbench.results.imported import hf_method_comparison, lm_eval

    lm = bool(content[:1] and content[0] & 1)
    path = place / ("results_2026-01-01T00-00-00.000000.json" if lm else "lora--x.json")
    path.write_bytes(content[1:])
    (lm_eval if lm else hf_method_comparison).read([path])


def template(place: Path, content: bytes) -> None:
    """Render a template over a record."""
    from peftbench.errors import UserError
    from peftbench.records import Task
    from peftbench.tasks.rendering import Broken, Templates

    text = content.decode("utf-8", "replace")
    row = {"thing": "red wine", "colour": None, "label": 3, "list": ["a", {"b": [1, None]}], "raw": b"\xff", "x": 0.5}
    try:
        Templates(Task("mine", "generation", prompt=text, target="{{ thing }}")).render(row)
    except Broken as error:
        raise UserError(str(error)) from None


READERS: Mapping[str, Callable[[Path, bytes], None]] = {
    "suite text": suite_text,
    "data file": data_file,
    "results file": results_file,
    "imported file": imported_file,
    "template": template,
}
"""Name of a target, and its reader."""


@cache
def examples(target: str) -> tuple[bytes, ...]:
    """Return valid inputs of a target, from which others are made."""
    made = {"suite text": _suites, "data file": _data, "results file": _results, "imported file": _imported}
    return tuple(made[target]()) if target in made else _TEMPLATES


_TEMPLATES = (
    b"{{ thing }} is {{ label + 1 }}",
    b"{% for x in list %}{{ loop.index }} {{ x | tojson }}{% endfor %}",
    b"{% set ns = namespace(a=[1]) %}{% if thing is string %}{{ ns.a | length }}{% endif %}{{ '%5d' % label }}",
    b"{% macro f(a) %}{{ a | upper | replace('R', 'x') }}{% endmacro %}{{ f(thing) }}{{ '{:>9}'.format(x) }}",
    b"{{ thing.split(' ')[0] ~ (list | map('string') | join(',')) }}{% filter title %}{{ thing }}{% endfilter %}",
)


def _suites() -> list[bytes]:
    shipped = sorted((imports.ROOT / "suites").glob("*.yaml"))
    return [text.encode() for text in SUITES] + [path.read_bytes() for path in shipped]


def _data() -> list[bytes]:
    import gzip
    import io
    import lzma

    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table({name: [row[name] for row in _ROWS] for name in _ROWS[0]}), out)
    csv = b'thing,colour\n"a, b",red\n"say ""x""",green\n'
    texts = {
        ".csv": csv,
        ".tsv": csv.replace(b",", b"\t"),
        ".json": json.dumps(_ROWS).encode(),
        ".jsonl": "\n".join(map(json.dumps, _ROWS)).encode(),
        ".txt": "one\n\ntwo é\n".encode(),
        ".parquet": out.getvalue(),
        ".csv.gz": gzip.compress(csv),
        ".txt.xz": lzma.compress(b"one\ntwo\n"),
    }
    return [bytes((SUFFIXES.index(suffix), how)) + content for suffix, content in texts.items() for how in (0, 25)]


def _results() -> list[bytes]:
    import tempfile

    from tests.support import odd_results

    found = []
    with tempfile.TemporaryDirectory() as name:
        for seed in range(3):
            made = odd_results.make(Path(name) / str(seed), seed).folder
            found += [path.read_bytes() for path in sorted(made.glob("trials/*.parquet"))[:2]]
    return found


def _imported() -> list[bytes]:
    harness = sorted(imports.harness().rglob("results_*.json"))
    return [b"\0" + json.dumps(imports.HF).encode(), *(b"\1" + path.read_bytes() for path in harness[:2])]
