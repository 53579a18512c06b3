"""A trial's own process: from its first line to its result. Forked from the preloaded server."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from multiprocessing.connection import Connection, wait

from peftbench.records import Job
from peftbench.runner.executor import lifeline


def main(job: Job, channel: Connection, asked_at: float) -> None:
    """Run one job; send phases, steps and at last the result through the channel."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _die_with_parent()
    if job.log:
        _redirect(job.log)
    warnings.simplefilter("once")
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)

    from peftbench.runner import trial  # heavy: preloaded in the server where there is no GPU

    _quiet()
    channel.send(("phase", "start"))
    result = trial.run(
        job,
        asked_at,
        lambda phase: channel.send(("phase", phase)),
        lambda step, steps, loss: channel.send(("step", (step, steps, loss))),
    )
    channel.send(("result", result))
    channel.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # nothing is left to do; tearing down torch takes a while


def nothing() -> None:
    """Do nothing: a process that ends shows that the server is up."""
    os._exit(0)


def _die_with_parent() -> None:
    """Never outlive the runner, nor the server, whichever of them goes first and however."""
    lifeline.die_with_parent()
    runner = multiprocessing.parent_process()
    if runner is None:
        return

    def watch() -> None:
        wait([runner.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _redirect(log: str) -> None:
    """Send everything that libraries print, from C too, to the trial's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


def _quiet() -> None:
    """Switch off what is of no use in a log: progress bars, and bitsandbytes' word on each product of LLM.int8."""
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    # that its inputs are cast to float16: a line for each layer and pass, which takes time within the steps
    logging.getLogger("bitsandbytes.autograd").setLevel(logging.ERROR)
