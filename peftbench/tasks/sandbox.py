"""Jinja's sandbox for templates over records: nothing random, null and lists are no text, bounded in size and time.

What a template may do is counted, not timed, so that the same template fails or succeeds on every machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from functools import partial, wraps
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2.filters import make_attrgetter
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from peftbench.tasks.values import NotText, Null, text

_STEPS, _CHARACTERS, _BITS, _WIDTH = 200_000, 10_000_000, 100_000, 100_000
"""Operations and characters that a template may use for an example, bits of a whole number, and width of a field."""
_PER_CHARACTER, _PER_EXAMPLE = 50, 100_000
"""Characters that a template may make for each character of the record, beside ``_CHARACTERS``, and for each example
of a split beside those of all."""
_VALUES = 1_000_000
"""Values of a list that a template builds of lists, each counted as often as it can be reached."""
_REMOVED = {"filters": ("random", "pprint", "xmlattr"), "globals": ("lipsum",)}
"""What draws random numbers, or prints Python's own text of values."""
_ENCODINGS = ("utf-8", "utf8", "utf-16", "latin-1", "iso-8859-1", "cp1252", "ascii")
_OF_TEXT = (
    *("string", "trim", "upper", "lower", "title", "capitalize", "replace", "escape", "e", "forceescape", "center"),
    *("indent", "wordwrap", "truncate", "striptags", "urlize", "wordcount", "format", "safe"),
)
"""Filters of one text, which Jinja applies to what Python prints of any value."""
_WIDE = re.compile(r"[:%][^{}a-zA-Z%]*\d{6,}|:[^{}]*\{|%[^a-zA-Z%]*\*")
"""A field of a format string that is very wide, or as wide as an argument says."""


class TooMuch(Exception):
    """A template makes too much text, or does too much, for one example."""


