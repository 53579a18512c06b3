"""Cost of inference with the tuned model: prefill, decoding, latency, memory, merging, loading and switching.

Every method generates the same number of tokens from the same prompts. The base model without the method runs in the
same process, alternating with the tuned model, so that their ratio is valid on a machine whose speed drifts.
"""

from __future__ import annotations

import hashlib
import json
import random
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from transformers import StoppingCriteria, StoppingCriteriaList

from peftbench.evaluation import cached_steps, decoding, starts, structure
from peftbench.evaluation.structure import Structure
from peftbench.measure import machine, peaks
from peftbench.measure.clock import Clock
from peftbench.measure.ledger import account
from peftbench.methods.record import Method
from peftbench.models.load import autocast
from peftbench.models.precision import Precision
from peftbench.records import Category, Example, failures
from peftbench.records.columns.inference import InferenceColumns
from peftbench.records.resolve import resolve
from peftbench.training.encoded import tokens

BATCH = 4
"""Number of prompts in a batch for rates; latency is measured with a single prompt."""
NEW_TOKENS = 4
"""Number of tokens generated for each prompt; none of them ends the text."""
WARM_UP, REPEATS, LOADS = 1, 5, 3
Seconds = dict[str, list[list[float]]]
"""Number of prompts in the batch -> per repeat, the seconds until the first token and between successive tokens."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of every method, of equal length so that nothing is padded."""

    ids: torch.Tensor
    """(b, t) token ids."""
    new_tokens: int

    @property
    def sha256(self) -> str:
        """Hash of shape, ids and number of new tokens."""
        text = json.dumps([self.ids.tolist(), self.new_tokens])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Subject:
    """A model at the end of its trial, and what is needed to measure it."""

    model: Any
    """The tuned model, or the untuned base model."""
    base: Any
    """The base model's own module, which the method changed or wrapped."""
    bare: Structure | None
    """Structure of the base model before the method was attached; None if only its own weights were tuned."""
    method: Method
    precision: Precision
    device: str
    clock: Clock
    prompts: Prompts
    pad_id: int
    scratch: Path
    """An existing folder for temporary checkpoints."""


