"""What each way to save memory saves and costs, alone: ``python -m tools.validation.ladder [--axes NAME ...]``.

For each axis of ``AXES``, each of its methods and each base of ``BASES``, training steps with one setting changed are
compared with those of the baseline: the peak of a step, predicted from the config and counted by the ledger; the CPU
time of a step, in pairs, since the machine may be busy; and the losses of some steps from the same seed. Results are
written to ``results/reference/ladder.json``, from which ``tools/docs/reference.py`` renews ``docs/ladder.md``. The rows
of other axes are kept with the versions that they were measured with, so that an axis can be added or measured again by
itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from peftbench.methods import METHODS, context_length, method_of
from peftbench.models import load
from peftbench.models.precision import effective, why_missing
from peftbench.planner import budget
from peftbench.planner.predict import predict
from peftbench.records import Trial
from peftbench.records.resolve import resolve
from peftbench.training import accounting, compiling, loop, warm_up
from peftbench.training.encoded import Encoded
from tests.support import trials
from tools.validation import planner_accuracy

PATH = Path(__file__).resolve().parents[2] / "results" / "reference" / "ladder.json"
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "schedulefree", "pytorch_optimizer", "torchao")
BASES: Mapping[str, Mapping[str, Any]] = {
    "nano": {},
    "32k": {"vocab_size": 32768, "hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4},
    "experts": {
        **{"vocab_size": 4096, "hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4},
        **{"num_local_experts": 8, "num_experts_per_tok": 2},
    },
}
"""Name -> config of a Llama or a Mixtral with random weights and tied embeddings; ``nano`` is the built-in base."""
EXAMPLES, TOKENS, ANSWER = 8, 96, 48
"""Examples of a step, the tokens of the longest, and those at the end of each that are its answer."""
_APART = 100
"""Steps from one pair to the next, by which layers in turns have another turn."""
STEPS, PAIRS = 3, 5
"""Steps whose losses are compared, and pairs of steps whose times are."""


@dataclass(frozen=True)
class Axis:
    """One way to save memory."""

    title: str
    settings: Sequence[Mapping[str, Any]]
    """What it changes of ``train``, of the method's block for its ``options``, or the precision, a row each."""
    methods: Sequence[str]
    other_loss: str = ""
    """Why losses are not those of the baseline; empty if they are, up to rounding."""
    bases: Sequence[str] = ("nano", "32k")
    note: str = ""
    """What else a reader needs to know of the rows, as a clause; empty for nothing."""
    on_gpus: Sequence[Mapping[str, Any]] = ()
    """Settings that a CPU refuses, which are not measured here."""


