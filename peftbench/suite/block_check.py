"""Blocks of a suite against their models: every wrong value becomes a line that says what is allowed."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from pydantic import BeforeValidator, ValidationError

from peftbench.errors import UserError, unknown
from peftbench.methods import METHODS
from peftbench.suite.document import MOST_PROBLEMS, Document, Outside
from peftbench.suite.schema import Strict, as_list, as_lists
from peftbench.suite.wording import describe_field, describe_value, mismatch, without_null
from peftbench.suite.yaml_lines import KeyPath, parse


def check(model: type[Strict], document: Document, path: KeyPath, problems: list[str], block: Any = None) -> Any:
    """Validate one block and return it as a model; on errors, record the problems and return None.

    Text from the environment that a setting does not accept is read as YAML: ``steps: ${STEPS}`` is a number.

    Args:
        model: the block's model.
        document: the suite.
        path: the block's path.
        problems: a line is added for each wrong value.
        block: the block's data, if it is not the value at the path.
    """
    data = document.get(path) if block is None else block
    if not isinstance(data, dict):
        problems.append(document.problem(path, f"given {describe_value(data)}; allowed: a mapping of settings"))
        return None
    try:
        return model.model_validate(data)
    except ValidationError as error:
        failed = {str(e["loc"][0]) for e in error.errors() if e["loc"]}
    data = {key: _read_outside(value) if key in failed else value for key, value in data.items()}
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found: dict[KeyPath, str] = {}
        errors = error.errors()
        for e in errors[:MOST_PROBLEMS]:
            where = _where(document, path, e["loc"], e["input"] is data.get(str(e["loc"][0])))
            found.setdefault(where, document.problem(where, _explain(model, e)))
        problems += found.values()
        if len(errors) > MOST_PROBLEMS:
            problems.append(document.problem(path, f"and {len(errors) - MOST_PROBLEMS:,} more problems"))
    return None


def _read_outside(value: Any) -> Any:
    """Return text from the environment read as YAML; anything else unchanged."""
    if isinstance(value, list):
        return [_read_outside(item) for item in value]
    if not isinstance(value, Outside):
        return value
    try:
        return parse(value, "--set")[0]
    except UserError:
        return value


def _where(document: Document, path: KeyPath, loc: tuple[int | str, ...], whole: bool) -> KeyPath:
    """Return the path of a wrong value; the item's path if the user wrote a list."""
    here: KeyPath = (*path, loc[0])
    for part in () if whole else loc[1:]:
        if not isinstance(part, int | str) or (*here, part) not in document.origins:
            break
        here = (*here, part)
    return here


def _explain(model: type[Strict], error: Any) -> str:
    """Return one validation error in words."""
    name, given = str(error["loc"][0]), error["input"]
    if error["type"] == "extra_forbidden":
        if name == "rank" and model.__name__.split()[0] in METHODS:
            if model.rank_key:
                return f"{model.__name__} takes no rank; the key {model.rank_key!r} sets its size"
            return f"{model.__name__} has no rank"
        what = f"key of {model.__name__}" if " " in model.__name__ else "key"
        return unknown(what, name, model.allowed or model.model_fields)
    if error["type"] == "missing":
        wanted = describe_field(model.model_fields[name].annotation, [model.model_fields[name]])
        return f"the key {name!r} is missing; allowed: {wanted}"
    field = model.model_fields[name]
    kind, metadata = field.annotation, field.metadata
    wraps = any(isinstance(m, BeforeValidator) and m.func in (as_list, as_lists) for m in metadata)
    if given == [] and wraps:
        return "an empty list has no value; give values, or remove the key"
    if wraps:
        kind, metadata = get_args(kind)[0], []
    elif get_origin(kind) in (list, dict) or get_origin(without_null(kind)) in (list, dict):
        inner = get_args(without_null(kind))[-1]
        kind, metadata = (inner, []) if len(error["loc"]) > 1 else (kind, metadata)
    return mismatch(name, given, kind, field.description or describe_field(kind, metadata))
