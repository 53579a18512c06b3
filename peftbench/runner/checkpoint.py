"""The tuned weights as files: saved, measured, and kept with a card where that is asked for."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from peftbench.methods import METHODS
from peftbench.models.load import parameters_in
from peftbench.records import Job
from peftbench.records.resolve import resolve
from peftbench.runner import adapter_card


def save(job: Job, model: Any, tokenizer: Any) -> dict[str, Any]:
    """Save a tuned model as its method does; return the row's columns about the files.

    The files are gone afterwards, unless the job has a folder for them.
    """
    method = METHODS[job.trial.method]
    with tempfile.TemporaryDirectory(dir=job.scratch, prefix=f".saving-{os.getpid()}-") as scratch:
        folder = Path(scratch) / "adapter"
        resolve(method.save)(model, folder)
        files = list(folder.glob("*.safetensors"))
        facts = {
            "checkpoint_bytes": sum(path.stat().st_size for path in files),
            "stored_parameters": sum(map(parameters_in, files)),
        }
        if job.adapter_folder:
            if method.trains_base and not adapter_card.is_partial(
                job.trial
            ):  # a whole model needs its tokenizer beside it
                tokenizer.save_pretrained(folder)
            adapter_card.write(job, folder, tokenizer)
            adapter_card.install(folder, Path(job.adapter_folder))
    return facts
