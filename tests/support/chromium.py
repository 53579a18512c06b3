"""Chromium for tests of the page, offline."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE = 30_000
"""Milliseconds for which an expectation waits: a page of several folders takes 10 s to load beside other work."""

# On a busy machine events and timers come late. With PEFTBENCH_LATE_EVENTS=1 they always do, so that a test which
# does not wait for what it looks at fails here too.
LATE = """(() => {
  const add = EventTarget.prototype.addEventListener, later = new Set(["toggle", "hashchange", "close"]);
  const timeout = window.setTimeout;
  const late = (listener) => function (event) {
    if (event.isTrusted) timeout(() => listener.call(this, event), 300); else listener.call(this, event);
  };
  EventTarget.prototype.addEventListener = function (kind, listener, ...more) {
    return add.call(this, kind, later.has(kind) ? late(listener) : listener, ...more);
  };
  window.setTimeout = (task, wait, ...more) => timeout(task, (wait ?? 0) + 300, ...more);
})()"""


@contextmanager
def started() -> Iterator[Any]:
    """Start Chromium; skip the test if there is none or no Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    if not EXECUTABLE:
        pytest.skip("no chromium on this machine")
    playwright.expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=EXECUTABLE, args=ARGUMENTS)
        yield browser
        browser.close()


def context(browser: Any, scheme: str = "light", width: int = 1280) -> Any:
    """Return a browser context without a network."""
    found = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    if os.environ.get("PEFTBENCH_LATE_EVENTS") == "1":
        found.add_init_script(LATE)
    return found


def opened(browser: Any, address: str, scheme: str = "light", width: int = 1280) -> Any:
    """Open a page; what goes wrong in it is in its ``troubles``."""
    page = context(browser, scheme, width).new_page()
    page.troubles = []
    page.on("console", lambda message: page.troubles.append(message.text))
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.goto(address)
    page.wait_for_selector("html[data-ready]", state="attached")
    return page


def wait(page: Any, script: str, argument: Any = None, seconds: float = 30) -> None:
    """Wait until a script returns true. The page's policy forbids `eval`, which Playwright's own waiting needs."""
    end = time.monotonic() + seconds
    while not page.evaluate(script, argument):
        assert time.monotonic() < end, f"not within {seconds} s: {script}"
        page.wait_for_timeout(20)
