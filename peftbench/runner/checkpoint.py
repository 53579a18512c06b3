"""The tuned weights as files: saved, measured, and kept with an adapter card if requested."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from peftbench.measure import machine
from peftbench.methods import METHODS
from peftbench.models import head
from peftbench.models.load import parameters_in
from peftbench.records import Job
from peftbench.records.columns.size import SizeColumns
from peftbench.records.resolve import resolve
from peftbench.runner import adapter_card


def save(job: Job, model: Any, tokenizer: Any) -> SizeColumns:
    """Save a tuned model with its method's own function; return the row's columns about the files.

    The files are deleted afterwards unless the job has a folder for them.
    """
    method = METHODS[job.trial.method]
    with tempfile.TemporaryDirectory(dir=job.scratch, prefix=f".saving-{machine.process_name()}-") as scratch:
        folder = Path(scratch) / "adapter"
        resolve(method.save)(model, folder)
        if not method.trains_base:
            head.save(model, folder)
        files = list(folder.glob("*.safetensors"))
        columns = SizeColumns(
            checkpoint_bytes=sum(path.stat().st_size for path in files),
            stored_parameters=sum(map(parameters_in, files)),
        )
        if job.adapter_folder:
            if method.trains_base and not adapter_card.is_partial(job.trial):  # a whole model needs its tokenizer
                tokenizer.save_pretrained(folder)
            adapter_card.write(job, folder, tokenizer)
            adapter_card.install(folder, Path(job.adapter_folder))
    return columns