class Budget:
    """What a template may still do for an example."""

    def __init__(self) -> None:
        self.all = _CHARACTERS
        self.start(0)

    def start(self, size: int) -> None:
        """Begin an example whose record has a number of characters."""
        self.steps = _STEPS + size
        self.characters = _CHARACTERS + _PER_CHARACTER * size
        self.all += _PER_EXAMPLE + _PER_CHARACTER * size
        self.sizes: dict[int, tuple[Any, int]] = {}

    def step(self, count: int = 1) -> None:
        """Count operations, or turns of a loop."""
        self.steps -= count
        if self.steps < 0:
            raise TooMuch(f"it takes more than {_STEPS:,} operations")

    def make(self, size: int) -> None:
        """Count characters of a text, or items of a list, before they are made."""
        self.characters -= size
        self.all -= size
        if self.characters < 0:
            raise TooMuch(f"it makes more than {_CHARACTERS:,} characters")
        if self.all < 0:
            raise TooMuch(f"it makes more than {_CHARACTERS:,} characters for the examples so far")

    def used(self, value: Any) -> Any:
        """Count a value that an operation gave, and return it."""
        if isinstance(value, (str, bytes)):
            self.make(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self.step(len(value))
            self.nest(value)
        return value

    def nest(self, value: Any) -> None:
        """Count the values within a list or mapping that the template built: ``[x, x]`` has those of x twice."""
        inside = value.values() if isinstance(value, dict) else value
        total = 1 + sum(self.sizes[id(each)][1] if id(each) in self.sizes else 1 for each in inside)
        if total > _VALUES:
            raise TooMuch(f"it makes more than {_VALUES:,} values within each other")
        self.sizes[id(value)] = value, total  # with the value, whose number would otherwise be another's later


class _Undefined(StrictUndefined):
    """A value that does not exist; part of a null field says so."""

    @property
    def _undefined_message(self) -> str:
        if isinstance(self._undefined_obj, Null):
            return f"the field {self._undefined_obj.field} is null, so it has no {self._undefined_name!r}"
        return str(super()._undefined_message)


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for one task's templates. Its budget is started anew for each rendering."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        self.budget = Budget()
        super().__init__(undefined=_Undefined, finalize=self._output, optimized=False)
        for kind, names in _REMOVED.items():
            for name in names:
                del getattr(self, kind)[name]
        self.tests["none"] = lambda value: value is None or isinstance(value, Null)
        self.filters |= {
            "default": _default,
            "d": _default,
            "tojson": partial(_tojson, self.budget),
            "join": partial(_join, self),
        }
        for name in ("int", "float"):
            self.filters[name] = _number(self.filters[name])
        for name, function in list(self.filters.items()):
            self.filters[name] = _counted(self.budget, name, function)
        own = {"_turns": _turns, "_concat": _concat, "_built": Budget.used}
        self.filters |= {name: partial(function, self.budget) for name, function in own.items()}

    def _output(self, value: Any) -> Any:
        return self.budget.used(text(value))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Return left OPERATOR right, if that is no larger than the budget."""
        self.budget.step()
        if operator == "*":
            self._check_product(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * abs(right))
        elif operator == "%" and isinstance(left, str):
            left, right = str(left), _formatted(self.budget, left, right)
        return self.budget.used(super().call_binop(context, operator, left, right))

    def _check_product(self, left: Any, right: Any) -> None:
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() + right.bit_length())
        for several, times in ((left, right), (right, left)):
            if isinstance(several, Sized) and isinstance(times, int):
                self.budget.make(len(several) * max(times, 0))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function, a macro or a method of a value, if what it makes is no larger than the budget."""
        budget = __self.budget
        budget.step()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(getattr(getattr(__obj, "__wrapped__", None), "__self__", None), str):  # str.format
            owner, name = __obj.__wrapped__.__self__, "format"
        if (isinstance(owner, bytes) and not _decodes(name, args)) or name == "to_bytes":
            raise TooMuch(f"the method {name} of {type(owner).__name__} is not available")
        if isinstance(owner, str):
            args = _checked_method(budget, owner, name, args, kwargs)
        return budget.used(super().call(__context, __obj, *args, **kwargs))

    def compiled(self, source: str | nodes.Template) -> Any:
        """Return a template, with loops and joined texts counted.

        Raises:
            Exception: any error of Jinja or Python about its syntax or depth.
        """
        tree = self.parse(source) if isinstance(source, str) else source
        return self.from_string(_Counting().visit(tree).set_environment(self))


class _Counting(NodeTransformer):
    """Rewrites loops, ``~`` and lists so that they are counted."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        """Count the turns of a loop."""
        self.generic_visit(node)
        words = sum(len(data.data) for part in node.body for data in part.find_all(nodes.TemplateData))
        node.iter = _filter(node.iter, "_turns", node.lineno, nodes.Const(words, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        """Count the characters that are joined, and refuse what is no text."""
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "_concat", node.lineno)

    def visit_List(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Node:
        """Count the values of a list, a tuple or a mapping that the template writes down."""
        self.generic_visit(node)
        stored = isinstance(node, nodes.Tuple) and node.ctx != "load"
        return node if stored else _filter(node, "_built", node.lineno)

    visit_Tuple = visit_Dict = visit_List

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        """Count the further arguments of a macro, which are a list."""
        further = node.name in ("varargs", "kwargs") and node.ctx == "load"
        return _filter(node, "_built", node.lineno) if further else node


def _filter(node: nodes.Expr, name: str, line: int, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=line)


def _turns(budget: Budget, values: Any, words: int = 0) -> Any:
    """Return what a loop runs over, counted with the characters of the loop's own text."""
    if isinstance(values, Undefined):
        return values
    if isinstance(values, Sized):
        budget.step(len(values))
        budget.make(len(values) * words)
        return values
    return _counted_items(budget, values, words)


def _counted_items(budget: Budget, values: Iterable[Any], words: int) -> Iterator[Any]:
    for value in values:
        budget.step()
        budget.make(words)
        yield value


def _concat(budget: Budget, values: list[Any]) -> str:
    return str(budget.used("".join(str(text(value)) for value in values)))


def _check_bits(bits: int) -> None:
    if bits > _BITS:
        raise TooMuch(f"a whole number has more than {_BITS:,} bits")


def _checked_method(budget: Budget, owner: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the arguments of a method of a text, if what it makes is no larger than the budget."""
    if name == "replace" and len(args) >= 2:
        budget.make((owner.count(str(args[0])) + 1) * len(str(args[1])))
    elif name == "join" and args and not isinstance(args[0], str):
        parts = list(args[0])
        budget.make(sum(len(part) + len(owner) for part in parts if isinstance(part, str)))
        return (parts, *args[1:])
    elif name == "format":
        given = [*args, *kwargs.values()]
        _check_fields(owner, given)
        budget.make(owner.count("{") * max((len(v) for v in given if isinstance(v, str)), default=0))
    elif name == "expandtabs":
        size = next((value for value in (*args, *kwargs.values()) if isinstance(value, int)), 8)
        budget.make(owner.count("\t") * max(size, 0))
    elif name in ("translate", "maketrans", "encode"):
        raise TooMuch(f"the method {name} is not available")
    elif name not in ("split", "rsplit", "count", "find", "index", "startswith", "endswith"):
        _check_width(args)
    return args


def _decodes(name: str, args: Sequence[Any]) -> bool:
    """Return whether a method of bytes decodes them in time that grows with their number alone."""
    return name == "decode" and str((*args, "utf-8")[0]).lower() in _ENCODINGS


def _check_width(given: Iterable[Any]) -> None:
    if any(isinstance(value, int) and abs(value) > _WIDTH for value in given):
        raise TooMuch(f"a width is more than {_WIDTH:,}")


def _check_fields(pattern: str, given: Iterable[Any]) -> None:
    found = _WIDE.search(pattern)
    if found:
        digits = re.search(r"\d{6,}", found[0])
        _check_width([int(digits[0])] if digits else given)


def _formatted(budget: Budget, pattern: str, given: Any) -> Any:
    """Return the arguments of ``%``, if all are values and no field is too wide."""
    each = given if isinstance(given, tuple) else tuple(given.values()) if isinstance(given, dict) else (given,)
    _check_fields(pattern, each)
    sizes = [len(str(text(value))) for value in each]
    budget.make(pattern.count("%") * max(sizes, default=0))
    return given


def _counted(budget: Budget, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that counts what it makes, and applies to texts only if it is one of texts."""
    passed = hasattr(function, "jinja_pass_arg")

    @wraps(function)
    def apply(*args: Any, **kwargs: Any) -> Any:
        before, (value, *rest) = args[: int(passed)], args[int(passed) :]
        budget.step()
        if name in _OF_TEXT and not isinstance(value, Undefined):
            value = text(value)
        if name in ("center", "indent", "wordwrap", "batch", "slice", "tojson", "truncate"):
            _check_width([*rest, *kwargs.values()])
        if name == "indent":
            margin = next(iter(rest), kwargs.get("width", 4))
            budget.make((value.count("\n") + 1) * (margin if isinstance(margin, int) else len(str(margin))))
        elif name == "replace" and len(rest) >= 2:
            budget.make((value.count(str(rest[0])) + 1) * len(str(rest[1])))
        elif name == "format":
            _formatted(budget, value, tuple(rest) or kwargs)
        return budget.used(function(*before, value, *rest, **kwargs))

    return apply


def _join(environment: Sandbox, values: Any, d: Any = "", attribute: Any = None) -> str:
    """Return values as one text, each of which must be one."""
    found = values if attribute is None else map(make_attrgetter(environment, attribute), values)
    parts, between = [str(text(value)) for value in _turns(environment.budget, found)], str(text(d))
    environment.budget.make(len(between) * len(parts))
    return between.join(parts)


def _default(value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    """Return a value, or the default if it is missing: undefined, or null, for which Jinja's own filter has no word."""
    if isinstance(value, (Undefined, Null)) or value is None or (boolean and not value):
        return default_value
    return value


def _tojson(budget: Budget, value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, as chat templates do: without the escapes that Jinja makes for HTML."""
    parts = []
    for part in json.JSONEncoder(ensure_ascii=False, indent=indent, default=_of_json).iterencode(value):
        budget.make(len(part))
        parts.append(part)
    return "".join(parts)


def _of_json(value: Any) -> Any:
    return None if isinstance(value, Null) else text(value)


def _number(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the filter ``int`` or ``float``, for which null is no number unless a default is given."""

    @wraps(function)
    def apply(value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, Null) and not args and "default" not in kwargs:
            raise NotText(f"the field {value.field} is null, and null is no number")
        return function(value, *args, **kwargs)

    return apply