AXES: Mapping[str, Axis] = {
    "logits": Axis(
        "logits where the loss needs them",
        ({"logits": "loss_bearing"}, {"logits": "chunked"}),
        ("full", "prompt_tuning", "lora", "qlora"),
        on_gpus=({"logits": "liger"},),
    ),
    "micro_batches": Axis("gradient accumulation", ({"micro_batch_size": 1},), ("full", "lora", "qlora")),
    "checkpointing": Axis(
        "gradient checkpointing",
        tuple({"gradient_checkpointing": kind} for kind in (True, 2, "selective")),
        ("full", "lora", "qlora"),
    ),
    "lora_fa": Axis(
        "LoRA whose A is frozen",
        ({"lora_fa": True},),
        ("lora", "qlora"),
        "A does not train, and B takes corrected gradients; B is zero before the first step, which has the same loss",
    ),
    "experts": Axis(
        "LoRA on the experts of a mixture of experts",
        (
            {"experts": "none"},
            {"experts": "divided"},
            {"experts": "each"},
            {"experts": "divided", "gradient_checkpointing": True},
        ),
        ("lora",),
        "other weights train; the baseline is what peft adapts of a Mixtral by itself, each expert with twice the rank "
        "for its gate and up projections together",
        ("experts",),
    ),
    "attention": Axis("how attention is computed", ({"attention": "eager"},), ("full", "lora", "qlora")),
    "compile": Axis(
        "compiled decoder layers",
        ({"compile": "layers"},),
        ("full", "lora", "qlora"),
        note="peaks are not predicted, as what compiled code keeps is known only once it is there; a plan has those of "
        "steps that are not compiled. The time of compiling is not in the ratios. In 16 bits compiled code rounds "
        "where it keeps a tensor, and not after each operator",
    ),
    "kernels": Axis(
        "kernels for norms, rotary position embeddings and gated MLPs",
        (),
        ("full", "lora", "qlora"),
        on_gpus=({"kernels": "liger"},),
    ),
    "precisions": Axis(
        "precisions of a frozen base",
        (
            *({"precision": name} for name in ("bf16", "int8", "nf4", "torchao-int8", "torchao-float8")),
            *({"precision": name, "gradient_checkpointing": True} for name in ("bf16", "nf4", "torchao-int8")),
        ),
        ("lora",),
        "weights and matrix products are rounded otherwise, which is the price of a precision",
    ),
    "nvfp4": Axis(
        "NVFP4 weights of a frozen base",
        ({"precision": "torchao-nvfp4"}, {"precision": "torchao-nvfp4", "gradient_checkpointing": True}),
        ("lora",),
        "weights and matrix products are rounded otherwise, which is the price of a precision",
        ("nano",),
        "torchao needs matrices whose sides are multiples of 16, which those of `32k` are not",
    ),
    "compute": Axis(
        "matrix products in 8-bit floats",
        ({"precision": "bf16"}, {"precision": "bf16", "compute": "fp8"}),
        ("full", "lora"),
        "the factors of matrix products are rounded to 3 bits of fraction",
        ("nano",),
        "both rows are against fp32, so that their difference is that of the matrix products. They run on a CPU by "
        "torch's own matrix product for CPUs, whose times say nothing of a GPU",
    ),
    "turns": Axis(
        "full fine-tuning of layers in turns",
        ({"turns": "lisa"}, {"turns": "badam"}),
        ("full",),
        "in a step some layers train, and the others stay as they are",
    ),
    "offload": Axis(
        "activations on the host",
        ({"offload": "activations"}, {"offload": "activations", "gradient_checkpointing": True}),
        ("full", "lora", "qlora"),
        note="the peak is the device's, without what is on the host. Here both are one memory, so times are those "
        "of copies within it; a trial on a CPU refuses the setting",
    ),
    "offload_optimizer": Axis(
        "gradients and optimizer state on the host",
        (
            {"offload": "optimizer"},
            {"offload": "optimizer", "gradient_checkpointing": True},
            {"offload": "all", "gradient_checkpointing": True},
        ),
        ("full", "lora"),
        note="as for activations; the step itself is the host's, which here is the same CPU",
    ),
    "offload_weights": Axis(
        "frozen weights on the host",
        ({"offload": "weights"}, {"offload": "weights", "gradient_checkpointing": True}),
        ("lora", "prompt_tuning"),
        note="as for activations",
    ),
    "optimizers": Axis(
        "optimizers with less state, or one gradient at a time",
        (
            *(
                {"optimizer": name}
                for name in ("adamw_8bit", "lion_8bit", "adafactor", "muon", "galore_adamw", "apollo", "apollo_mini")
            ),
            *({"optimizer": name, "clip_norm": None} for name in ("lomo", "adafactor_in_backward")),
        ),
        ("full",),
        "each optimizer takes other steps; docs/optimizers.md says how their rates relate to AdamW's, and a suite "
        "with an axis of optimizers compares their scores",
    ),
}
"""The axes that are measured. To add one, add a record here and run it by its name."""


