"""The state of training as one file, from which another process continues as if nothing had happened.

The file is safetensors: reading it runs no code. Its tensors are the weights that train, the buffers, the optimizer's
state, the best weights so far and the state of the random number generators; what is not a tensor is JSON, kept as the
bytes of a tensor of its own. What training does not change, the base model and the data, is made again from the suite
by the same seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from peftbench.records import StepRow
from peftbench.training.loop import Best, Course, Learner

FORMAT = 1
"""Version of the file; another one is not read."""
_JSON = "json"
Tensors = dict[str, torch.Tensor]


class Unusable(Exception):
    """A file that training cannot continue from; the message says why."""


def write(path: Path, learner: Learner, course: Course, more: Mapping[str, Any]) -> None:
    """Write the state after a step, when no gradients exist.

    Args:
        path: the file, which is overwritten.
        learner: the model and its optimizer.
        course: what training has done so far.
        more: anything else that is JSON; ``read`` returns it.
    """
    tensors, plain = _optimizer(learner.optimizer)
    tensors |= {f"weight.{i}": p.detach() for i, p in enumerate(learner.parameters)}
    tensors |= {f"buffer.{name}": b for name, b in learner.model.named_buffers()}
    tensors |= {f"best.{i}": p for i, p in enumerate(course.best.weights)}
    tensors["random.cpu"] = torch.get_rng_state()
    if learner.device == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    own, progress = learner.progress.state(learner.model) if learner.progress else ({}, {})
    tensors |= {f"method.{name}": tensor for name, tensor in own.items()}
    everything = {
        "format": FORMAT,
        "optimizer": plain,
        "method": progress,
        "scaler": learner.scaler.state_dict(),
        "random": random.getstate(),
        "steps": [asdict(row) for row in course.rows],
        "spent": course.spent,
        "waited": course.waited,
        "best": [course.best.loss, course.best.step],
        "more": dict(more),
    }
    text = json.dumps(everything).encode()
    tensors[_JSON] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    # each tensor with memory of its own: safetensors refuses tensors that share it, as tied weights do
    save_file({name: t.cpu().contiguous().clone() for name, t in tensors.items()}, path)


def read(path: Path) -> Saved:
    """Read a file without changing anything.

    Raises:
        Unusable: if it is damaged, or of another version.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        plain = json.loads(tensors.pop(_JSON).numpy().tobytes())
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise Unusable(f"it cannot be read: {error}") from error
    if plain.get("format") != FORMAT:
        raise Unusable(f"it has format {plain.get('format')}, this peftbench reads {FORMAT}")
    return Saved(tensors, plain)


class Saved:
    """What ``read`` found."""

    def __init__(self, tensors: Tensors, plain: dict[str, Any]) -> None:
        self._tensors, self._plain = tensors, plain
        self.more: dict[str, Any] = plain["more"]
        """What ``write`` was given beside the state."""
        self.steps: int = len(plain["steps"])
        """Number of steps done."""

    @torch.no_grad()
    def restore(self, learner: Learner) -> Course:
        """Bring a learner that was made from the same suite and seed into the saved state; return the course so far.

        Raises:
            Unusable: if it is not the same learner; then nothing has been changed.
        """
        found = {f"weight.{i}": p for i, p in enumerate(learner.parameters)}
        found |= {f"buffer.{name}": b for name, b in learner.model.named_buffers()}
        self._check(found)
        for name, tensor in found.items():
            tensor.copy_(self._tensors[name])
        _restore_optimizer(learner, self._part("optimizer."), self._plain["optimizer"])
        if learner.progress:
            learner.progress.restore(learner.model, self._part("method."), self._plain["method"])
        learner.scaler.load_state_dict(self._plain["scaler"])
        version, numbers, gauss = self._plain["random"]
        random.setstate((version, tuple(numbers), gauss))
        torch.set_rng_state(self._tensors["random.cpu"])
        if learner.device == "cuda":
            torch.cuda.set_rng_state(self._tensors["random.cuda"])
        loss, step = self._plain["best"]
        kept = self._part("best.")
        weights = [kept[str(i)].to(learner.device) for i in range(len(kept))]
        rows = [StepRow(**row) for row in self._plain["steps"]]
        return Course(rows, self._plain["spent"], self._plain["waited"], Best(loss, step, weights))

    def _check(self, found: Mapping[str, torch.Tensor]) -> None:
        saved = {name for name in self._tensors if name.startswith(("weight.", "buffer."))}
        other = sorted(saved ^ set(found))
        other += [n for n in found if n in saved and self._tensors[n].shape != found[n].shape]
        other += [n for n in found if n in saved and self._tensors[n].dtype != found[n].dtype]
        if other:
            raise Unusable(f"it is of another model: {', '.join(other[:3])}")

    def _part(self, prefix: str) -> Tensors:
        return {n.removeprefix(prefix): t for n, t in self._tensors.items() if n.startswith(prefix)}


def _optimizer(optimizer: Any) -> tuple[Tensors, dict[str, Any]]:
    """Return an optimizer's state: tensors as ``optimizer.PLACE.NAME``, and the rest by place and name."""
    tensors: Tensors = {}
    plain: dict[str, Any] = {}
    for place, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{place}.{name}"] = value
            else:
                plain.setdefault(str(place), {})[name] = value
    return tensors, plain


def _restore_optimizer(learner: Learner, tensors: Tensors, plain: Mapping[str, Mapping[str, Any]]) -> None:
    """Give an optimizer that has taken no step its saved state, without torch's conversion to the weights' type."""
    parameters = list(_parameters(learner.optimizer))
    _make_paged(learner.optimizer, {int(name.partition(".")[0]) for name in tensors})
    for name, tensor in tensors.items():
        place, _, key = name.partition(".")
        state = learner.optimizer.state[parameters[int(place)]]
        if getattr(state.get(key), "is_paged", False):
            state[key].copy_(tensor)
        else:
            # the step of torch's optimizers stays where they keep it
            state[key] = tensor if _on_host(learner, key, tensor) else tensor.to(learner.device)
    for place_, values in plain.items():
        learner.optimizer.state[parameters[int(place_)]].update(values)


def _on_host(learner: Learner, key: str, tensor: torch.Tensor) -> bool:
    fused = any(group.get("fused") or group.get("capturable") for group in learner.optimizer.param_groups)
    return key == "step" and tensor.ndim == 0 and not fused


def _make_paged(optimizer: Any, places: set[int]) -> None:
    """Have bitsandbytes make the state of its paged optimizers, whose memory only it can allocate."""
    if not getattr(optimizer, "is_paged", False):
        return
    optimizer.check_overrides()
    place = 0
    for number, group in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(group["params"]):
            if place in places:
                optimizer.init_state(group, parameter, number, index)
            place += 1
    optimizer.initialized = True


def _parameters(optimizer: Any) -> Iterable[Any]:
    for group in optimizer.param_groups:
        yield from group["params"]
