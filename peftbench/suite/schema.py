"""The schema of a suite file: pydantic models of its blocks, and the table of training settings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from peftbench.methods import Method, Setting, profiles
from peftbench.models.precision import PRECISIONS
from peftbench.records import OPTIMIZERS, STRATEGIES, Phase, Retention
from peftbench.records.attention import ATTENTIONS, AUTO
from peftbench.suite.records import CHECKPOINT_SECONDS, MOST_TRIALS
from peftbench.tasks import DEFAULT_TEST_SEED, TEST_SEEDS

Count = Annotated[int, Field(ge=1, le=10**15, description="a whole number, at least 1")]
Trials = Annotated[int, Field(ge=1, le=10**6, description="a whole number from 1 to 1000000")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Length = Annotated[int, Field(ge=2, le=10**9, description="a whole number, at least 2")]
Checkpointing = Annotated[
    bool | Annotated[int, Field(ge=2, le=10**6)] | Literal["selective"],
    Field(description="true, false, a whole number of at least 2, or selective"),
]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
SEARCH = "search"
"""The learning rate of a suite that asks for a search around the default."""
Delimiter = Annotated[
    str, Field(pattern=r"^[^\r\n\"\x00]$", description="one character, such as ',' or ';' or '\\t' for a tab")
]
PrecisionName: Any = Literal[tuple(PRECISIONS)]  # type: ignore[valid-type]
OptimizerName: Any = Literal[tuple(OPTIMIZERS)]  # type: ignore[valid-type]
AttentionName: Any = Literal[(AUTO, *ATTENTIONS)]  # type: ignore[valid-type]

TRAIN: Mapping[str, Setting] = MappingProxyType(
    {
        "steps": Setting(
            Count | None,
            100,
            "optimizer steps; exactly one of steps, epochs, tokens and seconds; 100 with nano, else one pass over the "
            "data in at most 1000 steps",
        ),
        "epochs": Setting(Positive | None, None, "passes over the training examples"),
        "tokens": Setting(Count | None, None, "non-padding data tokens after which training stops"),
        "seconds": Setting(Positive | None, None, "seconds of training steps after which training stops"),
        "batch_size": Setting(Count, 16, "examples per optimizer step"),
        "micro_batch_size": Setting(Count | None, None, "examples per forward pass; default batch_size"),
        "sequence_length": Setting(
            Length,
            128,
            "longest training example in data tokens; 128 with nano, else the 99th percentile of the training "
            "examples within the context",
        ),
        "learning_rate": Setting(
            Positive | Literal["search"] | None,
            None,
            "peak rate; default by method and base; a list is searched, search: around the default",
        ),
        "optimizer": Setting(
            OptimizerName,
            "adamw",
            "default adamw, or the method's own (qlora: paged_adamw); docs/optimizers.md describes each",
        ),
        "schedule": Setting(Literal["constant", "linear", "cosine"], "linear", "learning rate after the warm-up"),
        "warmup_ratio": Setting(Share, 0.05, "share of the steps over which the learning rate rises from zero"),
        "weight_decay": Setting(
            Annotated[float, Field(ge=0)], 0.0, "decoupled weight decay, applied to tensors with two or more dimensions"
        ),
        "clip_norm": Setting(Positive | None, 1.0, "largest gradient norm; null for no clipping"),
        "gradient_checkpointing": Setting(
            Checkpointing,
            False,
            "recompute activations in the backward pass: true, of every decoder layer; n, of every n-th; selective, of "
            "every layer all but matrix products and fused attention (docs/ladder.md)",
        ),
        "offload": Setting(
            Literal["none", "activations", "weights", "optimizer", "all"],
            "none",
            "what a GPU's step keeps in the host's memory between its uses: activations, from the forward to the "
            "backward pass; weights: frozen ones of decoder layers, while another layer computes; optimizer: its state "
            "and the gradients, with its step computed on the host; all: each of these (docs/ladder.md)",
        ),
        "logits": Setting(
            Literal["all", "loss_bearing", "chunked", "liger"],
            "all",
            "positions whose logits are computed: all; loss_bearing: those whose next token is in the loss; chunked: "
            "the same, 256 at a time, recomputed in the backward pass; liger: the same, within liger's operator on a "
            "GPU (docs/ladder.md)",
        ),
        "attention": Setting(
            AttentionName,
            AUTO,
            "how attention is computed, in training and scoring, by transformers' name; auto: sdpa if the base has it",
        ),
        "compute": Setting(
            Literal["auto", "fp8"],
            "auto",
            "fp8: in training the base's linear layers multiply 8-bit floats, however they are stored; needs the extra "
            "torchao (docs/precisions.md)",
        ),
        "compile": Setting(
            Literal["none", "layers"],
            "none",
            "what torch.compile compiles of a training step: layers, each decoder layer; needs a C++ compiler "
            "(docs/ladder.md)",
        ),
        "kernels": Setting(
            Literal["none", "liger"],
            "none",
            "liger: its kernels compute norms, rotary position embeddings and gated MLPs in training steps, on a GPU "
            "with liger-kernel (docs/ladder.md)",
        ),
        "loss_on": Setting(Literal["completion", "all"], "completion", "the tokens in the loss"),
        "score": Setting(Literal["last", "best_on_validation"], "last", "the step whose weights are scored"),
        "validate_every": Setting(Count | None, None, "steps between validation losses; null for none"),
        "group_by_length": Setting(bool, False, "each step has examples of similar length: less padding"),
        "packing": Setting(bool, False, "several examples per row of up to sequence_length tokens: hardly any padding"),
        "untimed_steps": Setting(Annotated[int, Field(ge=0)], 3, "first steps, excluded from rates"),
    }
)
"""Every training setting with its type, default and meaning. A list of values is an axis of the grid."""


class Strict(BaseModel):
    """A block that allows only its own keys, with values of exactly their types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
    allowed: ClassVar[tuple[str, ...]] = ()
    """Keys to name in messages, if the block may have more keys than the model has fields."""
    rank_key: ClassVar[str] = ""
    """The key that gives a method's rank, in the model of a method's block."""


