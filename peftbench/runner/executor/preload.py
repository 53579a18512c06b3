"""Imported once by the process server, so that a trial's process starts with the libraries already imported.

The server must never touch CUDA and never run a parallel region. Importing bitsandbytes asks the CUDA driver for the
device's capabilities. So if there is a GPU, the trial's own process imports bitsandbytes and everything that needs it.
"""

from __future__ import annotations

from peftbench import interrupts
from peftbench.runner.executor import lifeline

interrupts.ignore()  # the runner handles them, and this server dies with it
lifeline.die_with_parent(lifeline.runner())  # before the imports, which take seconds
lifeline.own_server()

import contextlib
import gc
import importlib
import logging
import os
import threading

from tqdm import tqdm

from peftbench.measure import device

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SAFE = (
    "torch",
    "transformers",
    "datasets",
    "pandas",
    "sacrebleu",
    "rouge_score.rouge_scorer",
    "transformers.models.llama.modeling_llama",  # first used after the fork; llama is the most common architecture
    "transformers.models.auto.modeling_auto",
    "lm_eval.evaluator",
    "peftbench.training.loop",
    "peftbench.models.load",
)
"""Modules that never touch CUDA, nor import what does."""
IMPORT_BITSANDBYTES = (
    "peft",
    "bitsandbytes",
    "lm_eval.models.huggingface",
    "peftbench.runner.trial",
)
"""Modules that import bitsandbytes, directly or through peft."""

LAZY = ("transformers.integrations.bitsandbytes",)
"""Modules that transformers imports only on first use."""


def load(names: tuple[str, ...]) -> None:
    """Import modules without the advice that some of them print during their import.

    If a module fails to import, the trials' processes import it again and fail with a row and a log.
    """
    logging.disable(logging.WARNING)
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    logging.disable(logging.NOTSET)


load(SAFE if device.may_touch_cuda() else SAFE + IMPORT_BITSANDBYTES + LAZY)
tqdm.set_lock(threading.RLock())  # tqdm's default is a semaphore that a killed process leaks
gc.freeze()  # a collection in a trial's process would look at the libraries' objects, and copy the pages they are in