@dataclass
class _Found:
    """Measurements, and the reasons why others are missing."""

    columns: InferenceColumns = field(default_factory=InferenceColumns)
    seconds: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def record(self, measured: InferenceColumns) -> None:
        """Keep what was measured."""
        self.columns = replace(self.columns, **measured.known())

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part; if it fails, record the reason and go on, as the trial itself has succeeded."""
        try:
            yield
        except Exception as error:
            text = (str(error).strip().splitlines() or ["no text"])[0]
            self.reasons[name] = failures.without_paths(f"{type(error).__name__}: {text}")


def prompts(tokenizer: Any, examples: Iterable[Sequence[Example]], max_length: int) -> Prompts:
    """Return the longest prompts of all tasks, truncated on the left to equal length; the same for every method.

    Args:
        tokenizer: the base model's tokenizer.
        examples: the scored examples of each task.
        max_length: largest number of data tokens in prompt and answer.
    """
    longest = sorted((e.prompt for found in examples for e in found), key=lambda text: (-len(text), text))[:BATCH]
    texts = [longest[i % len(longest)] for i in range(BATCH)] if longest else [""] * BATCH
    new_tokens = max(1, min(NEW_TOKENS, max_length - 1))
    encoded = [ids or [tokenizer.pad_token_id] for ids, _ in tokens(tokenizer, [(text, "") for text in texts], False)]
    length = min(max_length - new_tokens, *map(len, encoded))
    return Prompts(torch.tensor([ids[-length:] for ids in encoded]), new_tokens)


def measure(subject: Subject) -> InferenceColumns:
    """Measure the cost of inference and return the columns of the row, without changing the model or random state.

    Rates and latencies are medians over repeats. Loading is measured with the method's own ``load`` on the base model
    without the method, switching with peft's ``set_adapter`` between two copies of the adapter, and merging with peft's
    ``merge_adapter`` into copies of the weights; for a quantized layer, the sum is quantized again.
    """
    found = _Found()
    prefix = f".saving-{machine.process_name()}-"
    with _undisturbed(subject), tempfile.TemporaryDirectory(dir=subject.scratch, prefix=prefix) as scratch:
        with found.part("generate"):
            cached_steps.check(subject)
            _peak(subject, found)
            found.seconds |= _in_turns(subject, _variants(subject))
            found.record(_rates(subject, found.seconds["tuned"]))
        reasons = _why_not(subject)
        found.reasons |= reasons
        folder = Path(scratch) / "adapter"
        for name, part in (("load", _load), ("switch", _switch), ("merge", _merge)):
            if name not in reasons:
                with found.part(name):
                    part(subject, found, folder)
    raw = {
        "prompts": subject.prompts.ids.shape[0],
        "prompt_tokens": subject.prompts.ids.shape[1],
        "new_tokens": subject.prompts.new_tokens,
        "seconds": found.seconds,
        "decoding": _decoding(subject.prompts.new_tokens).settings(),
        "reasons": found.reasons,
    }
    return replace(
        found.columns,
        inference_prompts_sha256=subject.prompts.sha256,
        inference_json=json.dumps(raw, sort_keys=True),
    )


@contextmanager
def _undisturbed(subject: Subject) -> Iterator[None]:
    devices = [torch.cuda.current_device()] if subject.device == "cuda" else []
    state = random.getstate()
    with (
        torch.random.fork_rng(devices=devices),
        structure.kept(subject.model),
        torch.no_grad(),
        warnings.catch_warnings(action="ignore"),
    ):
        subject.model.eval()
        yield
    random.setstate(state)


def _why_not(subject: Subject) -> dict[str, str]:
    """Return the parts that are not measured because they do not exist for the method, with the reason."""
    method, model = subject.method, subject.model
    if not method.trains:
        return dict.fromkeys(("load", "switch", "merge"), "nothing is attached")
    if method.trains_base:
        return {
            "load": "a full model is loaded; see load_seconds",
            "switch": "full fine-tuning has no adapter to switch: a different model must be loaded",
            "merge": "the base model's own weights are trained: there is no adapter to merge",
        }
    reasons = {}
    if not isinstance(model, PeftModel):
        reasons["switch"] = "a model can hold only one adapter in peftbench's format"
    if method.virtual_tokens:
        reasons["merge"] = "virtual tokens cannot be merged into the weights"
    elif not isinstance(getattr(model, "base_model", None), BaseTuner):
        reasons["merge"] = "the method's update cannot be expressed as a change of the weights"
    elif structure.adapts_tied(model):
        reasons["merge"] = "the adapted weight is tied to another module's, which merging would change too"
    return reasons


class _Times(StoppingCriteria):
    """A stopping criterion that never stops, but records the time of each token."""

    def __init__(self, clock: Clock) -> None:
        self.at: list[float] = []
        self._clock = clock

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Record the time of this token; return False for each of the b sequences, so that generation continues."""
        self.at.append(self._clock.now())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _generate(subject: Subject, model: Any, count: int) -> list[float]:
    """Generate for the first ``count`` prompts; return seconds until the first token and between tokens."""
    ids, new_tokens = subject.prompts.ids[:count].to(subject.device), subject.prompts.new_tokens
    times = _Times(subject.clock)
    start = subject.clock.now()
    with decoding.without_own(model), autocast(subject.precision, subject.device):
        model.generate(
            **starts.inputs(model, ids, torch.ones_like(ids)),
            generation_config=_decoding(new_tokens).config(subject.pad_id),
            stopping_criteria=StoppingCriteriaList([times]),
        )
    if len(times.at) != new_tokens:
        raise RuntimeError(f"{len(times.at)} tokens were generated, expected {new_tokens}")
    return [round(after - before, 9) for before, after in pairwise([start, *times.at])]


def _decoding(new_tokens: int) -> decoding.Decoding:
    """Return greedy decoding that no token ends, so that every method generates the same number of tokens."""
    return decoding.Decoding(decoding.GREEDY, (), (), new_tokens)


_Variant = tuple[Any, Callable[[], AbstractContextManager[None]]]


def _variants(subject: Subject) -> dict[str, _Variant]:
    """Return what is timed alternately: the tuned model, and the base model if it is separate."""
    found: dict[str, _Variant] = {"tuned": (subject.model, nullcontext)}
    if subject.bare is not None:
        found["bare"] = (subject.base, _bare(subject.bare, subject.model))
    return found


def _bare(bare: Structure, tuned: Any) -> Callable[[], AbstractContextManager[None]]:
    """Return a reusable context in which the base model is without the method."""
    modules = {id(m): m for m in (*tuned.modules(), *(m for m, _ in bare.attributes))}
    now = structure.remember(modules.values())
    return lambda: structure.exchanged(bare, now)


