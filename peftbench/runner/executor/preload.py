"""Imported once by the process server, so that a trial's process starts with the libraries in place.

The server must never touch CUDA and never run a parallel region. Importing bitsandbytes asks the CUDA driver for the
device's capabilities, so where there is a GPU it, and whatever imports it, is left to the trial's own process.
"""

from __future__ import annotations

from peftbench.runner.executor import lifeline

lifeline.die_with_parent(lifeline.runner())  # before the imports: in their seconds the server would not notice

import contextlib
import importlib
import logging
import os
import threading

from tqdm import tqdm

from peftbench.measure import device

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SAFE = ("torch", "transformers", "datasets", "pandas", "sacrebleu", "rouge_score.rouge_scorer")
"""Never touch CUDA."""
IMPORT_BITSANDBYTES = (
    "peft",
    "bitsandbytes",
    "lm_eval.evaluator",
    "lm_eval.models.huggingface",
    "peftbench.runner.trial",
)
"""Import bitsandbytes, at once or by way of peft."""

LAZY = (
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "transformers.integrations.bitsandbytes",
)
"""Imported by transformers only when asked for; the model's is the commonest architecture."""


def load(names: tuple[str, ...]) -> None:
    """Import modules, without the advice that some of them print while they are imported.

    One that fails is left to the trials' processes, which fail with its error in a row and a log.
    """
    logging.disable(logging.WARNING)
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    logging.disable(logging.NOTSET)


load(SAFE if device.may_touch_cuda() else SAFE + IMPORT_BITSANDBYTES + LAZY)
tqdm.set_lock(threading.RLock())  # its own is a semaphore that a killed process would leak
