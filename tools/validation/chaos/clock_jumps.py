"""A scene in which the machine's clock jumps by a day, back and forth, every second."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tools.validation.chaos import evidence, grids

_SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t which, struct timespec *found) {
    static int (*real)(clockid_t, struct timespec *);
    struct timespec steady;
    if (!real) real = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(which, found);
    if (which == CLOCK_REALTIME && !code && !real(CLOCK_MONOTONIC, &steady))
        found->tv_sec += steady.tv_sec % 2 ? 86400 : -86400;
    return code;
}
"""


def clock_jumps(work: Path) -> list[str]:
    """Run a grid while the time of day jumps: no duration, row or number may show it. Needs a C compiler."""
    from peftbench.results import store

    compiler = shutil.which("cc")
    if compiler is None:
        print("  left out: there is no C compiler", flush=True)
        return []
    grids.prepare(work, 1, 1)
    if grids.start(work, "calm", work / "calm.txt").wait() != 0:
        return ["the undisturbed run failed"]
    (work / "shim.c").write_text(_SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", work / "shim.so", work / "shim.c", "-ldl"], check=True)
    os.environ["LD_PRELOAD"] = str(work / "shim.so")
    try:
        codes = [grids.start(work, "r", work / f"{number}.txt").wait() for number in range(2)]
    finally:
        del os.environ["LD_PRELOAD"]
    said = (work / "0.txt").read_text()
    wrong = [] if codes == [0, 0] and "Traceback" not in said else [f"exit codes {codes}: {said[-800:]}"]
    trials = store.read_trials(work / "r")
    days = set(trials["finished_at"].str[:10])
    wrong += [] if len(days) > 1 else ["the clock did not jump"]
    seconds = trials[[name for name in trials if name.endswith("_seconds")]].max(axis=None)
    wrong += [f"a duration of {seconds} s"] if not 0 < seconds < 40_000 else []
    wrong += ["a negative duration"] if (trials.filter(regex="_seconds$").fillna(0) < 0).any(axis=None) else []
    calm, found = evidence.rows(work / "calm"), evidence.rows(work / "r")
    wrong += [f"{key} differs" for key in calm.exact if calm.exact[key] != found.exact.get(key)]
    return wrong + evidence.doubled(work / "r") + evidence.left_over(work, work / "r")