def as_list(value: Any) -> Any:
    """Return one value as a list of one."""
    return value if isinstance(value, list) else [value]


def as_lists(value: Any) -> Any:
    """Return one value of a list-valued setting as a list of one; a list that contains lists is an axis."""
    return value if isinstance(value, list) and any(isinstance(item, list) for item in value) else [value]


def axis(kind: Any) -> Any:
    """Return the type of a setting that takes one value or a list of values."""
    wrap = as_lists if _takes_list(kind) else as_list
    return Annotated[list[kind], Field(min_length=1), BeforeValidator(wrap)]


def _takes_list(kind: Any) -> bool:
    return get_origin(kind) is list or any(_takes_list(argument) for argument in get_args(kind))


def method_settings(method: Method) -> dict[str, Setting]:
    """Return every setting that a method's block may give."""
    settings = {"precision": Setting(PrecisionName, method.default_precision, "")}
    if not method.trains:
        return settings
    if method.rank_meaning is not None:
        settings[method.rank_key] = Setting(Count, method.default_rank, method.rank_meaning)
    return {**settings, **method.options, **TRAIN}


def axes_model(name: str, settings: Mapping[str, Setting], given: Any, **more: Any) -> type[Strict]:
    """Return the model of a block whose settings are axes, with fields for the given keys only (ten times as fast)."""
    known = [key for key in settings if isinstance(given, dict) and key in given]
    fields: dict[str, Any] = {key: (axis(settings[key].type), ...) for key in known}
    model = create_model(name, __base__=Strict, **fields, **more)
    model.allowed = (*settings, *more)
    return model


def train_model(given: Any) -> type[Strict]:
    """Return the model of ``train:``."""
    return axes_model("train", TRAIN, given, data=(dict[str, Positive] | None, None))


Name = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_. -]*$", description="a folder's name of letters, digits and _ - .")
]
_Precisions: Any = axis(PrecisionName)
_Ranks: Any = axis(Count)


class SuiteFile(Strict):
    """The top level. Blocks inside are validated one by one."""

    name: Name | None = None
    description: str | None = None
    base: dict[str, Any] = Field(description="a built-in base, a local folder, a hub id, or a mapping with source")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count | None = None
    workers: Count = 1
    seeds: Annotated[int, Field(ge=1, le=10_000)] | list[Seed] = Field(
        default=3, description="how many (3 for 0, 1, 2), up to 10000, or a list of seeds, each from 0 to 2^32 - 1"
    )
    precision: _Precisions = None
    rank: _Ranks = None
    devices: Any = Field(
        default=None, description="one, or a mapping of strategy, count and offload; or a list of these"
    )
    tasks: dict[str, Any] = Field(description="a list of built-in tasks, or a mapping of names to definitions")
    methods: dict[str, Any] = Field(description="a list of methods, or a mapping of methods to their settings")
    train: Any = None
    evaluate: Any = None
    search: Any = None
    timeout_seconds: Positive | dict[str, Any] | None = Field(
        default=None, description="seconds above 0, or a mapping of phases to seconds, as {load: 60, total: 3600}"
    )
    checkpoint_every_seconds: Positive | None = CHECKPOINT_SECONDS
    most_trials: Trials = MOST_TRIALS
    audit: Literal["report", "strict"] = "report"
    profile: Literal[profiles.PROFILES] | None = None  # type: ignore[valid-type]
    match: dict[str, Any] | None = None
    watch: Any = None
    ladder: Literal["previous", "first"] | None = None


