"""Damaged, foreign and newer results folders."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.validation.fuzz.suites import ODD

_TEXTS = (
    *(
        "",
        " ",
        "../../etc/x",
        "/etc/passwd",
        "a/b",
        "<script>alert(1)</script>",
        "=1+1",
        "\\input{x}",
        "\x00",
        "x" * 99_999,
    ),
    *("null", "[]", "{", '{"a": null}', "NaN", "[" * 9000, '{"a":' * 9000, '{"options": 3}', '{"train": []}', "1e999"),
    *(
        '{"judge": 3}',
        '{"judge": {"metric": 3, "value": "x"}}',
        '{"seconds": {"tuned": 3}}',
        '{"texts": {}}',
        "2026-13-45",
    ),
    *("é\u202e\U0001f600", "lora", "ok", "error", "2026-01-01", "2026-01-01T00:00:00+00:00", "True", "0"),
)
"""Texts that a column, mostly of text or JSON, may hold."""
_VALUES: tuple[Callable[[], Any], ...] = (
    *(lambda: 0, lambda: -1, lambda: 2**62, lambda: 0.5, lambda: float("nan"), lambda: float("inf"), lambda: True),
    *(lambda: [1, 2], lambda: [], lambda: {"a": 1}, lambda: b"\xff", lambda: "text", lambda: [[None]], lambda: None),
    *(lambda: datetime.date(2026, 1, 1), lambda: datetime.datetime(2026, 1, 1), lambda: datetime.timedelta(1)),
    *(lambda: decimal.Decimal("1.5"), lambda: "1" * 400, lambda: 1e308),
)
"""Values of which a whole column of another type is made."""


def results_input(place: Path, draw: random.Random) -> list[str]:
    """Write a damaged results folder and return the command that reports or compares it."""
    from tests.support import odd_results

    good = place.parent / f"good{draw.randrange(8)}"
    if not good.exists():
        odd_results.make(good, int(good.name[4:]))
    folder = place / "r"
    shutil.copytree(good, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(draw.choice((1, 1, 2))):
        if draw.random() < 0.6:
            _retype(draw.choice([path for path in files if path.suffix == ".parquet"]), draw)
        else:
            _spoil(draw.choice(files), folder, draw)
    return _command(str(good), draw)


def _command(good: str, draw: random.Random) -> list[str]:
    """Return a command that reads the folder ``r``, alone or beside a good one."""
    pair = draw.sample(["r", good], 2)
    return draw.choice(
        (
            ["report", "r", "--format", draw.choice(("text", "brief", "md", "csv", "tex", "ranks", "deployed"))],
            ["report", "r", "-o", "page.html"],
            ["report", *pair, "--format", draw.choice(("text", "md", "csv", "tex"))],
            ["report", *pair, "-o", "page.html"],
            ["compare", *pair, "--format", draw.choice(("text", "md", "json", "html"))],
            ["compare", *pair, "--format", "text"],
            ["history", *pair, "--format", draw.choice(("text", "md", "json", "html"))],
            ["answer", "r", *draw.choice(([], ["--json"], ["--budget", "1GiB"], ["--within", "50"]))],
            ["export", "r", "--to", "csv", "-o", "out"],
        )
    )


def _retype(path: Path, draw: random.Random) -> None:
    """Write a parquet file again with columns of other types, nulls, odd texts, or columns missing, new or doubled."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError):  # damaged already
        return
    for _ in range(draw.choice((1, 1, 1, 3, 20))):
        with contextlib.suppress(pa.ArrowException, OverflowError, ValueError, TypeError):
            table = _changed(table, draw)
    with contextlib.suppress(pa.ArrowException):
        pq.write_table(table, path)


def _changed(table: Any, draw: random.Random) -> Any:
    """Return a table with one column or row changed."""
    import pyarrow as pa

    rows, names = table.num_rows, table.column_names
    name = draw.choice(names or ["x"])
    at = names.index(name) if names else 0
    kind = draw.random()
    if kind < 0.08:
        return table.slice(0, draw.choice((0, 1)))
    if kind < 0.14:
        return pa.concat_tables([table, table])
    if kind < 0.2:
        return table.append_column(
            draw.choice((name, "newer", "", "score_x", "chance_x", "é" * 300)), _column(rows, draw)
        )
    if kind < 0.3:
        return table.remove_column(at)
    if kind < 0.34:
        return table.rename_columns([draw.choice((each, "renamed")) if each == name else each for each in names])
    if kind < 0.5:
        kept = [None if draw.random() < draw.choice((0.1, 1.0)) else value for value in table.column(at).to_pylist()]
        return table.set_column(
            at, pa.field(name, table.schema.field(at).type), pa.array(kept, table.schema.field(at).type)
        )
    if kind < 0.75:
        texts = [draw.choice(_TEXTS) if draw.random() < 0.6 else value for value in table.column(at).to_pylist()]
        return table.set_column(at, name, pa.array(texts, pa.string()))
    return table.set_column(at, name, _column(rows, draw))


def _column(rows: int, draw: random.Random) -> Any:
    """Return a column of one of many types."""
    import pyarrow as pa

    made = pa.array([draw.choice(_VALUES)()] * rows)
    if draw.random() < 0.2:
        return made.dictionary_encode()
    if draw.random() < 0.1:
        return pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"x" * 16] * rows, pa.binary(16)))
    return made


def _spoil(path: Path, folder: Path, draw: random.Random) -> None:
    """Damage one file of a results folder, or put one there that does not belong."""
    content = path.read_bytes() if path.is_file() else b""
    at = draw.randrange(len(content) + 1)
    kinds: list[Callable[[], Any]] = [
        lambda: path.write_bytes(content[:at]),
        lambda: path.write_bytes(content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]),
        lambda: path.write_bytes(b""),
        lambda: path.unlink(missing_ok=True),
        lambda: (folder / draw.choice(("trials", "steps", "examples")) / "x.txt").write_text("x"),
        lambda: (folder / "trials" / "x.parquet").mkdir(exist_ok=True),
        lambda: (folder / "trials" / "loop.parquet").symlink_to("loop.parquet"),
        lambda: (folder / "grid.json").write_text(json.dumps(draw.choice([v for v in ODD if v != 10**400]))),
        lambda: (folder / "grid.json").write_text(
            json.dumps({"keys": draw.choice(ODD[:40]), "command": None}, default=str)
        ),
        lambda: (folder / "grid.json").write_text("[" * 100_000),
        lambda: shutil.rmtree(folder / draw.choice(("trials", "steps", "examples")), ignore_errors=True),
        lambda: _foreign(folder / "trials" / "foreign.parquet", draw),
    ]
    with contextlib.suppress(FileExistsError, FileNotFoundError, IsADirectoryError, ValueError):
        draw.choice(kinds)()


def _foreign(path: Path, draw: random.Random) -> None:
    """Write a parquet file that is almost one of peftbench."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    version = draw.choice((b"", b"x", b"\xff", "²".encode(), b"-1", b"1.0", b"9" * 6000, b"99", b"1", b"2"))
    columns = draw.choice(
        ({"a": [1]}, {"key": ["k"]}, {"key": [1], "status": [2], "finished_at": [3]}, {"key": [None]})
    )
    metadata = {b"peftbench.kind": draw.choice((b"trials", b"steps", b"\xff")), b"peftbench.schema_version": version}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