@dataclass(frozen=True)
class Row:
    """One setting of one axis, for one method on one base model, beside the baseline."""

    axis: str
    base: str
    method: str
    precision: str
    setting: str
    """As in a suite: "logits: chunked"."""
    baseline_predicted: int
    """Bytes at the peak of a training step."""
    baseline_measured: int
    predicted: int | None
    """None for an axis that is not predicted."""
    measured: int
    saved: Mapping[str, int]
    """Category -> bytes of it less than the baseline's, each at its own peak; categories that do not differ are left
    out."""
    time_ratio: float
    """Median over pairs of steps: CPU time with the setting by that of the baseline."""
    time_ratios: tuple[float, float]
    """The smallest and the largest ratio of a pair."""
    loss_difference: float
    """Largest relative difference of a step's loss from the baseline's."""
    host: int = 0
    """Bytes that the step holds on the host at most, which are not in ``measured``."""
    host_predicted: int = 0


@cache
def steps() -> list[list[Encoded]]:
    """Return the examples of each step: random tokens, of which the last are in the loss."""
    drawn = random.Random("ladder")
    return [
        [
            Encoded(tuple(drawn.randrange(3, 300) for _ in range(length)), length - ANSWER, False, ("x", index))
            for index in range(EXAMPLES)
            for length in [TOKENS - 8 * (index % 3)]
        ]
        for _ in range(STEPS)
    ]


def made(folder: Path, tasks: Path, method: str, settings: Mapping[str, Any]) -> Trial:
    """Return a trial of a method, at its default precision if none is set, with changed settings of training."""
    record = METHODS[method]
    training = {"batch_size": EXAMPLES, "micro_batch_size": EXAMPLES, "sequence_length": TOKENS, "learning_rate": 1e-4}
    # the same optimizer for all, so that an axis of optimizers has one baseline
    own = {name: value for name, value in settings.items() if name in record.options}
    others = {name: value for name, value in settings.items() if name not in own}
    precision = others.pop("precision", record.default_precision)
    return trials.trial(
        folder, tasks, method, precision, training={**training, "optimizer": "adamw", **others}, options=own
    )


def learner(trial: Trial, folder: Path) -> loop.Learner:
    """Return a trial's learner, as in ``trial.run``."""
    method, precision = method_of(trial.method, trial.options), effective(trial.precision, trial.options)
    where = {"device": "cpu", "trust_remote_code": False, "attention": trial.training.attention}
    loaded = load.load(folder, precision, method.trains_base, True, **where)
    torch.manual_seed(0)
    tuned = resolve(method.attach)(loaded.model, trial.rank, trial.options)
    parameters = load.cast_trainable(tuned, precision)
    found = loop.learner(
        tuned,
        parameters,
        trial.training,
        precision=precision,
        device="cpu",
        pad_id=1,
        virtual_tokens=context_length.virtual_tokens(trial),
        compiled=compiling.make(tuned, trial.training.compile, "cpu"),
    )
    if found.compiled is not None:
        warm_up.compile_layers(found, steps())
    found.model.train()
    return found


@dataclass
class Side:
    """A learner with what was found of it."""

    trial: Trial
    learner: loop.Learner
    losses: list[float]
    peak: Mapping[str, int]
    predicted: int | None
    host: int
    """Bytes on the host at most, which are not in the peak."""
    host_predicted: int

    @property
    def measured(self) -> int:
        """Bytes at the peak of a step."""
        return sum(self.peak.values())

    def seconds(self, examples: Sequence[Encoded], done: int) -> float:
        """Return the CPU time of a step after others; of layers in turns, that of the turn of that step."""
        batches = loop.step_batches(self.learner, examples)
        start = time.process_time()
        loop.step(self.learner, batches, 1e-4, done)
        return time.process_time() - start


def side(trial: Trial, folder: Path) -> Side:
    """Train some steps, and measure and predict the memory of the largest."""
    own = learner(trial, folder)
    losses = [loop.step(own, loop.step_batches(own, examples), 1e-4, done)[0] for done, examples in enumerate(steps())]
    assert trial.training is not None
    largest = accounting.largest_steps(steps(), trial.training, own.virtual_tokens)
    counted = accounting.account_steps(own, largest, METHODS[trial.method].trains_base)
    each = [predict(trial, folder, budget.passes(step, trial.training, own.virtual_tokens)) for step in largest]
    predicted = max(found.peak_bytes for found in each) if own.compiled is None else None
    host = max(found.offloaded_bytes for found in each)
    return Side(trial, own, losses, dict(counted.peak), predicted, counted.offloaded_peak, host)


