"""Random shots at a running command: which process, which signal, when."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.validation.chaos import processes

_GLANCE_SECONDS = 0.01
"""Time between two looks at the processes of a run."""


@dataclass(frozen=True)
class Kind:
    """A kind of shot."""

    name: str
    share: float
    """Its weight among the shots."""
    target: str
    """``trial``, ``server`` or ``runner``."""
    signals: tuple[signal.Signals, ...] = (signal.SIGKILL,)
    """What is sent, one after the other."""
    group: bool = False
    """Whether every process of the command gets it, as from a terminal."""
    aimed: str | None = None
    """Pattern of a file in the results folder whose presence the shot waits for; None for a random moment."""


INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
KINDS = (
    Kind("trial", 100, "trial"),
    Kind("trial while it saves its state", 8, "trial", aimed=".training/.*"),
    Kind("trial while it saves its adapter", 8, "trial", aimed=".saving-*"),
    Kind("server", 4, "server"),
    Kind("runner", 2, "runner"),
    Kind("runner while it writes", 1, "runner", aimed="*/.*.tmp"),
    Kind("Ctrl-C", 1, "runner", (INT,), group=True),
    Kind("Ctrl-C twice", 1, "runner", (INT, INT), group=True),
    Kind("Ctrl-C while it writes", 0.5, "runner", (INT,), group=True, aimed="*/.*.tmp"),
    Kind("SIGTERM", 1, "runner", (TERM,)),
    Kind("SIGTERM to all", 0.5, "runner", (TERM,), group=True),
    Kind("SIGTERM twice", 0.5, "runner", (TERM, TERM)),
    Kind("SIGHUP", 0.5, "runner", (HUP,)),
    Kind("SIGHUP to all", 0.5, "runner", (HUP,), group=True),
)


def draw(rng: random.Random, spares_trials: bool = False) -> Kind:
    """Return a kind of shot; with ``spares_trials`` one at the runner or the server."""
    kinds = [kind for kind in KINDS if not (spares_trials and kind.target == "trial")]
    return rng.choices(kinds, [kind.share for kind in kinds])[0]


def fire(kind: Kind, runner: subprocess.Popen[bytes], folder: Path, trial_seconds: float, rng: random.Random) -> bool:
    """Wait for the moment of a shot, and shoot; return whether it hit anything.

    Moments are drawn from the seed; what happens at them depends on the machine.

    Args:
        kind: the kind of shot.
        runner: the running command.
        folder: its results folder.
        trial_seconds: how long an undisturbed trial takes here.
        rng: the source of moments.
    """
    startup = kind.target != "trial" and rng.random() < 0.4  # a share while the libraries are imported
    if not startup and not _until(lambda: bool(processes.trials(runner.pid)), runner):
        return False
    # early kills take less time, so that there are more
    longest = trial_seconds * (rng.choice((0.1, 0.3, 1.2)) if kind.target == "trial" else 5.0)
    moment = time.monotonic() + rng.uniform(0.0, longest)
    gap = rng.choice((0.0, rng.uniform(0.0, 0.05), rng.uniform(0.0, 1.0)))
    aimed = kind.aimed
    if aimed is not None and not startup:
        _until(lambda: any(folder.glob(aimed)) or time.monotonic() > moment + longest, runner)
    else:
        _until(lambda: time.monotonic() > moment, runner)
    if kind.target == "runner" and not _until(lambda: processes.handles_signals(runner.pid), runner):
        return False
    hit = _send(kind, kind.signals[0], runner, rng)
    for sent in kind.signals[1:]:
        time.sleep(gap)
        _send(kind, sent, runner, rng)
    return hit


def _until(reached: Callable[[], bool], runner: subprocess.Popen[bytes]) -> bool:
    """Wait for something; return False if the command has ended first."""
    while not reached():
        if runner.poll() is not None:
            return False
        time.sleep(_GLANCE_SECONDS)
    return runner.poll() is None


def _send(kind: Kind, sent: signal.Signals, runner: subprocess.Popen[bytes], rng: random.Random) -> bool:
    if runner.poll() is not None:
        return False
    found = {
        "trial": processes.trials(runner.pid),
        "server": [pid for pid in [processes.server(runner.pid)] if pid is not None],
        "runner": [runner.pid],
    }[kind.target]
    if not found:
        return False
    pid = rng.choice(found)
    try:
        os.killpg(pid, sent) if kind.group else os.kill(pid, sent)
    except ProcessLookupError:
        return False
    return True
