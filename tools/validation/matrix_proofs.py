"""Proofs on a tuned model, each of which returns what is wrong, or None."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from peftbench.evaluation import scoring
from peftbench.methods import METHODS
from peftbench.models.load import autocast
from peftbench.models.precision import PRECISIONS
from peftbench.records.resolve import resolve
from peftbench.tasks import read
from tests.support import trials
from tests.support.method_cells import IDS, loaded, logits

_FIRST = 4
"""Virtual tokens of the trials of the matrix."""


@dataclass(frozen=True)
class Subject:
    """A cell whose trial ended ok."""

    base: Path
    name: str
    storage: str
    folder: Path
    seen: Any
    close: tuple[float, float]

    def fresh(self) -> Any:
        """Return the base model, loaded again."""
        return loaded(self.base, self.name, self.storage)

    def apart(self, found: Any, expected: Any) -> float | None:
        """Return the largest distance of two tensors that should be equal; None if they are close enough."""
        found, expected = found.float(), expected.float()
        if torch.allclose(found, expected, self.close[1], self.close[0]):
            return None
        return float((found - expected).abs().max())


def reloaded(subject: Subject) -> str | None:
    """The saved adapter, loaded into a fresh base model, gives the trained model's logits."""
    method = METHODS[subject.name]
    again = resolve(method.load)(subject.fresh().model, subject.folder / "adapter")
    gap = subject.apart(logits(again, subject.storage, IDS), subject.seen.logits)
    return None if gap is None else f"loaded again, logits differ by up to {gap:.2g}"


def moved_in_every_part(subject: Subject) -> str | None:
    """Every virtual token, of a prefix in every layer for keys and for values, moved."""
    if subject.name not in ("prompt_tuning", "prefix_tuning"):
        return None
    before, after = subject.seen.before, subject.seen.after
    name = next(iter(after))
    change = (after[name] - before[name]).abs()
    if subject.name == "prefix_tuning":
        layers = subject.seen.model.peft_config["default"].num_layers
        change = change.reshape(change.shape[0], 2 * layers, -1)
    still = (change.flatten(1) if change.ndim == 2 else change).amax(-1) == 0
    if not bool(still.any()):
        return None
    return (
        f"{int(still.sum())} of {still.numel()} parts of {name} did not move (virtual tokens x layers x keys, values)"
    )


def virtual_tokens_stand_for_tokens(subject: Subject) -> str | None:
    """Virtual tokens that are the embeddings (or keys and values) of real tokens give the logits that these give."""
    if subject.name not in ("prompt_tuning", "prefix_tuning"):
        return None
    model = subject.seen.model.eval()
    if not hasattr(model, "prompt_encoder"):
        return f"no prompt_encoder on {type(model).__name__}: this proof must be renewed"
    base = subject.fresh().model.eval()
    first = torch.arange(40, 40 + _FIRST).expand(len(IDS), -1)
    whole = torch.cat([first, IDS], 1)
    expected = logits(base, subject.storage, whole)[:, _FIRST:]
    weight = model.prompt_encoder["default"].embedding.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        if subject.name == "prompt_tuning":
            weight.copy_(base.get_input_embeddings()(first[0]))
        else:
            cache = _cache(base, first[:1])
            parts = [t[0].transpose(0, 1).flatten(1) for layer in cache.layers for t in (layer.keys, layer.values)]
            weight.copy_(torch.cat(parts, 1))
            if subject.storage != "fp32":  # bf16 rounds a pass with a cache in other places than a whole one
                expected = _after(base, subject.storage, _cache(base, first), whole)
        found = logits(model, subject.storage, IDS)
        weight.copy_(kept)
    gap = subject.apart(found, expected)
    return None if gap is None else f"virtual tokens equal to real ones give logits that differ by up to {gap:.2g}"


def _cache(base: Any, ids: torch.Tensor) -> Any:
    """Return the keys and values of some tokens."""
    cache = base(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True).past_key_values
    return getattr(cache, "self_attention_cache", cache)