class DevicesBlock(Strict):
    """``devices:``: several devices for one trial."""

    strategy: Literal[tuple(STRATEGIES)]  # type: ignore[valid-type]
    count: Annotated[int, Field(ge=2, le=4096, description="a whole number, at least 2")]
    offload: Literal["none", "cpu"] = "none"


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic has an outdated method of the name of the phase validate
    _LIMITS: dict[str, Any] = dict.fromkeys(("total", *map(str, Phase)), (Positive | None, None))
    TimeoutBlock = create_model("TimeoutBlock", __base__=Strict, **_LIMITS)
"""``timeout_seconds:`` as a mapping: limits of single phases, and of the whole trial."""


class MatchBlock(Strict):
    """``match:``."""

    trainable_parameters: Any = Field(description="a whole number, or a mapping of method and rank")


class MeasureBlock(Strict):
    """``match.trainable_parameters``: what a method at a rank trains."""

    method: str
    rank: Count


class BaseBlock(Strict):
    """``base:``. A shape has no revision: its weights are random."""

    source: Annotated[str, Field(min_length=1)] | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    shape: Annotated[str, Field(min_length=1)] | None = None
    weights: Literal["random"] | None = None


class TaskBlock(Strict):
    """One entry of ``tasks:``. A built-in task, and one of lm-eval, take the keys about scoring only."""

    template: str | None = None
    kind: (
        Literal["choice", "exact_match", "generation", "language_modelling", "classification", "regression"] | None
    ) = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    dataset: Annotated[str, Field(min_length=1)] | None = None
    config: str | None = None
    revision: str | None = None
    splits: dict[str, str | None] | None = None
    columns: list[str] = []
    encoding: Annotated[str, Field(min_length=1)] | None = None
    delimiter: Delimiter | None = None
    quoting: Literal["minimal", "none"] | None = None
    messages: Annotated[str, Field(min_length=1)] | None = None
    train_on: Literal["last_answer", "every_answer"] | None = None
    prompt: str | None = None
    prompt_pair: str | None = None
    target: str | None = None
    choices: list[str] = []
    labels: dict[str, str] = {}
    several_references: bool = False
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    split_seed: Seed = 0
    separator: Annotated[str, Field(min_length=1)] | None = None
    chunk_characters: Count | None = None
    chat: bool = False
    system: str | None = None
    max_new_tokens: Count | None = None
    num_beams: Annotated[int, Field(ge=1, le=1000, description="a whole number, 1 to 1000")] | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=1000, description="a whole number, 0 to 1000")] | None = None
    limit: Count | None = None
    answer_pattern: Annotated[str, Field(min_length=1)] | None = None
    stop: Annotated[list[str], Field(min_length=1)] | None = None
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    metric: str | None = None
    more_metrics: list[str] = []
    lm_eval: bool | Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="true, the name of a task of lm-eval, or a YAML file with one"
    )


class SearchBlock(Strict):
    """``search:``: how a list of learning rates is chosen from; ``false`` makes such lists an axis of the grid."""

    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    share: Annotated[float, Field(gt=0, le=1)] = 0.5


class EvaluateBlock(Strict):
    """``evaluate:``."""

    batch_size: Count | Literal["auto"] = Field(default=32, description="a whole number, at least 1, or auto")
    max_length: Count | None = None
    split: Literal["test", "validation"] = "test"
    test_seed: Annotated[int, Field(ge=0, lt=TEST_SEEDS)] = Field(
        default=DEFAULT_TEST_SEED, description=f"a built-in task's test set, 0 to {TEST_SEEDS - 1}"
    )
    generation: Literal["greedy", "base"] = "greedy"
    inference: bool = True
    retention: dict[str, Any] | Literal[False] | None = Field(
        default=None, description="a mapping with file, field, separator and limit, or false"
    )
    deployed: list[str] | None = Field(default=None, description="a list of forms, such as [merged, as_lora_8]")
    engine: Literal["vllm"] | None = None


class RetentionBlock(Strict):
    """``evaluate.retention:``."""

    file: Annotated[str, Field(min_length=1)] | None = None
    dataset: Annotated[str, Field(min_length=1)] | None = None
    config: str | None = None
    revision: str | None = None
    split: Annotated[str, Field(min_length=1)] = Retention.split
    field: Annotated[str, Field(min_length=1, description="a field's name")] = Retention.field
    encoding: Annotated[str, Field(min_length=1)] | None = None
    delimiter: Delimiter | None = None
    quoting: Literal["minimal", "none"] | None = None
    separator: Annotated[str, Field(min_length=1)] = Retention.separator
    limit: Count | None = Retention.limit
