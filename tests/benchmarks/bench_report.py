"""How the time, the memory and the size of a page grow with its trials, and how fast it is in a browser."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import chromium
from tests.support.many_results import make_many

CELLS_AND_SEEDS = ((8, 5), (60, 5), (200, 5), (1000, 5), (1667, 3))
MEBIBYTE = 2**20


def _report(folder: Path, page: Path) -> tuple[float, resource.struct_rusage]:
    """Make a page in a process of its own; return its seconds from start to end, and what it used."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "peftbench", "report", str(folder), "-o", str(page)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)
    _, status, used = os.wait4(child.pid, 0)
    seconds, child.returncode = time.perf_counter() - begin, os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return seconds, used


MEASURED = """
new Promise((done) => {{
  const look = () => {look}, before = look(), begin = performance.now();
  {act};
  const wait = () => (look() === before ? requestAnimationFrame(wait) : done(performance.now() - begin));
  requestAnimationFrame(wait);
}})
"""
"""Does something to a page; its value is the milliseconds until what is looked at is another and a frame is drawn."""
SORT = {
    "act": """[...document.querySelectorAll("#table thead th")].find((head) => head.textContent.includes("peak memory"))
      .querySelector(".dt-column-order").click()""",
    "look": 'document.querySelector("#table tbody").innerText',
}
FILTER = {
    "act": """document.querySelector("#search").value = "lora";
      document.querySelector("#search").dispatchEvent(new Event("input"))""",
    "look": 'document.querySelector(".dt-info").innerText',
}


def _browse(page_file: Path) -> dict[str, float]:
    """Open a page in Chromium, sort its table and filter it; return the times, or nothing without Chromium."""
    if not chromium.EXECUTABLE:
        return {}
    with chromium.started() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        begin = time.perf_counter()
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        opened = time.perf_counter() - begin
        sorted_, filtered = (page.evaluate(MEASURED.format(**what)) for what in (SORT, FILTER))
    return {"open_seconds": opened, "sort_ms": sorted_, "filter_ms": filtered}


@pytest.mark.parametrize(("cells", "seeds"), CELLS_AND_SEEDS)
def bench_page(cells, seeds, benchmark, record_page, tmp_path):
    folder, page = make_many(tmp_path / "results", cells, seeds), tmp_path / "page.html"
    seconds, used = benchmark.pedantic(lambda: _report(folder, page), rounds=1)
    record_page(
        trials=cells * seeds,
        cells=cells,
        seconds=seconds,
        cpu_seconds=used.ru_utime + used.ru_stime,
        memory_mib=used.ru_maxrss / 1024,
        page_mib=page.stat().st_size / MEBIBYTE,
        beside_mib=sum(path.stat().st_size for path in tmp_path.glob("page.files/*")) / MEBIBYTE,
        **_browse(page),
    )
