"""Run trials under a hard memory cap equal to the prediction: ``python -m tools.validation.memory_caps --trials 300``.

A user who is told that a trial needs n bytes wants to know how often it then runs in n bytes, and how much less would
have been enough. So methods and precisions are drawn at random, and for each of them models and batches. Each trial
loads its base, attaches its method and takes two training steps in a process of its own, inside a control group of the
kernel whose limit is

    the predicted peak of tensors, in loading or training + what is not tensors

and the kernel kills it if it takes more. What is not tensors (Python's objects, pages of libraries) is measured apart:
as the largest memory of a process minus its tensors' peak, for each method and precision that was drawn, in trials of a
plain shape and of one twice as deep that are not among those counted: it grows with the number of layers, which have
Python's objects each. The C library gives freed blocks above 16 KiB back at once; by
default it keeps those below 32 MiB, up to twice the tensors' peak. Reported are the share that runs to the end, and by
how much the cap exceeds the largest memory that the process took. Shi et al. 2025 (arXiv:2510.21048) let jobs run
under estimates on GPUs in the same way.

Needs a kernel with control groups and the right to make one. ``--write`` keeps the results in
``results/reference/memory_caps.json``, from which ``tools/docs/reference.py`` renews ``docs/planner.md``.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from peftbench.errors import Unsupported
from peftbench.methods import method_of
from peftbench.models import load
from peftbench.models.precision import PRECISIONS, effective
from peftbench.planner.predict import predict
from peftbench.planner.records import Pass
from peftbench.records import Trial
from peftbench.records.resolve import resolve
from peftbench.training import batches, loop
from tests.support import tiny_base, trials
from tools.validation import planner_accuracy
from tools.validation.chaos import control_group

PATH = Path(__file__).resolve().parents[2] / "results" / "reference" / "memory_caps.json"
_STEPS = 2
"""The optimizer has its state from the second on."""
_SLOW = "fp16"
"""Left out: CPUs have no kernels for its products, which take minutes."""
_MMAP_THRESHOLD = -3
"""mallopt's number of the size from which a block is given back as soon as it is freed."""
_SMALL = 16 * 2**10
"""That size here, in bytes: with the library's 128 KiB, gaps in its heap take up to 3 MB, depending on the batch."""
PLAIN, DEEPER = "plain", "plain, twice as deep"
SHAPES: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "wide MLP": {"intermediate_size": 4096},
    "one key-value head": {"num_key_value_heads": 1},
    "vocabulary of 50,304": {"vocab_size": 50_304, "num_hidden_layers": 3},
    "vocabulary of 128,256": {"vocab_size": 128_256, "num_hidden_layers": 2, "hidden_size": 256},
    "deep and narrow": {"num_hidden_layers": 24, "hidden_size": 128, "intermediate_size": 344},
    "experts": {"num_local_experts": 4, "num_hidden_layers": 3, "intermediate_size": 688},
}
"""Kinds of shapes that are drawn: what differs from a Llama of seven layers and a hidden size of 512.

Embeddings are tied."""
_DEEP = {"num_hidden_layers": 14}
_LLAMA = {"vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 7}
_CALIBRATION = ((PLAIN, 2, 32), (PLAIN, 4, 128), (DEEPER, 2, 32))
"""Shapes and batches by which what is not tensors is measured."""
MARGINS = (0.0, 0.05, 0.1, 0.2)
"""Shares by which a cap may be raised."""


@dataclass(frozen=True)
class Draw:
    """What one trial is."""

    shape: str
    method: str
    precision: str
    checkpointing: bool
    examples: int
    tokens: int


@dataclass(frozen=True)
class Capped:
    """How one trial ended under its cap."""

    shape: str
    method: str
    precision: str
    checkpointing: bool
    examples: int
    tokens: int
    predicted_bytes: int
    """Peak of tensors."""
    beside_bytes: int
    """What is not tensors, measured apart."""
    ended_ok: bool
    taken_bytes: int
    """Largest memory of the process; of one that was killed, when it runs without a cap."""

    @property
    def excess(self) -> float:
        """By which share the cap exceeds what the process took."""
        return (self.predicted_bytes + self.beside_bytes) / self.taken_bytes - 1


Kind = tuple[str, str, bool]
"""Method, precision, and whether with gradient checkpointing."""


def kinds(seed: int, count: int) -> list[Kind]:
    """Return kinds of trials, drawn at random."""
    cells = [cell for cell in planner_accuracy.settings() if cell[1] != _SLOW]
    return random.Random(seed).sample(cells, min(count, len(cells)))


def draws(seed: int, worker: int, own: Sequence[Kind]) -> Iterator[Draw]:
    """Yield trials at random without end: each of the kinds and each shape is equally likely."""
    rng = random.Random(f"{seed} {worker}")
    while True:
        method, precision, checkpointing = rng.choice(own)
        shape = rng.choice([*SHAPES])
        yield Draw(shape, method, precision, checkpointing, rng.choice((1, 2, 4)), rng.choice((32, 64, 96, 128, 192)))


def base(shape: str, place: Path) -> Path:
    """Return the folder of a shape's config and tokenizer; weights are drawn when it is loaded."""
    from transformers import LlamaConfig, MixtralConfig

    made = place / shape.replace(" ", "-").replace(",", "")
    if not made.exists():
        common = {"num_attention_heads": 8, "max_position_embeddings": 512, "tie_word_embeddings": True}
        kind = MixtralConfig if shape == "experts" else LlamaConfig
        architecture = "MixtralForCausalLM" if shape == "experts" else "LlamaForCausalLM"
        kind(
            **{**common, **_LLAMA, **(_DEEP if shape == DEEPER else SHAPES[shape])}, architectures=[architecture]
        ).save_pretrained(made)
        tiny_base.tokenizer().save_pretrained(made)
    return made


def train(trial: Trial, folder: Path, shapes: list[Pass], group: str, said: Any) -> None:
    """Enter a control group, load the base, attach the method and take training steps; say when it is done."""
    gc.freeze()  # a collection would write to every object that this process has in common with its parent
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _SMALL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress bars and warnings
    Path(group, "cgroup.procs").write_text("0")  # this process
    torch.set_num_threads(1)
    method, precision = method_of(trial.method, trial.options), effective(trial.precision, trial.options)
    double = trial.options.get("double_quantization", True)
    where = {"device": "cpu", "trust_remote_code": False, "random_weights": True}
    loaded = load.load(folder, precision, method.trains_base, double, **where)
    tuned = resolve(method.attach)(loaded.model, trial.rank, trial.options)
    parameters = load.cast_trainable(tuned, precision)
    assert trial.training is not None
    learner = loop.learner(
        tuned, parameters, trial.training, precision=precision, device="cpu", pad_id=1, virtual_tokens=0
    )
    tuned.train()
    for _ in range(_STEPS):
        loop.step(learner, [batches.collate(planner_accuracy.examples(shapes), 1)], 1e-4)
    said.send("done")


def taken(trial: Trial, folder: Path, shapes: list[Pass], limit: int) -> tuple[bool, int]:
    """Return whether a trial ran to its end under a limit in bytes, and the largest memory of its process."""
    context = multiprocessing.get_context("fork")
    with control_group.limited_to(limit) as group:
        if group is None:
            raise SystemExit("this user may not make control groups, which caps need")
        ours, theirs = context.Pipe()
        process = context.Process(target=train, args=(trial, folder, shapes, str(group), theirs))
        process.start()
        theirs.close()
        process.join()
        done = process.exitcode == 0 and ours.poll() and ours.recv() == "done"
        if process.exitcode not in (0, -9):
            raise RuntimeError(f"{trial.cell} ended with exit code {process.exitcode}")
        return done, control_group.largest_bytes(group)


def predicted(trial: Trial, folder: Path, shapes: list[Pass]) -> int:
    """Return the predicted peak of loading and training."""
    return predict(trial, folder, shapes).needed_bytes


class Predictor:
    """A process that predicts, so that the one from which trials are forked stays as it is.

    A trial's process takes the more memory, the more its parent's heap is scattered.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self._ours, theirs = context.Pipe()
        context.Process(target=self._answer, args=(theirs,), daemon=True).start()

    @staticmethod
    def _answer(asked: Any) -> None:
        while True:
            try:
                asked.send(predicted(*asked.recv()))
            except Unsupported as error:
                asked.send(error)

    def __call__(self, *given: Any) -> int:
        """Return the predicted peak of loading and training."""
        self._ours.send(given)
        found = self._ours.recv()
        if isinstance(found, Unsupported):
            raise found
        return int(found)


def measured(draw: Draw, place: Path, beside: int | None, ask: Callable[..., int] = predicted) -> Capped:
    """Run a trial under its cap, or without one if what is not tensors is yet to be found (None)."""
    shapes = [Pass(draw.examples, draw.tokens)]
    folder = base(draw.shape, place)
    training = {
        "batch_size": draw.examples,
        "micro_batch_size": draw.examples,
        "gradient_checkpointing": draw.checkpointing,
    }
    trial = trials.trial(folder, place / "tasks", draw.method, draw.precision, training=training)
    peak = ask(trial, folder, shapes)
    if beside is None:
        ended, largest = taken(trial, folder, shapes, control_group.NO_LIMIT)
        return Capped(
            **asdict(draw),
            predicted_bytes=peak,
            beside_bytes=largest - peak,
            ended_ok=ended,
            taken_bytes=largest,
        )
    ended, largest = taken(trial, folder, shapes, peak + beside)
    if not ended:
        _, largest = taken(trial, folder, shapes, control_group.NO_LIMIT)
    return Capped(**asdict(draw), predicted_bytes=peak, beside_bytes=beside, ended_ok=ended, taken_bytes=largest)


@dataclass(frozen=True)
class Beside:
    """What a process takes beside tensors: linear in the number of layers."""

    plain_bytes: int
    """With the plain shape."""
    layer_bytes: int
    """For each layer more."""

    def at(self, layers: int) -> int:
        """Return the bytes for a number of layers, no fewer than for the plain shape."""
        return self.plain_bytes + self.layer_bytes * max(0, layers - _LLAMA["num_hidden_layers"])


def predicted_of(shape: str, kind: Kind, place: Path) -> None:
    """Predict a trial of a shape in this process, which imports the shape's modelling code."""
    try:
        made = trials.trial(base(shape, place), place / "tasks", kind[0], kind[1])
        predicted(made, base(shape, place), [Pass(1, 32)])
    except Unsupported:  # int8 of experts, which is found out after the import
        return


def beside(kind: Kind, place: Path, ask: Callable[..., int]) -> Beside:
    """Measure what is not tensors for a kind of trial."""
    tried = [
        measured(Draw(shape, *kind, examples, tokens), place, None, ask) for shape, examples, tokens in _CALIBRATION
    ]
    few, many, deep = (one.beside_bytes for one in tried)
    slope = max(0, deep - few) // (_DEEP["num_hidden_layers"] - _LLAMA["num_hidden_layers"])
    print(f"{kind}: {few >> 10}, {many >> 10} KiB are not tensors, {slope >> 10} KiB for each layer more", flush=True)
    return Beside(max(few, many), slope)


def work(seed: int, worker: int, own: Sequence[Kind], count: int, found: Any) -> None:
    """Run trials of some kinds, and put how each ended into a queue; None at the end."""
    torch.set_num_threads(1)
    known: dict[Kind, Beside] = {}
    done = 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for kind in own:  # imports what trials need, and brings files of libraries into memory
            measured(Draw(PLAIN, *kind, 1, 32), place, None)
        predicted_of("experts", own[0], place)
        ask = Predictor()
        for draw in draws(seed, worker, own):
            kind = (draw.method, draw.precision, draw.checkpointing)
            if kind not in known:
                known[kind] = beside(kind, place, ask)
            layers = {**_LLAMA, **SHAPES[draw.shape]}["num_hidden_layers"]
            try:
                found.put(measured(draw, place, known[kind].at(int(layers)), ask))
            except Unsupported as error:
                print(f"{draw} cannot exist: {error}", flush=True)
                continue
            done += 1
            if done == count:
                break
    found.put(None)


def main() -> None:
    """Run the trials and write how they ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--kinds", type=int, default=24, help="methods, precisions and checkpointing to draw")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="renew the committed record")
    asked = parser.parse_args()
    context, drawn = multiprocessing.get_context("fork"), kinds(asked.seed, asked.kinds)
    queue = context.Queue()
    shares = [asked.trials // asked.workers + (i < asked.trials % asked.workers) for i in range(asked.workers)]
    for worker, count in enumerate(shares):
        context.Process(target=work, args=(asked.seed, worker, drawn[worker :: asked.workers], count, queue)).start()
    found: list[Capped] = []
    running = asked.workers
    while running:
        one = queue.get()
        if one is None:
            running -= 1
            continue
        found.append(one)
        print(f"{len(found)} {'ok' if one.ended_ok else 'KILLED'} {one.excess:+.1%} {one}", flush=True)
        if asked.write:
            _write(found, asked.seed)
    print(sentence(found))
    print(table(found))


def _write(found: list[Capped], seed: int) -> None:
    libraries = {each: version(each) for each in planner_accuracy.LIBRARIES}
    record = {"libraries": libraries, "seed": seed, "trials": [asdict(one) for one in found]}
    PATH.write_text(json.dumps(record).replace('{"shape"', '\n{"shape"') + "\n")


def stored() -> list[Capped]:
    """Return the committed trials."""
    return [Capped(**each) for each in json.loads(PATH.read_text())["trials"]]


def summary() -> str:
    """Return what the committed trials show, in sentences."""
    libraries = ", ".join(f"{k} {v}" for k, v in json.loads(PATH.read_text())["libraries"].items())
    return f"{sentence(stored())} {causes(stored())} With {libraries}."


def by_shape() -> str:
    """Return the committed trials by kind of shape."""
    return table(stored())


def sentence(found: Sequence[Capped]) -> str:
    """Return the share that ran to the end under the cap, and how much more than needed the caps were."""
    ok = sum(one.ended_ok for one in found)
    excess = sorted(one.excess for one in found)
    raised = {m: sum(one.ended_ok or (1 + one.excess) * (1 + m) >= 1 for one in found) for m in MARGINS[1:]}
    more = ", ".join(f"{count / len(found):.1%} with {margin:.0%} more" for margin, count in raised.items())
    return (
        f"{ok} of {len(found)} trials ({ok / len(found):.1%}) ran to the end under a cap of the predicted peak plus "
        f"what is not tensors; {more}, by what the others took without a cap. The caps exceeded what the processes "
        f"took by {median(excess):.1%} (median; from {excess[0]:+.1%} to {excess[-1]:+.1%})."
    )


def causes(found: Sequence[Capped]) -> str:
    """Return how much the killed trials were short of, by the dtype of their products."""
    said = []
    for name, own in (
        ("16 bits", [c for c in found if _in_16_bits(c)]),
        ("fp32", [c for c in found if not _in_16_bits(c)]),
    ):
        short = [one.taken_bytes - one.predicted_bytes - one.beside_bytes for one in own if not one.ended_ok]
        if own:
            most = f", short of at most {max(short) / 1e6:.1f} MB" if short else ""
            said.append(f"{len(short)} of {len(own)} with products in {name}{most}")
    return f"Killed were {'; '.join(said)}."


def _in_16_bits(one: Capped) -> bool:
    precision = PRECISIONS[one.precision]
    return (precision.autocast or precision.weights) != "float32"


def table(every: Sequence[Capped]) -> str:
    """Return results by kind of shape."""
    lines = [
        "| shape | trials | ran to the end | killed at most short by | median excess | predicted peaks, MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for shape in SHAPES:
        own = [one for one in every if one.shape == shape]
        if not own:
            continue
        killed = [-one.excess for one in own if not one.ended_ok]
        sizes = sorted(one.predicted_bytes >> 20 for one in own)
        lines.append(
            f"| {shape} | {len(own)} | {sum(one.ended_ok for one in own)} | {f'{max(killed):.1%}' if killed else '–'} "
            f"| {median(one.excess for one in own):.1%} | {sizes[0]:,} to {sizes[-1]:,} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
