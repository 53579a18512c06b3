"""The training loops that peftbench's is compared with. They take its model, data, method and optimizer."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peftbench.records import Job

LOOPS = ("bare loop", "Trainer")


def measure(job: Job, loop: str) -> dict[str, Any]:
    """Train for the steps of a job in one of the loops.

    Returns:
        The seconds and the loss of each step, the tokens of a steady second, the allocator's peaks, and the kernels of
        attention.
    """
    import torch

    trial = job.trial
    torch.set_num_threads(trial.threads)
    torch.manual_seed(0)
    model, steps, parameters, precision = _made(job)
    cuda = trial.device == "cuda"
    wait = torch.cuda.synchronize if cuda else lambda: None
    kernels = _attention(model, steps[0], precision, trial.device)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    run = {"bare loop": _bare, "Trainer": _trainer}[loop]
    seconds, losses = run(model, steps, parameters, trial, precision, wait)
    untimed = trial.training.untimed_steps  # type: ignore[union-attr]
    steady = seconds[untimed:]
    tokens = [batch.ids.numel() for batch in steps[untimed:]]
    return {
        "loop": loop,
        "seconds": seconds,
        "losses": losses,
        "tokens_per_second": sum(tokens) / sum(steady) if steady else None,
        "median_step_seconds": statistics.median(steady) if steady else None,
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "reserved_bytes": torch.cuda.max_memory_reserved() if cuda else None,
        "attention_kernels": kernels,
    }


def _made(job: Job) -> tuple[Any, list[Any], list[Any], Any]:
    """Return the model with the method attached, the batch of each step, the trainable parameters, the precision."""
    from peftbench.methods import method_of
    from peftbench.models.load import cast_trainable, load
    from peftbench.models.precision import effective
    from peftbench.records.resolve import resolve
    from peftbench.training import batches

    trial = job.trial
    method, precision = method_of(trial.method, trial.options), effective(trial.precision, trial.options)
    loaded = load(
        Path(job.base_folder),
        precision,
        method.trains_base,
        trial.options.get("double_quantization", True),
        device=trial.device,
        trust_remote_code=False,
        random_weights=trial.base.random_weights,
    )
    data = batches.of_trial(trial, loaded.tokenizer)
    pad = loaded.tokenizer.pad_token_id
    model = resolve(method.attach)(loaded.model, trial.rank, trial.options)
    parameters = cast_trainable(model, precision)
    return model, [batches.collate(examples, pad) for examples in data.step_examples], parameters, precision


def _attention(model: Any, batch: Any, precision: Any, device: str) -> str:
    """Return the kernels of attention in a forward and backward pass, as a trial's row has them."""
    from peftbench.models.load import autocast
    from peftbench.training.flops import Products

    on = batch.to(device)
    model.train()
    with Products() as products, autocast(precision, device):
        model(input_ids=on.ids, attention_mask=on.mask, labels=on.labels).loss.backward()
    model.zero_grad(set_to_none=True)
    return ", ".join(sorted(products.attention)) or "eager"


def _bare(
    model: Any, steps: Sequence[Any], parameters: Sequence[Any], trial: Any, precision: Any, wait: Callable[[], None]
) -> tuple[list[float], list[float]]:
    """Train in the shortest loop that one would write by hand; the device is waited for once a step, for the loss."""
    import torch

    from peftbench.models.load import autocast
    from peftbench.training import optimizers

    optimizer = optimizers.make(parameters, trial.training)
    seconds, losses = [], []
    model.train()
    wait()
    for batch in steps:
        start = time.perf_counter()
        on = batch.to(trial.device)
        with autocast(precision, trial.device):
            loss = model(input_ids=on.ids, attention_mask=on.mask, labels=on.labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        wait()
        seconds.append(time.perf_counter() - start)
    return seconds, losses


def _trainer(
    model: Any, steps: Sequence[Any], parameters: Sequence[Any], trial: Any, precision: Any, wait: Callable[[], None]
) -> tuple[list[float], list[float]]:
    """Train with transformers' ``Trainer`` as a user would, but for saving and logging."""
    from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

    ends: list[float] = []

    class Ends(TrainerCallback):
        """Notes when each step ends."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            wait()
            ends.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait()
            ends.append(time.perf_counter())

    rows = [
        {"input_ids": ids, "attention_mask": mask, "labels": labels}
        for batch in steps
        for ids, mask, labels in zip(batch.ids, batch.mask, batch.labels, strict=True)
    ]
    training = trial.training
    if trial.device == "cuda":  # by number, which accelerate compares with its own device
        model.hf_device_map = {"": 0}
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=training.micro_batch_size,
            max_steps=len(steps),
            learning_rate=training.learning_rate,
            max_grad_norm=1.0,
            bf16=precision.autocast == "bfloat16",
            optim="paged_adamw_32bit" if training.optimizer == "paged_adamw" else "adamw_torch_fused",
            use_cpu=trial.device == "cpu",
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=trial.device == "cuda",
        )
        made = Trainer(
            model=model,
            args=settings,
            train_dataset=rows,
            data_collator=default_data_collator,
            callbacks=[Ends()],
        )
        made.train()
    losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    return [after - before for before, after in itertools.pairwise(ends)], losses
