"""Pipeline parallelism: every process holds some of the decoder layers, and a step's micro-batches pass through all.

Sending and the order of forward and backward passes are ``torch.distributed.pipelining``'s: 1F1B if a step has at least
as many micro-batches as there are stages, else GPipe. The loss of a micro-batch is its sum over tokens divided by the
loss tokens of the whole step, so gradients add up to those of one process. All processes draw the same batches, so
only hidden states and their gradients are sent.

References:
    Huang et al. 2019, arXiv:1811.06965 (GPipe); Narayanan et al. 2019, SOSP, section 3.2 (1F1B).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from peftbench.errors import Unsupported
from peftbench.models.precision import Precision
from peftbench.training.batches import Batch
from peftbench.training.losses import of_logits
from peftbench.training.parallel import stages
from peftbench.training.parallel.peers import Peers

if TYPE_CHECKING:
    from peftbench.training.loop import Learner

_Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Pipe:
    """A model cut into stages, as the process that holds one of them sees it."""

    model: Any
    peers: Peers
    stage: stages.Stage
    places: list[stages.Place]
    held: dict[nn.Parameter, frozenset[int]]
    """Every parameter of the whole model, in order, with the stages that hold it."""
    dtypes: list[torch.dtype]
    """Of what each stage gives."""
    device: str
    shapes: dict[nn.Parameter, torch.Size] = field(default_factory=dict)
    """Those of the parameters that this process does not hold."""
    frozen: list[nn.Parameter] = field(default_factory=list)
    """Parameters that train in another process."""

    def counted(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Return the parameters whose gradient this process counts: of several stages with it, the first."""
        return [p for p in parameters if min(self.held[p]) == self.peers.index]

    def gradients(self, learner: Learner, batches: Sequence[Batch], loss_tokens: int) -> torch.Tensor:
        """Run the passes of some micro-batches; return their loss in every process, in nats per token of the step.

        Args:
            learner: the model and its optimizer.
            batches: the micro-batches, of one shape.
            loss_tokens: the number of tokens in the loss of the whole step.
        """
        losses: list[torch.Tensor] = []

        def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            loss = of_logits(logits, Batch(labels, labels, labels)) / loss_tokens
            losses.append(loss.detach())
            scaled: torch.Tensor = learner.scaler.scale(loss)
            return scaled

        self._run(batches, loss_of, True)
        self._add_tied()
        return self._told(losses)

    @torch.no_grad()
    def evaluated_loss(self, batch: Batch) -> float:
        """Return the loss of a batch in every process, summed over its tokens, in nats; nothing is trained."""
        losses: list[torch.Tensor] = []

        def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            losses.append(of_logits(logits, Batch(labels, labels, labels)))
            return losses[-1]

        self._run([batch], loss_of, False)
        return float(self._told(losses))

    def join(self) -> None:
        """Make the model whole again in every process."""
        for parameter, shape in self.shapes.items():
            parameter.data = torch.empty(shape, dtype=parameter.dtype, device=self.device)
        for parameter, holders in self.held.items():
            parameter.grad = None
            if len(holders) < self.peers.count:
                self.peers.send_all(parameter.data, min(holders))
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        stages.put_back(self.places)

    def _run(self, alike: Sequence[Batch], loss_of: _Loss, trains: bool) -> None:
        """Run the schedule of a step, or its forward passes alone."""
        index, count = self.peers.index, self.peers.count
        given = self._metadata(*alike[0].ids.shape)
        stage = PipelineStage(self.stage, index, count, torch.device(self.device), *given, group=self.peers.group)
        kind = Schedule1F1B if trains and len(alike) >= count else ScheduleGPipe
        schedule = kind(stage, len(alike), loss_fn=loss_of, scale_grads=False)
        run: Any = schedule.step if trains else schedule.eval
        whole = {name: torch.cat([b.inputs[name] for b in alike]) for name in alike[0].inputs}
        ids = whole.pop("input_ids")
        target = torch.cat([b.labels for b in alike]) if stage.is_last else None
        run(*((ids,) if stage.is_first else ()), target=target, return_outputs=False, **whole)

    def _metadata(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tensors without memory, of the shape and dtype of what enters and leaves the stage."""
        config, index = self.model.config.get_text_config(), self.peers.index

        def given(stage: int) -> torch.Tensor:
            width = config.vocab_size if stage == self.peers.count - 1 else config.hidden_size
            return torch.empty(rows, length, width, dtype=self.dtypes[stage], device="meta", requires_grad=True)

        ids = torch.empty(rows, length, dtype=torch.long, device="meta")
        return (given(index - 1) if index else ids), given(index)

    def _add_tied(self) -> None:
        """Add up the gradients of weights that several stages hold; all of these then take the same step."""
        for parameter, holders in self.held.items():
            if len(holders) == 1 or not parameter.requires_grad or self.peers.index not in holders:
                continue
            assert parameter.grad is not None
            first, *others = sorted(holders)
            group = self.peers.group
            if self.peers.index != first:
                distributed.send(parameter.grad, group=group, group_dst=first)
                distributed.recv(parameter.grad, group=group, group_src=first)
                continue
            more = torch.empty_like(parameter.grad)
            for other in others:
                distributed.recv(more, group=group, group_src=other)
                parameter.grad += more
            for other in others:
                distributed.send(parameter.grad, group=group, group_dst=other)

    def _told(self, losses: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the sum of losses that only the last stage knows."""
        total = torch.zeros((), device=self.device)
        for loss in losses:
            total += loss
        self.peers.send_all(total, self.peers.count - 1)
        return total


def cut(model: Any, peers: Peers, precision: Precision, device: str) -> Pipe:
    """Cut a model with its method into stages and free what this process does not hold.

    Args:
        model: the whole model, with the method attached, the same in every process.
        peers: the processes, one for each stage.
        precision: the precision of its forward pass.
        device: where the model is.

    Raises:
        Unsupported: if the model cannot be cut, or a stage would have nothing to train.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    places = stages.places(base, peers.count)
    held = stages.holders(model, places, peers.count)
    for stage in range(peers.count):
        if not any(p.requires_grad and stage in holders for p, holders in held.items()):
            raise Unsupported(f"pp: stage {stage + 1} of {peers.count} has nothing that trains")
    dtypes = stages.dtypes(model, places, peers.count, precision, device)
    part = stages.Stage(model, peers.index == 0, precision, device)
    made = Pipe(model, peers, part, places, held, dtypes, device)
    stages.take_out(places, peers.index)
    for parameter, holders in held.items():
        if peers.index not in holders:
            made.shapes[parameter] = parameter.shape
            parameter.data = torch.empty(0, dtype=parameter.dtype, device=device)
            if parameter.requires_grad:
                made.frozen.append(parameter)
                parameter.requires_grad_(False)
    return made