def _in_turns(subject: Subject, variants: Mapping[str, _Variant]) -> dict[str, Seconds]:
    """Time variants alternately, after a warm-up of each."""
    found: dict[str, Seconds] = {name: {"1": [], str(BATCH): []} for name in variants}
    for repeat in range(WARM_UP + REPEATS):
        for name, (model, state) in variants.items():
            with state():
                for count in (1, BATCH):
                    taken = _generate(subject, model, count)
                    if repeat >= WARM_UP:
                        found[name][str(count)].append(taken)
    return found


def _rates(subject: Subject, seconds: Seconds) -> InferenceColumns:
    """Return the medians over repeats, in the columns of the unmerged model."""
    single, batch = seconds["1"], seconds[str(BATCH)]
    prefill = statistics.median(repeat[0] for repeat in batch)
    raw_decode = [[t for repeat in some for t in repeat[1:]] for some in (single, batch)]
    decode, decode_batch = (statistics.median(times) if times else None for times in raw_decode)
    return InferenceColumns(
        first_token_seconds=statistics.median(repeat[0] for repeat in single),
        decoded_token_seconds=decode,
        prefill_tokens_per_second=subject.prompts.ids.numel() / prefill,
        decode_tokens_per_second=BATCH / decode_batch if decode_batch else None,
    )


def _peak(subject: Subject, found: _Found) -> None:
    """Record the peak memory of generation: by tensor accounting, or from the allocator on CUDA."""
    if subject.device == "cuda":
        peak = peaks.AllocatorPeak()
        try:
            with peaks.allocator_peak(subject.device) as peak:
                _generate(subject, subject.model, BATCH)
        finally:
            found.record(InferenceColumns(peak_generate_bytes=peak.allocated_bytes))
        return
    with account(subject.model, subject.method.trains_base, {}) as counted:
        _generate(subject, subject.model, BATCH)
    categories = json.dumps({category: counted.peak[category] for category in Category})
    found.record(InferenceColumns(peak_generate_bytes=counted.peak_bytes, peak_generate_categories_json=categories))


def _load(subject: Subject, found: _Found, folder: Path) -> None:
    """Time loading the saved adapter onto the base model in memory."""
    resolve(subject.method.save)(subject.model, folder)
    assert subject.bare is not None
    bare, taken = _bare(subject.bare, subject.model), []
    for _ in range(LOADS):
        with bare():
            start = subject.clock.now()
            resolve(subject.method.load)(subject.base, folder)
            taken.append(round(subject.clock.now() - start, 9))
    found.seconds["load"] = taken
    found.record(InferenceColumns(load_adapter_seconds=statistics.median(taken)))


def _switch(subject: Subject, found: _Found, folder: Path) -> None:
    """Time switching from the adapter to a second copy of it and back."""
    model, taken = subject.model, []
    with structure.kept(model):
        first = model.active_adapter
        model.load_adapter(str(folder), "second", torch_device=subject.device)
        for name in ("second", first) * (WARM_UP + REPEATS):
            start = subject.clock.now()
            model.set_adapter(name)
            taken.append(round(subject.clock.now() - start, 9))
    found.seconds["switch"] = taken[2 * WARM_UP :]
    found.record(InferenceColumns(switch_adapter_seconds=statistics.median(found.seconds["switch"])))


def _merge(subject: Subject, found: _Found, folder: Path) -> None:
    """Time the merged model, and compare its logits with those of the unmerged one."""
    model = subject.model
    with structure.kept(model):
        before = _logits(subject)
        model.merge_adapter(safe_merge=True)  # safe: merges into copies, so that the weights can be restored
        if not any(module.merged for module in model.modules() if isinstance(module, BaseTunerLayer)):
            raise RuntimeError("peft merged no layer")
        difference = float((_logits(subject) - before).abs().max())
        found.record(InferenceColumns(largest_merge_logit_difference=difference))
        found.seconds |= _in_turns(subject, {"merged": (model, nullcontext)})
        rates = _rates(subject, found.seconds["merged"])
    found.record(
        InferenceColumns(
            merged_first_token_seconds=rates.first_token_seconds,
            merged_decoded_token_seconds=rates.decoded_token_seconds,
            merged_prefill_tokens_per_second=rates.prefill_tokens_per_second,
            merged_decode_tokens_per_second=rates.decode_tokens_per_second,
        )
    )


def _logits(subject: Subject) -> torch.Tensor:
    """Return the model's logits on the prompts, shape (b, t, v), on the host."""
    ids = subject.prompts.ids.to(subject.device)
    with autocast(subject.precision, subject.device):
        out = subject.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return out.logits[:, -ids.shape[1] :].float().cpu()
