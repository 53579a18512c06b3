"""The page answers every question as ``peftbench answer`` does: both are asked the same over a grid of questions."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peftbench.commands.answer import Asked, question
from peftbench.report import render
from peftbench.report.collect import MEAN, collect
from peftbench.report.derived.answer import answer
from peftbench.report.notes.answer import sentences
from peftbench.report.payload.scores import shortened
from peftbench.results.answer import decision
from peftbench.results.answer.losses import Losses, losses
from peftbench.results.crossed_effects.model import Outcomes
from tests.support import chromium
from tests.support.answer_cases import folder, trials
from tests.support.sample import sample
from tools.docs import reference

pytestmark = pytest.mark.browser

SCRIPT = """(choice) => {
  history.replaceState(null, "", `#${new URLSearchParams(choice)}`);
  dispatchEvent(new Event("hashchange"));
  const pieces = [...document.getElementById("answer-words").childNodes].filter((piece) => piece.tagName !== "CODE");
  return pieces.map((piece) => piece.textContent).join("").trim();
}"""
QUESTIONS = [
    *itertools.product(("2.25", "40"), ("", "3GiB"), ("", "70s")),
    *(("2", "", ""), ("12.345", "3.0005 GiB", "81.5 s"), ("2", "1 KiB", ""), ("5", "3GiB", "")),
    *(("100", "5.5 GB", "0.1 Minutes"), ("0.3", "1TiB", "1h 1m5s")),
]
BUSY = {"train_waiting_seconds": 60.0, "threads": 2}
RAW = json.dumps(
    {"prompts": 2, "seconds": {"tuned": {"1": [[1.0, 2.0, 2.1], [1.0, 2.2, 2.3]]}, "bare": {"1": [[1, 1, 1]] * 2}}}
)
BASE = trials("base fp32", [0.3])
FULL = trials("full fp32", [0.9, 0.9, 0.9], peak_train_bytes=8 * 2**30, train_seconds=100.0)
LORA = trials("lora r=8 fp32", [0.9, 0.9, 0.9], peak_train_bytes=3 * 2**30 + 1, train_seconds=81.55)
FAST = trials("adapter r=8 fp32", [0.89, 0.9, 0.9], peak_train_bytes=4 * 2**30, train_seconds=60.0)
CRAMPED = trials(
    "ia3 fp32", [0.88, 0.9, 0.89], peak_train_bytes=2 * 2**30, train_seconds=50.0, inference_json=RAW, **BUSY
)
FREE = trials("prefix_tuning r=4 fp32", [0.6, 0.61, 0.6], peak_train_bytes=None, train_seconds=None)
BAD = trials("prompt_tuning r=20 fp32", [0.5, 0.5, 0.5], peak_train_bytes=2**30, train_seconds=40.0)
ONCE = trials("qlora r=8 nf4", [0.89], peak_train_bytes=2**30, train_seconds=30.0)
UNKNOWN = trials("full fp32", [0.6, 0.61, 0.6], peak_train_bytes=None, train_seconds=None)
LOST = [dataclasses.replace(one, examples=one.examples[:1]) for one in FULL]
ON_GPU = [
    [dataclasses.replace(one, row=dataclasses.replace(one.row, device="cuda")) for one in cell]
    for cell in (BASE, LORA, BAD)
]
NOISY = (trials("full fp32", [0.80, 0.86, 0.83]), trials("lora r=8 fp32", [0.86, 0.80, 0.82], peak_train_bytes=5e9))
CASES: dict[str, tuple[Any, ...]] = {
    "clear": ({"answer", "over budget"}, BASE, FULL, LORA, FAST, BAD),
    "one seed of a cell that may be the best": ({"cannot tell"}, BASE, FULL, LORA, FAST, BAD, ONCE),
    "cells without usable outcomes and of one seed, higher than the best": ({"cannot tell"}, BASE, BAD, LOST, ONCE),
    "on a GPU": ({"answer", "over budget"}, *ON_GPU),
    "busy": ({"answer", "over budget"}, BASE, FULL, LORA, CRAMPED, BAD),
    "only busy": ({"no times", "answer"}, BASE, CRAMPED),
    "memory or time unknown": ({"answer", "over budget"}, BASE, FREE, BAD),
    "neither known": ({"no times", "over budget"}, FREE, UNKNOWN),
    "noisy": ({"cannot tell", "answer"}, BASE, *NOISY),
    "near the base": ({"answer"}, trials("base fp32", [0.86]), FULL, LORA),
    "not above the base": ({"not above base"}, trials("base fp32", [0.9]), FULL, LORA),
    "one seed each": ({"single seed"}, BASE, FULL[:1], LORA[:1]),
    "one cell": ({"answer", "over budget"}, BASE, LORA),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.started() as found:
        yield found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the losses of the same cells once; leave out how many seeds would decide, which the page does not say."""
    known: dict[Any, Losses] = {}

    def drawn(cells: dict[str, Outcomes]) -> Losses:
        key = tuple((name, cell.mean) for name, cell in cells.items())
        if key not in known:
            known[key] = losses(cells)
        return known[key]

    monkeypatch.setattr(decision, "losses", drawn)
    monkeypatch.setattr(decision, "needed", lambda *_: None)


def compare(browser: Any, place: Path, page: Path, questions: Iterable[tuple[str, str, str]]) -> set[str]:
    """Ask the page and the command; return the statuses of the answers."""
    results = collect(place)
    shown = chromium.opened(browser, render(place, page).as_uri())
    tasks = [*([MEAN] if len(results.tasks) > 1 else []), *results.tasks][:2]
    found = set()
    for (within, budget, time), task in itertools.product(questions, tasks):
        choice = {"within": within, "budget": budget, "time": time, "task": str(tasks.index(task))}
        said = shown.evaluate(SCRIPT, choice)
        asked = Asked(within, budget or None, time or None, None if task == tasks[0] else task)
        told = answer(results, question(place, asked))
        assert said == " ".join(shortened(sentences(told))), choice
        found.add(told.decision.refusal or told.decision.status)
    assert shown.troubles == []
    shown.context.close()
    return found


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", sample(CASES, 2))
def test_page_and_command_agree(browser: Any, tmp_path: Path, name: str) -> None:
    place, expected = folder(tmp_path / "r", *CASES[name][1:]), CASES[name][0]
    assert compare(browser, place, tmp_path / "page.html", QUESTIONS) >= set(expected)


@pytest.mark.usefixtures("quick")
def test_page_and_command_agree_on_the_quickstart(browser: Any, tmp_path: Path) -> None:
    grid = itertools.product(("2", "3.7", "8", "99.9"), ("", "31.5 MB"), ("", "4.5s"))
    found = compare(browser, reference.RESULTS / "quickstart", tmp_path / "page.html", grid)
    assert found >= {"answer", "cannot tell", "over budget"}
