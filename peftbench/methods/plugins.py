"""Methods of other packages: entry points of the group ``peftbench.methods``, each a record or a function giving one.

They are loaded when the table is first read. So importing peftbench runs no other package's code, and commands that
need no method do not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

GROUP = "peftbench.methods"
Record = TypeVar("Record")


class Table(Mapping[str, Record], Generic[Record]):
    """The records of peftbench and then those of other packages, by name.

    A package's record that cannot be loaded is excluded and reported in ``problems``; it does not affect the others.
    """

    def __init__(self, kind: type[Record], own: Mapping[str, Record]) -> None:
        self._kind, self._own = kind, own
        self._all: dict[str, Record] | None = None
        self._problems: tuple[str, ...] = ()

    def _loaded(self) -> Mapping[str, Record]:
        if self._all is None:
            self._all = dict(self._own)  # set before loading: a package may read the table while it is imported
            problems = []
            for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
                problem = self._add(point)
                if problem:
                    problems.append(f"{_who(point)}: its method {point.name!r} is left out: {problem}")
            self._problems = tuple(problems)
        return self._all

    def _add(self, point: EntryPoint) -> str | None:
        """Add the record of an entry point; return what is wrong with it, or None."""
        assert self._all is not None
        try:
            found = point.load()
            record = found() if callable(found) and not isinstance(found, self._kind) else found
        except (
            Exception,
            SystemExit,
        ) as error:  # another package's code may raise anything
            return f"{point.value} cannot be loaded: {type(error).__name__}: {error}"
        if not isinstance(record, self._kind):
            wanted = f"a {self._kind.__name__}, or a function that returns one"
            return f"{point.value} gives a {type(record).__name__}; allowed: {wanted}"
        name = getattr(record, "name", None)
        if name != point.name:
            return f"the record is called {name!r}; allowed: the name of its entry point"
        if name in self._all:
            return "a method with this name already exists"
        self._all[name] = record
        return None

    @property
    def own(self) -> Mapping[str, Record]:
        """The records of peftbench itself."""
        return self._own

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each excluded record of another package, with the reason."""
        self._loaded()
        return self._problems

    def __getitem__(self, name: str) -> Record:
        return self._loaded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())


def _who(point: EntryPoint) -> str:
    return f"package {point.dist.name} {point.dist.version}" if point.dist else "a package"
