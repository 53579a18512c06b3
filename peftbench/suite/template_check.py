"""Checks of Jinja templates before anything runs: their syntax, and their fields if the suite names the columns."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.errors import unknown

_OF_CONVERSATIONS = ("turns", "answer")
"""What a template sees beside the fields if the records are conversations."""


def template_problems(text: str, columns: Sequence[str], conversation: bool = False) -> list[str]:
    """Return the problems of a template as sentences; empty if there are none.

    Args:
        text: a Jinja template over an example's fields.
        columns: the names of the fields; empty if the data file names them itself.
        conversation: whether the records are conversations.
    """
    if "{" not in text:
        return []
    import jinja2
    from jinja2 import meta, nodes

    from peftbench.tasks.sandbox import Sandbox
    from peftbench.tasks.values import WHOLE

    sandbox = Sandbox()
    try:
        sandbox.compiled(text)
        tree = sandbox.parse(text)
        fields = meta.find_undeclared_variables(tree) - set(sandbox.globals) - {WHOLE}
    except jinja2.TemplateSyntaxError as error:
        hint = f"; a column of several words is written {{{{ {WHOLE}['Class Index'] }}}}" if "got" in str(error) else ""
        return [f"not a Jinja template: {error.message} (its line {error.lineno}){hint}"]
    except RecursionError:
        return ["not a Jinja template: it is nested too deeply"]
    except Exception as error:  # Python's compiler has limits of its own, such as 20 loops within each other
        return [f"not a Jinja template: {error}"]
    if conversation:
        fields -= set(_OF_CONVERSATIONS)
    for part in tree.find_all(nodes.Getitem):
        if isinstance(part.node, nodes.Name) and part.node.name == WHOLE and isinstance(part.arg, nodes.Const):
            fields.add(str(part.arg.value))
    return [unknown("field", name, columns) for name in sorted(fields - set(columns))] if columns else []
