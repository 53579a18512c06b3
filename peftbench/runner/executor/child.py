"""A trial's own process, forked from the preloaded server."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from peftbench.errors import UserError
from peftbench.measure import environment
from peftbench.records import Job, Phase
from peftbench.records.devices import Place
from peftbench.runner.executor import lifeline, ranks, stack


def main(job: Job, channel: Connection, asked_at: float, place: Place | None = None) -> None:
    """Run one job, or one rank of it; send its phases, its steps and finally its result through the channel."""
    _take_signals()
    _die_with_parent()
    if job.visible_devices is not None:  # the server has not touched CUDA, so this still counts
        os.environ.update(environment.visible(job.visible_devices))
    log = ranks.log_of(job.log, place.rank if place else 0)
    if log:
        _redirect(log)
        faulthandler.register(stack.ASK, file=sys.stderr)  # a trial that hangs says where
        faulthandler.enable(file=sys.stderr)  # and one that crashes in C code
    warnings.simplefilter("once")
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)

    from peftbench.runner import trial  # heavy: preloaded in the server where there is no GPU

    _silence_libraries()
    channel.send(("phase", Phase.START))
    result = trial.run(
        job,
        asked_at,
        lambda phase: channel.send(("phase", phase)),
        lambda step, steps, loss: channel.send(("step", (step, steps, loss))),
        lambda kept: channel.send(("kept", kept)),
        place,
    )
    channel.send(("result", result))
    channel.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # nothing is left to do, and tearing down torch takes a while


def answer(function: Callable[..., Any], arguments: tuple[Any, ...], channel: Connection) -> None:
    """Call a function that needs the libraries; send the message of its ``UserError`` or None, and what it returns."""
    _take_signals()
    _die_with_parent()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        value = function(*arguments)
        channel.send((None, value))
    except UserError as error:
        channel.send((str(error), None))
    channel.close()
    os._exit(0)


def nothing() -> None:
    """Do nothing. When this process has ended, the server is ready."""
    os._exit(0)


def _take_signals() -> None:
    """Ignore Ctrl-C, which the runner handles; let other signals end this process, which the server ignores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _die_with_parent() -> None:
    """Make this process die with the runner or the server, whichever ends first and however it ends."""
    lifeline.die_with_parent(lifeline.server())
    runner = multiprocessing.parent_process()
    if runner is None:
        return

    def watch() -> None:
        wait([runner.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _redirect(log: str) -> None:
    """Send everything that libraries print, including from C, to the trial's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


def _silence_libraries() -> None:
    """Switch off output that is useless in a log: progress bars, and bitsandbytes' message for each int8 product."""
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    # it says that inputs are cast to float16, for each layer and pass, which takes time within the steps
    logging.getLogger("bitsandbytes.autograd").setLevel(logging.ERROR)
