"""Our training loop against a bare PyTorch loop and ``transformers.Trainer``: the same batches, a step each in turns.

The bare loop does the work that a step is: forward, loss, backward, clipping, optimizer, and it reads loss and
gradient norm. Its batches are made before it begins; ours makes them, counts tokens, reads the clock and how long
threads waited. Trainer makes its batches in its own data loader with our collation and writes no log. All three have
the same method on the same base model, with the same optimizer and, for QLoRA, under the same autocast.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from peftbench.measure.clock import Clock
from peftbench.models.load import autocast
from peftbench.training import batches as training_batches
from peftbench.training import loop as training_loop
from peftbench.training import optimizers
from tests.benchmarks import subjects

ROUNDS, WARM_UP = 40, 3
"""Turns that count, each of one step of each loop, and turns before them."""
CLOSE = 1e-4
"""Relative difference of losses below which two loops did the same work."""
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def tensors(examples: Any, pad_id: int) -> Tensors:
    batch = training_batches.collate(examples, pad_id)
    return batch.ids, batch.mask, batch.labels


class Bare:
    """A loop as a short script has it."""

    def __init__(self, learner: training_loop.Learner, steps: list) -> None:
        self.model, self.parameters = learner.model.train(), list(learner.parameters)
        self.optimizer = optimizers.make(self.parameters, learner.training)
        self.batches = [tensors(examples, learner.pad_id) for examples in steps]
        self.autocast = lambda: autocast(learner.precision, "cpu") if learner.precision.autocast else nullcontext()
        self.losses: list[float] = []

    def step(self, index: int) -> None:
        ids, mask, labels = self.batches[index]
        with self.autocast():
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        wanted = labels[:, 1:].flatten()
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), wanted, ignore_index=-100)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss.item())
        norm.item()


class Ours:
    """``training.loop.train``, a step at a time."""

    def __init__(self, learner: training_loop.Learner, steps: list) -> None:
        self.learner, self.steps, self.losses = learner, steps, []

    def step(self, index: int) -> None:
        trace = training_loop.train(self.learner, [self.steps[index]], [], Clock(), lambda *_: None)
        self.losses.append(trace.steps[0].loss)


class Turns(TrainerCallback):
    """Takes a step of each other loop after each of Trainer's, and times all of them."""

    def __init__(self, others: dict[str, Any]) -> None:
        self.others = others
        self.seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ("Trainer", *others)}
        self.begun: tuple[float, float] | None = None

    def on_step_end(self, args, state, control, **_) -> None:
        """End Trainer's step, which began at the end of this function: its batch is a part of it."""
        now, index = subjects.clocks(), state.global_step - 1
        if self.begun is not None:
            self.seconds["Trainer"].append((now[0] - self.begun[0], now[1] - self.begun[1]))
        for name in sorted(self.others, reverse=bool(index % 2)):
            taken = subjects.timed(lambda name=name: self.others[name].step(index))
            if self.begun is not None:
                self.seconds[name].append(taken)
        self.begun = subjects.clocks()


class InOrder(Trainer):
    """Trainer on batches in the order of the data, with the losses of its steps."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.losses: list[torch.Tensor] = []

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    def training_step(self, *arguments: Any, **settings: Any) -> torch.Tensor:
        """Keep the loss."""
        loss = super().training_step(*arguments, **settings)
        self.losses.append(loss)
        return loss


def trainer(learner: training_loop.Learner, steps: list, turns: Turns, folder: Path) -> InOrder:
    """Return Trainer for a method that is attached already, with what its users have: peft, AdamW, clipping."""

    def collated(rows: Any) -> dict[str, torch.Tensor]:
        return dict(zip(("input_ids", "attention_mask", "labels"), tensors(rows, learner.pad_id), strict=True))

    settings = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=subjects.BATCH,
        max_steps=len(steps),
        learning_rate=learner.training.learning_rate,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=learner.precision.autocast == "bfloat16",
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    rows = [example for examples in steps for example in examples]
    return InOrder(model=learner.model, args=settings, train_dataset=rows, data_collator=collated, callbacks=[turns])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return subjects.base(tmp_path_factory.mktemp("bases") / "made")


@pytest.mark.parametrize("method", list(subjects.PRECISION))
def bench_a_training_step(method, folder, benchmark, record_line, tmp_path):
    steps = subjects.plan(WARM_UP + ROUNDS + 1)
    bare, ours = Bare(subjects.learner(folder, method), steps), Ours(subjects.learner(folder, method), steps)
    turns = Turns({"bare": bare, "ours": ours})
    theirs = trainer(subjects.learner(folder, method), steps, turns, tmp_path)
    benchmark.pedantic(theirs.train, rounds=1)
    assert ours.losses == pytest.approx(bare.losses, rel=CLOSE)
    assert ours.losses == pytest.approx([float(loss) for loss in theirs.losses], rel=CLOSE)
    for other, name in (("bare", "bare PyTorch loop"), ("Trainer", "transformers.Trainer")):
        for kind, column in (("wall time", 0), ("CPU time", 1)):
            pairs = [
                (theirs_took[column], ours_took[column])
                for theirs_took, ours_took in zip(turns.seconds[other], turns.seconds["ours"], strict=True)
            ][WARM_UP:]
            record_line(f"training step, {method}: our loop / {name}, {kind}", pairs, "ratio", "at most 1.03")
