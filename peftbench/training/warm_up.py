"""Compiling layers before the first training step, for the batches that will come (``train.compile``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from peftbench.errors import Unsupported
from peftbench.models import head
from peftbench.records import failures
from peftbench.records.columns.work import WorkColumns
from peftbench.training import compiling, offloading, several_optimizers
from peftbench.training.batches import Batch, micro_batches
from peftbench.training.encoded import Encoded
from peftbench.training.loop import Learner, batch_loss


def compile_layers(learner: Learner, step_examples: Sequence[Sequence[Encoded]], few: Batch | None = None) -> None:
    """Run a forward and a backward pass of a batch of each kind, in which its code is compiled.

    Weights, optimizer and random numbers stay as they are. The order is that of the batches, so that a trial that
    continues compiles the same code.

    Args:
        learner: ready to train; ``compiled`` is not None.
        step_examples: the examples of each step.
        few: another batch, which is checked before training.

    Raises:
        Unsupported: if torch cannot compile the layers.
    """
    assert learner.compiled is not None
    every = (b for step in step_examples for b in micro_batches(step, learner.training, learner.pad_id))
    learner.model.train()
    for batch in _kinds(every if few is None else (*every, few)):
        try:
            _pass(learner, batch.to(learner.device))
        except Unsupported:
            raise
        except Exception as error:
            if failures.out_of_memory(error) or not compiling.is_refusal(error):
                raise
            raise Unsupported(
                f"compile: {learner.training.compile}: torch.compile does not run the decoder layers of "
                f"{type(head.base_of(learner.model)).__name__} with this method as one graph: {failures.words(error)}; "
                "use compile: none"
            ) from error
        finally:
            learner.optimizer.zero_grad(set_to_none=True)
    if compiling.graphs() == learner.compiled.graphs_before:
        raise RuntimeError("torch compiled nothing of the decoder layers")


def _pass(learner: Learner, batch: Batch) -> None:
    devices = [torch.cuda.current_device()] if learner.device == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        several_optimizers.dropping(learner.optimizer, learner.parameters),
        offloading.saved(learner),
        compiling.running(learner.compiled),
    ):
        learner.parallel.work(learner, [batch], batch_loss)


def _kinds(batches: Iterable[Batch]) -> list[Batch]:
    """Return the batches that need compiled code of their own, the first of each kind.

    Of a size, only whether it is 1 matters. With padding, or with several examples in a row, attention has a mask.
    """
    found: dict[Any, Batch] = {}
    for batch in batches:
        shapes = tuple((name, *(size == 1 for size in value.shape)) for name, value in batch.inputs.items())
        packed = batch.positions is not None and bool((batch.positions[:, 1:] == 0).any())
        found.setdefault((shapes, packed, bool((batch.mask == 0).any())), batch)
    return list(found.values())


def columns(learner: Learner) -> WorkColumns:
    """Return what was compiled, as columns of the trial's row; none if nothing was to be compiled."""
    found = learner.compiled
    if found is None:
        return WorkColumns()
    return WorkColumns(compiled_graphs=compiling.graphs() - found.graphs_before, compiling_steps=found.in_steps)
