"""What the rows of a cell record of each part of a protocol, in the vocabulary of ``parts.PARTS``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from peftbench.methods import METHODS, alpha_of
from peftbench.report.collect import Cell, read_json
from peftbench.report.published.counted import matches
from peftbench.report.published.load import names
from peftbench.report.published.parts import concerns, without_fields
from peftbench.report.published.records import LayoutColumn, MethodMatch
from peftbench.tasks.templates import TEMPLATES

GENERATED = ("generation", "exact_match")
_KINDS = {
    "classification": "classification head",
    "regression": "classification head",
    "choice": "choices ranked by likelihood",
    "language_modelling": "likelihood of text",
    **dict.fromkeys(GENERATED, "generation"),
}
_MEMORY = {
    "reserved_whole_run": "reserved by the allocator, whole run",
    "accelerator_memory_max": "reserved by the allocator, whole run",
    "allocator": "allocated by the allocator, training step",
    "tensor_accounting": "sum of tensors, training step",
}
"""Kind of memory figure to what it is called in protocols."""
SIZES = ("alpha", "alpha_pattern", "rank_pattern", "dropout", "target_modules", "hidden_size", "text", "activation")
"""Options that make no other method of a method: sizes, targets and scales."""
_SCORED = {"last": "last step", "best_on_validation": "lowest validation loss"}
_LOSSES = {"last_loss": "mean of the last tenth of the steps", "best_validation_loss": "lowest of all validations"}
_FOUR_BITS = ("nf4", "fp4")
"""How the precisions begin whose quantization constants can be quantized too, which they are by default."""
OWN = "the task's own"
"""Training data that are the training examples of the scored task."""


@dataclass(frozen=True)
class Shown:
    """A cell in a column: what its facts are of."""

    cell: Cell
    column: LayoutColumn
    task: str | None
    """Name of the scored task, of several their first; None for a stored quantity."""
    metric: str | None
    """Name of the metric that is shown."""
    quantity: tuple[str, ...] = ()
    """Columns of the trials whose sum is shown; empty for a score."""
    examples: int | None = None
    """Scored examples, of several tasks all together; None to take those of the task."""


def facts(shown: Shown) -> dict[str, Any]:
    """Return each part of a protocol that the rows of a cell record; parts that they do not record are missing."""
    rows = shown.cell.ok_rows
    if not rows:
        return {}
    settings = read_json(rows[0]["settings_json"])
    context = _Context(shown, settings, settings.get("train") or {}, rows)
    found: dict[str, Any] = {}
    for source in (_of_training, _of_method, _of_data, _of_scoring, _of_costs):
        found |= {part: value for part, value in source(context) if value is not None}
    imported = settings.get("stated") or {}
    return found | {part: value for part, value in imported.items() if concerns(part, shown.task is not None, ())}


@dataclass(frozen=True)
class _Context:
    shown: Shown
    settings: Mapping[str, Any]
    train: Mapping[str, Any]
    rows: tuple[dict[str, Any], ...]

    def column(self, name: str) -> Any:
        """Return the one value that all rows have in a column; None if there is none, or several."""
        known = {row[name] for row in self.rows if name in row and not _missing(row[name])}
        found = known.pop() if len(known) == 1 else None
        return int(found) if isinstance(found, float) and found == int(found) else found

    @property
    def training_examples(self) -> int | None:
        """Number of examples that there are to train on; None if it is not recorded."""
        seen = read_json(self.rows[0].get("data_seen_json"))
        counts = [one.get("examples") for one in seen.values() if isinstance(one, dict)]
        known = [n for n in counts if isinstance(n, int)]
        return sum(known) if known and len(known) == len(counts) else None

    @property
    def task(self) -> Mapping[str, Any]:
        """The settings of the scored task; empty if they are not recorded."""
        tasks = self.settings.get("tasks") or []
        return next((one for one in tasks if one.get("name") == self.shown.task), {})

    @property
    def score(self) -> Mapping[str, Any]:
        """The stored score of the task; empty if there is none."""
        found = read_json(self.rows[0].get("scores_json")).get(self.shown.task or "")
        return found if isinstance(found, dict) else {}


def _missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value))


Facts = Iterator[tuple[str, Any]]


def _of_training(context: _Context) -> Facts:
    train = context.train
    if not train:
        return
    for part in ("schedule", "warmup_ratio", "loss_on"):
        yield part, train.get(part)
    yield "gradient_checkpointing", train.get("gradient_checkpointing", train.get("use_gc"))  # the peer's name for it
    yield "weight_decay", train.get("weight_decay", (train.get("optimizer_kwargs") or {}).get("weight_decay"))
    for part in ("learning_rate", "batch_size", "micro_batch_size", "sequence_length", "optimizer"):
        yield part, context.column(part)
    steps, share, of = context.column("steps_done"), train.get("warmup_ratio"), context.training_examples
    seen = context.column("examples_seen")
    yield "steps", steps
    yield "epochs", train.get("epochs") or (seen / of if seen and of else None)
    yield "warmup_steps", round(share * steps) if steps and share is not None else None
    yield "score", _SCORED.get(str(train.get("score")))
    if "score" in train:  # rows of peftbench, which knows neither of these
        yield "label_smoothing", 0
        yield "init_from", "the base model"


def _of_method(context: _Context) -> Facts:
    cell, options = context.shown.cell, context.settings.get("options") or {}
    yield "rank", cell.rank
    yield "precision", cell.precision if cell.precision != "unknown" else None
    yield "double_quantization", double_quantization(cell)
    yield "target_modules", options.get("target_modules")
    yield "dropout", options.get("dropout", options.get("lora_dropout"))
    if "lora_alpha" in options:
        yield "alpha", options["lora_alpha"]
    elif "alpha" in options and cell.rank:
        yield "alpha", alpha_of(options["alpha"], cell.rank)


def double_quantization(cell: Cell) -> bool | None:
    """Return whether a cell's quantization constants are quantized too; None if its precision has none."""
    if not cell.precision.startswith(_FOUR_BITS):
        return None
    options = read_json(cell.rows[0]["settings_json"]).get("options") or {}
    return bool(options.get("double_quantization", True))


