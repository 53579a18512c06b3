"""Run a function in several forked processes that have joined a process group, and leave none behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

SECONDS = 240
"""How long to wait for the ranks: many of them on few cores take their time."""


def _serve(work: Callable[..., Any], rank: int, count: int, meeting: Path, told: Any, arguments: Any) -> None:
    torch.set_num_threads(1)  # a forked process must not enter a parallel region
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
        told.send((work(rank, *arguments), None))
        distributed.barrier()
    except BaseException:
        told.send((None, traceback.format_exc()))
    os._exit(0)


def on_ranks(count: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what ``work(rank, *arguments)`` returns on each rank; what it raises fails the test."""
    context = multiprocessing.get_context("fork")
    pipes, processes = [], []
    try:
        for rank in range(count):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_serve, args=(work, rank, count, folder / "meeting", theirs, arguments))
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        found = []
        for rank, pipe in enumerate(pipes):
            assert pipe.poll(SECONDS), f"rank {rank} of {count} is still busy"
            result, failure = pipe.recv()
            assert failure is None, f"rank {rank} of {count}: {failure}"
            found.append(result)
        for process in processes:
            process.join(SECONDS)
        return found
    finally:
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
            process.join()
