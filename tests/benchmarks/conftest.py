"""Benchmarks assert no times: each records its ratios, which ``run.py`` prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread on any machine, since other processes then disturb least."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def record_line(benchmark) -> Callable[..., None]:
    """Record a line of the table: a measure's name, its values, their format, and the goal."""

    def add(name: str, values: list[float], form: str, goal: str = "") -> None:
        lines: list[Any] = benchmark.extra_info.setdefault("lines", [])
        lines.append({"name": name, "values": values, "form": form, "goal": goal})

    return add


@pytest.fixture
def record_page(benchmark) -> Callable[..., None]:
    """Record a line of the table of pages: what the page is about and what it took, by name."""

    def add(**values: float) -> None:
        benchmark.extra_info.setdefault("pages", []).append(values)

    return add