def _of_data(context: _Context) -> Facts:
    source = (context.settings.get("base") or {}).get("source")
    canonical = base_of(context.shown.cell)
    # of a folder, or of another repository of this name, only the name is known
    yield "base", canonical if source is None or canonical in _bases_of(str(source)) else None
    trained = [name for name, _ in context.train.get("data") or []]
    if trained and trained == [context.shown.task]:
        yield "train_data", OWN
    elif len(trained) == 1:
        yield "train_data", _data_name(context.settings, trained[0])
    elif trained:
        yield "train_data", f"a mixture of {', '.join(trained)}"
    yield "train_examples", context.training_examples
    yield from _of_test(context)


def _of_test(context: _Context) -> Facts:
    task = context.task
    dataset = task.get("dataset")
    wanted = context.shown.column.task
    if dataset and wanted and _with_config(task) in wanted.datasets:
        yield "test_data", _known_data(str(dataset))
        split = str((context.settings.get("evaluation") or {}).get("split", "test"))
        yield "test_split", (task.get("splits") or {}).get(split) if "test" not in (task.get("files") or {}) else None
    elif wanted and wanted.datasets and task.get("lm_eval") and matches("", task, wanted):  # lm-eval fixes the data
        yield "test_data", _known_data(wanted.datasets[0].partition(":")[0])
    yield "test_examples", context.shown.examples or context.score.get("examples")


def _of_scoring(context: _Context) -> Facts:
    task, score = context.task, context.score
    if context.shown.task is None:
        return
    yield "metric", context.shown.metric
    yield "seeds", len(context.rows)
    yield "statistic", "mean"
    yield "task_kind", _KINDS.get(str(task.get("kind")))
    yield "template", _template(task)
    how = score.get("settings") or {}
    yield "num_fewshot", how.get("num_fewshot")
    decoding = how.get("decoding")
    if isinstance(decoding, Mapping):
        for part in ("num_beams", "length_penalty", "no_repeat_ngram_size"):
            yield part, decoding.get(part)
        yield "temperature", decoding.get("temperature") if decoding.get("do_sample") else 0
        yield "max_new_tokens", how.get("max_new_tokens")


def _of_costs(context: _Context) -> Facts:
    environment = read_json(context.rows[0].get("environment_json"))
    gpus = environment.get("gpus") or environment.get("gpu")
    found = [str(gpu.get("name")) for gpu in gpus] if isinstance(gpus, list) else []
    yield "hardware", f"{len(found)}x {found[0]}" if found else environment.get("cpu") and f"CPU: {environment['cpu']}"
    quantity = context.shown.quantity
    if any(name.startswith("peak_") for name in quantity):
        yield "memory_figure", _MEMORY.get(str(context.column("memory_kind")))
    if "train_seconds" in quantity:
        yield "time_figure", "steps and the rest of training" if len(quantity) > 1 else "steps alone"
    yield "loss_figure", next((_LOSSES[name] for name in quantity if name in _LOSSES), None)


