"""Nothing here asserts a time: each benchmark leaves its ratios, which ``run.py`` prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Whatever the machine has: neighbours then disturb least."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tell(benchmark) -> Callable[..., None]:
    """Leave lines for the table: a measure's name, its numbers, how they are written, and what they are to be."""

    def add(name: str, values: list[float], form: str, goal: str = "") -> None:
        lines: list[Any] = benchmark.extra_info.setdefault("lines", [])
        lines.append({"name": name, "values": values, "form": form, "goal": goal})

    return add
