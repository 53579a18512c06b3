"""The functions of ``docs/python.md``: signatures and docstrings of the public Python interface."""

from __future__ import annotations

import inspect
import re

import peftbench

FUNCTIONS = (
    "load_suite",
    "plan",
    "run_suite",
    "read_results",
    "answer",
    "compare",
    "compare_results",
    "history",
    "write_report",
    "benchmark_suite",
)
"""In the order in which they are used."""


def function(name: str) -> str:
    """Return a function's signature as code, then its docstring as Markdown."""
    found = getattr(peftbench, name)
    text = inspect.cleandoc(found.__doc__ or "").replace("``", "`")
    text = re.sub(r"^(Args|Returns|Raises):$", r"\n**\1**\n", text, flags=re.MULTILINE)
    text = re.sub(r"^    (\w+): ", r"- `\1`: ", text, flags=re.MULTILINE)
    text = re.sub(r"^ {4,8}(?=\S)", "  ", text, flags=re.MULTILINE)
    text = re.sub(r"(\*\*Returns\*\*\n\n)  (.*?)(?=\n\n|\Z)", _paragraph, text, flags=re.DOTALL)
    return f"```python\n{_signature(name, found)}\n```\n\n{re.sub(chr(10) + '{3,}', chr(10) * 2, text)}"


def _paragraph(found: re.Match[str]) -> str:
    return found[1] + found[2].replace("\n  ", "\n")


def _signature(name: str, found: object) -> str:
    signature = inspect.signature(found)  # type: ignore[arg-type]
    parts, keyword = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keyword:
            parts.append("*")
            keyword = True
        default = "" if parameter.default is inspect.Parameter.empty else f"={parameter.default!r}"
        parts.append(f"{parameter.name}{default}")
    return f"peftbench.{name}({', '.join(parts)}) -> {signature.return_annotation}"