def base_of(cell: Cell) -> str | None:
    """Return the name in the literature of a cell's base model; None if it has none, or its weights are random."""
    row = cell.rows[0]
    given = read_json(row["settings_json"]).get("base") or {}
    if given.get("random_weights"):
        return None
    wanted = {_last(name) for name in (given.get("source"), row["base"]) if isinstance(name, str)}
    for name, known in names().bases.items():
        if wanted & {_last(other) for other in (name, *known.also)}:
            return name
    return None


def _bases_of(source: str) -> tuple[str, ...]:
    """Return the base models of the literature that a hub id is of."""
    known = names().bases.items()
    return tuple(name for name, one in known if "/" in source and source.lower() in map(str.lower, one.also))


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


def methods_of(cell: Cell) -> tuple[str, ...]:
    """Return the names in the literature of a cell's method: what one calls Pfeiffer's adapter is another's series."""
    settings = read_json(cell.rows[0]["settings_json"])
    options, optimizer = settings.get("options") or {}, str(cell.rows[0].get("optimizer") or "")
    return tuple(
        name
        for name, known in names().methods.items()
        if any(_is(cell, options, optimizer, match) for match in known.matches)
    )


def _is(cell: Cell, options: Mapping[str, Any], optimizer: str, match: MethodMatch) -> bool:
    """Whether a cell is what a match describes: everything that it does not name has its default."""
    precision = not match.precisions or cell.precision in (*match.precisions, "unknown")
    others = {name for known in names().methods.values() for one in known.matches for name in one.optimizers}
    right = optimizer in match.optimizers if match.optimizers else optimizer not in others
    if cell.method != match.method or not precision or not right:
        return False
    record = METHODS[cell.method].options if cell.method in METHODS else {}
    for name, allowed in match.options.items():
        if options.get(name, record[name].default if name in record else None) not in allowed:
            return False
    rest = {name: value for name, value in options.items() if name not in (*match.options, *match.free, *SIZES)}
    if any(_is_variant(name, value) for name, value in rest.items() if name not in record):
        return False
    return all(rest[name] == record[name].default for name in rest if name in record)


def _is_variant(name: str, value: Any) -> bool:
    """Whether a field of a peft config, which imported rows have, makes another method of its tuner."""
    return bool(value) and (
        name.startswith("use_") or name.endswith("_config") or (name == "init_lora_weights" and value is not True)
    )


def _with_config(task: Mapping[str, Any]) -> str:
    config = task.get("config")
    return f"{task.get('dataset')}:{config}" if config else str(task.get("dataset"))


_DATA = {
    "GLUE": ("nyu-mll/glue", "glue", "stanfordnlp/sst2"),
    "E2E NLG": ("tuetschek/e2e_nlg", "e2e_nlg", "GEM/e2e_nlg"),
    "GSM8K": ("openai/gsm8k", "gsm8k"),
    "MetaMathQA": ("meta-math/MetaMathQA", "fxmeng/pissa-dataset"),
    "Alpaca": ("tatsu-lab/alpaca",),
    "MMLU": ("cais/mmlu",),
}
"""What data sets are called in protocols, and their hub ids."""


def _known_data(dataset: str) -> str | None:
    return next((name for name, ids in _DATA.items() if dataset in ids), dataset)


def _data_name(settings: Mapping[str, Any], task: str) -> str | None:
    """Return the name of the data of a task; None if they are files, of which only a name is known."""
    given: Mapping[str, Any] = next((one for one in settings.get("tasks") or [] if one.get("name") == task), {})
    if given.get("dataset"):
        return _known_data(str(given["dataset"]))
    return f"peftbench's {given['builtin']}" if given.get("builtin") else None


def _template(task: Mapping[str, Any]) -> str | None:
    """Return the name of a task's template, or its text with {} for its fields; None if it is not recorded."""
    if not task.get("prompt"):
        return None
    text = without_fields(str(task["prompt"]))
    same = (name for name, known in TEMPLATES.items() if without_fields(known.prompt) == text)
    return next(same, text)
