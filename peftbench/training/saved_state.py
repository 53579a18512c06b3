"""The state of training as files, from which another process continues as if nothing had happened.

The files are safetensors and JSON: reading them runs no code. The tensors are the weights that train, the buffers, the
optimizer's state, the best weights so far and the state of the random number generators. They are written a gigabyte at
a time, since the state of full fine-tuning can be larger than the host's memory. What training does not change, the
base model and the data, is made again from the suite by the same seed. Of tensors that are divided among the processes
of a trial, each process writes and reads what it holds.
"""

from __future__ import annotations

import json
import os
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from peftbench.measure import optimizer_state
from peftbench.models import divided
from peftbench.records import StepRow
from peftbench.training import host_step
from peftbench.training.loop import Best, Course, Learner

FORMAT = 1
"""Version of the file; another one is not read."""
_JSON = "state.json"
_SUMS = "sums.json"
"""The CRC-32 of each other file, by name: flipped bits in a tensor are no error of its format."""
_READ_BYTES = 2**20
_SHARD_BYTES = 2**30
"""Bytes of tensors that are copied to the host at once; a larger tensor has a file of its own."""
_KEYS = frozenset(
    {"format", "optimizer", "groups", "method", "scaler", "random", "steps", "spent", "waited", "best", "more"}
)
_TABLES = {"qmap1": "dynamic", "qmap2": "udynamic"}
"""bitsandbytes' names of its code tables, by those in the state of a parameter."""
Tensors = dict[str, torch.Tensor]
_TRANSPOSED = ".T"
"""End of the name of a matrix whose columns lie one after another in memory."""


class Unusable(Exception):
    """A file that training cannot continue from; the message says why."""


def write(folder: Path, learner: Learner, course: Course, more: Mapping[str, Any]) -> None:
    """Write the state after a step, when no gradients exist.

    Args:
        folder: an empty folder.
        learner: the model and its optimizer.
        course: what training has done so far.
        more: anything else that is JSON; ``read`` returns it.

    Raises:
        OSError: if the disk refuses.
    """
    tensors, plain = _optimizer(learner.optimizer)
    tensors |= _places(learner)
    tensors |= {f"best.{i}": p for i, p in enumerate(course.best.weights)}
    tensors["random.cpu"] = torch.get_rng_state()
    if learner.device == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    own, progress = learner.progress.state(learner.model) if learner.progress else ({}, {})
    tensors |= {f"method.{name}": tensor for name, tensor in own.items()}
    everything = {
        "format": FORMAT,
        "optimizer": plain,
        "groups": optimizer_state.settings(learner.optimizer),
        "method": progress,
        "scaler": learner.scaler.state_dict(),
        "random": random.getstate(),
        "steps": [asdict(row) for row in course.rows],
        "spent": course.spent,
        "waited": course.waited,
        "best": [course.best.loss, course.best.step],
        "more": dict(more),
    }
    for number, names in enumerate(_shards(tensors)):
        # each tensor with memory of its own: safetensors refuses tensors that share it, as tied weights do
        copies = {name: divided.own(tensors[name]).to("cpu", copy=True).contiguous() for name in names}
        try:
            save_file(copies, folder / f"{number}.safetensors")
        except SafetensorError as error:  # of a full disk too
            raise OSError(str(error)) from error
    everything["tensors"] = sorted(tensors)
    (folder / _JSON).write_text(json.dumps(everything))
    (folder / _SUMS).write_text(json.dumps(_sums(folder)))
    for path in folder.iterdir():
        with open(path, "rb") as written:
            os.fsync(written.fileno())


def _sums(folder: Path) -> dict[str, int]:
    """Return the CRC-32 of each file of a state but that of the sums."""
    found = {}
    for path in folder.iterdir():
        if path.name != _SUMS:
            found[path.name] = 0
            with open(path, "rb") as file:
                while piece := file.read(_READ_BYTES):
                    found[path.name] = zlib.crc32(piece, found[path.name])
    return found


def _shards(tensors: Tensors) -> Iterator[list[str]]:
    """Yield the names of tensors that are written together."""
    names: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        own = divided.own(tensor).numel() * tensor.element_size()
        if names and size + own > _SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += own
    yield names


def read(folder: Path) -> Saved:
    """Read what ``write`` wrote, without changing anything.

    Raises:
        Unusable: if it is damaged, or of another version.
    """
    tensors: Tensors = {}
    try:
        plain = json.loads((folder / _JSON).read_text())
        for path in sorted(folder.glob("*.safetensors")):
            tensors |= load_file(path)
        told, sums = json.loads((folder / _SUMS).read_text()), _sums(folder)
    except (OSError, SafetensorError, ValueError) as error:
        raise Unusable(f"it cannot be read: {error}") from error
    version = plain.get("format") if isinstance(plain, dict) else None
    if version != FORMAT:
        raise Unusable(f"it has format {version}, this peftbench reads {FORMAT}")
    if not plain.keys() >= _KEYS or sorted(tensors) != plain.get("tensors"):
        raise Unusable("parts of it are missing")
    if not isinstance(told, dict) or told != sums:
        raise Unusable(f"{min(n for n in {*told, *sums} if told.get(n) != sums.get(n))} is not what was written")
    return Saved(tensors, plain)


