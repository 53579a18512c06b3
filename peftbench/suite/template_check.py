"""Checks of Jinja templates before anything runs: their syntax, and their fields if the suite names the columns."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.errors import unknown


def template_problems(text: str, columns: Sequence[str]) -> list[str]:
    """Return the problems of a template as sentences; empty if there are none.

    Args:
        text: a Jinja template over an example's fields.
        columns: the names of the fields; empty if the data file names them itself.
    """
    if "{" not in text:
        return []
    import jinja2
    from jinja2 import meta

    environment = jinja2.Environment()
    try:
        environment.compile(text)
        fields = meta.find_undeclared_variables(environment.parse(text))
    except jinja2.TemplateSyntaxError as error:
        return [f"not a Jinja template: {error.message} (its line {error.lineno})"]
    return [unknown("field", name, columns) for name in sorted(fields - set(columns))] if columns else []