def _after(base: Any, storage: str, cache: Any, whole: torch.Tensor) -> torch.Tensor:
    """Return the logits of the tokens after those whose keys and values are given."""
    with torch.no_grad(), autocast(PRECISIONS[storage], "cpu"):
        mask, rest = torch.ones_like(whole), whole[:, _FIRST:]
        found: torch.Tensor = base(input_ids=rest, attention_mask=mask, past_key_values=cache, use_cache=True).logits
    return found


def padding_changes_nothing(subject: Subject) -> str | None:
    """Padding on the right, as in training, and a batch change no logits."""
    if subject.storage != "fp32":
        return None
    model = subject.seen.model
    short, long = IDS[0, :5], IDS[1]
    alone = logits(model, subject.storage, short[None])[0]
    row = torch.cat([short, torch.full((len(long) - len(short),), 2)])
    mask = torch.ones(2, len(long), dtype=torch.long)
    mask[0, len(short) :] = 0
    with torch.no_grad():
        both = model(input_ids=torch.stack([row, long]), attention_mask=mask, use_cache=False).logits
    gap = subject.apart(both[0, -len(long) :][: len(short)], alone)
    return None if gap is None else f"padding on the right changes logits by up to {gap:.2g}"


def answers(subject: Subject) -> str | None:
    """Answers depend neither on the batch size nor on the cache."""
    if subject.storage != "fp32":
        return None
    task = trials.tasks(subject.folder)[2]
    prompts = read.examples(task, "train")[:6]
    found = [[s["resps"][0][0] for s in scoring.run_harness(_harness(subject, n), task, prompts)[0]] for n in (1, 4)]
    if found[0] != found[1]:
        return f"answers depend on the batch size: {found[0]} alone, {found[1]} in batches"
    tokenizer = subject.seen.tokenizer
    for prompt, answer in list(zip(prompts, found[0], strict=True))[:2]:
        ids = tokenizer.encode(prompt.prompt)
        start = len(ids)
        while len(ids) - start < task.max_new_tokens and ids[-1] not in tokenizer.all_special_ids:
            ids.append(int(logits(subject.seen.model, subject.storage, torch.tensor([ids]))[0, -1].argmax()))
        if tokenizer.pad_token_id in ids[start:]:  # some families place padding by its id, and so read it differently
            continue
        direct = tokenizer.decode(ids[start:], skip_special_tokens=True).partition("\n")[0]
        if answer.strip() != direct.strip():
            return f"with a cache the answer is {answer!r}, without {direct!r}"
    return None


def likelihoods(subject: Subject) -> str | None:
    """Log-probabilities of choices are those of a forward pass of each alone."""
    task = dataclasses.replace(trials.tasks(subject.folder)[0], limit=3)
    examples = read.examples(task, "test")
    _, rows = scoring.evaluate(_harness(subject, 4), [task], {"colour": examples})
    encode = subject.seen.tokenizer.encode
    worst = 0.0
    for example, row in zip(examples, rows, strict=True):
        for choice, given in zip(example.choices, json.loads(row.choice_logprobs), strict=True):
            ids, start = encode(f"{example.prompt} {choice}"), len(encode(example.prompt))
            ids.append(subject.seen.tokenizer.eos_token_id)
            worst = max(worst, abs(given - _log_probability(subject, ids, start)))
    limit = 5e-3 if subject.storage == "fp32" else 0.5
    return None if worst <= limit else f"a choice's log-probability differs from a forward pass's by {worst:.2g}"


def _log_probability(subject: Subject, ids: list[int], start: int) -> float:
    given = torch.tensor([ids])
    found = logits(subject.seen.model, subject.storage, given[:, :-1]).float().log_softmax(-1)[0]
    return sum(float(found[i - 1, ids[i]]) for i in range(start, len(ids)))


def _harness(subject: Subject, size: int) -> Any:
    tokenizer = subject.seen.tokenizer
    settings = trials.Evaluation(size, 48, "test")
    return scoring.Harness(
        subject.seen.model, tokenizer, settings, PRECISIONS[subject.storage], learned_ends=("colour",)
    )


PROOFS = (reloaded, moved_in_every_part, virtual_tokens_stand_for_tokens, padding_changes_nothing, answers, likelihoods)