class Saved:
    """What ``read`` found."""

    def __init__(self, tensors: Tensors, plain: dict[str, Any]) -> None:
        self._tensors, self._plain = tensors, plain
        self.more: dict[str, Any] = plain["more"]
        """What ``write`` was given beside the state."""
        self.steps: int = len(plain["steps"])
        """Number of steps done."""

    def check(self, learner: Learner) -> None:
        """Check that a learner has the tensors that were saved.

        Raises:
            Unusable: if it has others.
        """
        found = _places(learner)
        saved = {name for name in self._tensors if name.startswith(("weight.", "buffer."))}
        other = sorted(saved ^ set(found))
        other += [n for n in found if n in saved and self._tensors[n].shape != found[n].shape]
        other += [n for n in found if n in saved and self._tensors[n].dtype != found[n].dtype]
        if other:
            raise Unusable(f"it is of another model: {', '.join(other[:3])}")

    @torch.no_grad()
    def restore(self, learner: Learner) -> Course:
        """Bring a learner that ``check`` took into the saved state; return the course so far."""
        for name, tensor in _places(learner).items():
            tensor.copy_(self._tensors[name])
        with host_step.on_host(learner, {}):
            _restore_optimizer(learner, self._part("optimizer."), self._plain["optimizer"])
        optimizer_state.set_settings(learner.optimizer, self._plain["groups"])
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
        weights = [divided.like(kept[str(i)], p) for i, p in enumerate(learner.parameters) if kept]
        rows = [StepRow(**row) for row in self._plain["steps"]]
        best = Best(loss, step, weights)
        return Course(rows, self._plain["spent"], self._plain["waited"], best, continued_at=len(rows))

    def _part(self, prefix: str) -> Tensors:
        return {n.removeprefix(prefix): t for n, t in self._tensors.items() if n.startswith(prefix)}


def _places(learner: Learner) -> Tensors:
    """Return what this process holds of the weights that train, and the buffers, by their names in the files."""
    found = {f"weight.{i}": divided.own(p.detach()) for i, p in enumerate(learner.parameters)}
    return found | {f"buffer.{name}": b for name, b in learner.model.named_buffers()}


def _optimizer(optimizer: Any) -> tuple[Tensors, dict[str, Any]]:
    """Return an optimizer's state: tensors as ``optimizer.PLACE.NAME``, and the rest by place and name."""
    tensors: Tensors = {}
    plain: dict[str, Any] = {}
    for place, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer_state.flat(optimizer.state.get(parameter, {})).items():
            if isinstance(value, torch.Tensor) and not value.is_contiguous() and value.mT.is_contiguous():
                tensors[f"optimizer.{place}.{name}{_TRANSPOSED}"] = value.mT  # products depend on the order in memory
            elif isinstance(value, torch.Tensor):
                tensors[f"optimizer.{place}.{name}"] = value
            else:
                plain.setdefault(str(place), {})[name] = value
    return tensors, plain


def _restore_optimizer(learner: Learner, tensors: Tensors, plain: Mapping[str, Mapping[str, Any]]) -> None:
    """Give an optimizer that has taken no step its saved state, without torch's conversion to the weights' type."""
    parameters = list(_parameters(learner.optimizer))
    _make_paged(learner.optimizer, {int(name.partition(".")[0]) for name in tensors})
    _make_objects(learner.optimizer, plain)
    tables: Tensors = {}
    for name, tensor in tensors.items():
        place, _, key = name.partition(".")
        parameter = parameters[int(place)]
        state = learner.optimizer.state[parameter]
        if getattr(state.get(key), "is_paged", False):
            state[key].copy_(tensor)
        elif _on_host(learner, key, tensor):  # the step of torch's optimizers stays where they keep it
            state[key] = tensor
        elif key.endswith(_TRANSPOSED):
            optimizer_state.put(state, key.removesuffix(_TRANSPOSED), tensor.to(parameter.device).mT)
        elif tensor.shape == divided.own(parameter).shape:
            optimizer_state.put(state, key, divided.like(tensor, parameter))
        elif key.startswith("qmap"):  # bitsandbytes' code tables are the same for all parameters, which share one
            state[key] = tables.setdefault(key, tensor.to(parameter.device))
        else:
            optimizer_state.put(state, key, tensor.to(parameter.device))
    for key, table in tables.items():  # state that is made later shares them too
        learner.optimizer.name2qmap[_TABLES[key]] = table
    for place_, values in plain.items():
        for key, value in values.items():
            optimizer_state.put(learner.optimizer.state[parameters[int(place_)]], key, value)


def _make_objects(optimizer: Any, plain: Mapping[str, Mapping[str, Any]]) -> None:
    """Make the empty objects in which an optimizer keeps some of its state, by its ``new_objects``."""
    for place, parameter in enumerate(_parameters(optimizer)):
        for holder in {name.partition(".")[0] for name in plain.get(str(place), {}) if "." in name}:
            optimizer.state[parameter][holder] = optimizer.new_objects[holder]()


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