def row(axis: str, name: str, baseline: Side, other: Side, setting: str) -> Row:
    """Compare two sides, of which the first is predicted; times are taken in pairs, in alternating order."""
    ratios = []
    for pair in range(PAIRS):
        examples = steps()[pair % STEPS]
        order = (baseline, other) if pair % 2 else (other, baseline)
        seconds = {id(each): each.seconds(examples, _APART * pair) for each in order}
        ratios.append(seconds[id(other)] / seconds[id(baseline)])
    assert baseline.predicted is not None
    saved = {category: size - other.peak[category] for category, size in baseline.peak.items()}
    return Row(
        axis,
        name,
        baseline.trial.method,
        baseline.trial.precision,
        setting,
        baseline.predicted,
        baseline.measured,
        other.predicted,
        other.measured,
        {str(category): size for category, size in saved.items() if size},
        statistics.median(ratios),
        (min(ratios), max(ratios)),
        max(abs(b / a - 1) for a, b in zip(baseline.losses, other.losses, strict=True)),
        other.host,
        other.host_predicted,
    )


def rows(axes: Sequence[str], folder: Path) -> Iterator[Row]:
    """Yield the rows of some axes."""
    for name in BASES:
        home = planner_accuracy.base(name, folder, BASES)
        own = [axis for axis in axes if name in AXES[axis].bases]
        for method in dict.fromkeys(method for axis in own for method in AXES[axis].methods):
            baseline = side(made(home, folder / "tasks", method, {}), home)
            for axis in own:
                for settings in AXES[axis].settings if method in AXES[axis].methods else ():
                    other = side(made(home, folder / "tasks", method, settings), home)
                    yield row(axis, name, baseline, other, shown(settings))
                    compiling.close(other.learner.compiled)


def shown(settings: Mapping[str, Any]) -> str:
    """Return settings as in a suite file."""
    return ", ".join(f"{key}: {'null' if value is None else str(value).lower()}" for key, value in settings.items())


def stored() -> list[Row]:
    """Return the committed rows."""
    return [Row(**each) for each in json.loads(PATH.read_text())["rows"]] if PATH.is_file() else []


def libraries() -> dict[str, str | None]:
    """Return the versions of the libraries that measure; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def versions() -> Mapping[str, Mapping[str, str | None]]:
    """Return the versions that each committed axis was measured with; libraries not recorded then are left out."""
    return dict(json.loads(PATH.read_text())["libraries"]) if PATH.is_file() else {}


def write(axes: Sequence[str], found: Sequence[Row]) -> None:
    """Write the rows of some axes with the versions of now, and keep rows and versions of the others."""
    order = [*AXES]
    others = [axis for axis in order if axis not in axes]
    earlier, kept = versions(), [each for each in stored() if each.axis in others]
    every = sorted([*kept, *found], key=lambda each: (order.index(each.axis), list(BASES).index(each.base)))
    now = libraries()
    whole = {
        "libraries": {axis: now if axis in axes else earlier[axis] for axis in order if axis in {*axes, *earlier}},
        "rows": [dataclasses.asdict(each) for each in every],
    }
    PATH.write_text(json.dumps(whole).replace('{"axis"', '\n{"axis"') + "\n")


def main() -> None:
    """Measure some axes again, and keep the rows of the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=AXES)
    axes = parser.parse_args().axes
    for settings in (settings for axis in axes for settings in AXES[axis].settings):
        missing = why_missing(settings.get("precision", "fp32"))
        if missing:
            parser.error(missing)
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for each in rows(axes, Path(folder)):
            print(
                each.axis,
                each.base,
                each.method,
                each.setting,
                f"{each.measured / each.baseline_measured:.3f}",
                flush=True,
            )
            found.append(each)
    write(axes, found)


if __name__ == "__main__":
    main()
