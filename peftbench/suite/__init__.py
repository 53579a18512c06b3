"""From a suite file to a ``Suite`` to trials. Nothing here imports torch, transformers or pandas."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftbench.errors import UserError, nearest
from peftbench.suite.build import build
from peftbench.suite.document import Document
from peftbench.suite.expand import expand
from peftbench.suite.records import Suite, SuiteOptions
from peftbench.suite.select import read_only, read_seeds
from peftbench.suite.smoke import as_smoke_suite

__all__ = ["Suite", "SuiteOptions", "expand", "find", "from_data", "load", "names"]

_PACKAGE = Path(__file__).resolve().parents[1]
_SUFFIXES = (".yaml", ".yml")


def load(
    name: str | os.PathLike[str],
    *,
    overrides: Iterable[str] = (),
    only: Iterable[str] = (),
    seeds: str | None = None,
    environ: Mapping[str, str] = os.environ,
    smoke: bool = False,
) -> Suite:
    """Return a validated suite, with overrides and environment variables filled in.

    Args:
        name: a file, or the bare name of a suite that comes with peftbench.
        overrides: ``key.path=value`` each, the value in YAML; as if it were written in the file.
        only: ``field=value,value`` each, where the field is method, precision, rank or seed; applied by ``expand``.
        seeds: a count (``"3"``) or a list (``"0,5"``) in place of the suite's.
        environ: where ``${NAME}`` is looked up.
        smoke: whether the suite is for smoke mode, which reads neither its base model nor its data. An unset
            ``${NAME}`` is then no error: it becomes the text NAME.

    Raises:
        UserError: if anything is wrong. Every problem is a line ``file:line: key.path: what, and what is allowed``.
    """
    options = SuiteOptions(os.fspath(name), tuple(overrides), tuple(only), seeds, smoke)
    path = find(name)
    document = Document.read(path, _shown(path))
    selected = read_only(options.only)
    if seeds is not None:
        document.put(("seeds",), read_seeds(seeds), "--seeds")
    for text in options.overrides:
        document.override(text)
    document.placeholders = smoke
    document.interpolate(environ)
    built = replace(build(document, path, selected), options=options)
    return as_smoke_suite(built) if smoke else built


def from_data(data: Mapping[str, Any], shown: str) -> Suite:
    """Return the validated suite that plain data describes, as a file would.

    Args:
        data: the keys of a suite; paths and sequences may be of any kind. Relative paths start at the current folder.
        shown: what messages name in place of a file.

    Raises:
        UserError: as ``load``; or if a value is of no kind that a file could hold.
    """
    try:
        plain = json.loads(json.dumps(data, default=_plain))
    except (TypeError, ValueError) as error:
        raise UserError(f"{shown}: {error}; allowed: what a suite file can hold") from None
    document = Document(shown, Path.cwd(), plain, {})
    document.normalize()
    return replace(build(document, Path(shown), ()), options=SuiteOptions(shown))


def _plain(value: Any) -> Any:
    """Return a value that JSON does not know as one that it does: paths as text, mappings as dicts, others as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return dict(value) if isinstance(value, Mapping) else list(value)


def names() -> tuple[str, ...]:
    """Return the names of the suites that come with peftbench."""
    return tuple(sorted(path.stem for path in _folder().glob("*.yaml")))


def find(name: str | os.PathLike[str]) -> Path:
    """Return the file of a suite: the path itself if it exists, else the suite of that name that comes with peftbench.

    Raises:
        UserError: if neither exists; the message names the nearest one.
    """
    text = os.fspath(name)
    try:
        path = Path(text).expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError) as error:  # a name that is too long, the home folder of a user that does not exist
        raise UserError(f"suite {text[:100]!r}: {getattr(error, 'strerror', None) or error}") from None
    stem = text.removesuffix(".yaml")
    if stem in names():
        return _folder() / f"{stem}.yaml"
    if path.is_dir():
        raise UserError(f"suite {text!r}: this is a folder; a suite is a YAML file in it, or one of {_listed()}")
    if path.parent != Path() and path.parent.is_dir():
        beside = [str(path.parent / p.name) for p in sorted(path.parent.iterdir()) if p.suffix in _SUFFIXES]
        near = nearest(text, beside)
        raise UserError(f"suite {text!r}: no such file" + (f"; did you mean {near!r}?" if near else ""))
    near = nearest(Path(stem).stem, names())
    hint = f" did you mean {near!r}?" if near else ""
    raise UserError(f"suite {text!r}: no such file, and no suite of that name in peftbench;{hint} allowed: {_listed()}")


def _folder() -> Path:
    """Return the folder of peftbench's suites: inside an installed package, at the top of a checkout."""
    packaged = _PACKAGE / "_suites"
    return packaged if any(packaged.glob("*.yaml")) else _PACKAGE.parent / "suites"


def _listed() -> str:
    return ", ".join(names())


def _shown(path: Path) -> str:
    """Return a path for messages: relative if it is below the current folder."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return str(path)
