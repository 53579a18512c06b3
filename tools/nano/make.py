"""Make a built-in base from nothing: ``python -m tools.nano.make nano [--steps N] [--output FOLDER]``.

Text from the seeded grammar, a byte-level BPE tokenizer trained on it, and a small Llama trained on one CPU thread, so
that the same machine gives the same weights. What the training was goes into ``training.yaml`` beside them; the card is
made from that by ``python -m tools.nano.card``.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from peftbench.measure import environment
from peftbench.models.builtin import BASES, folder
from tools.nano.grammar import documents, repeats

SEED = 0
PIECES = 1024
"""Tokenizer pieces, special ones included."""
TOKENIZER_DOCUMENTS = 40_000
STEPS = 2600
COPYING_STEPS = 350
"""First steps, in which only repeated lists are read: there copying from the context forms within 200 steps. A first
recipe had no such steps, packed rows and the customary initialisation; after 3000 steps it still named a random place
instead of the one in the record. All three were changed at once, so what each is worth is not known."""
DOCUMENTS = 64
"""Documents in a step, one a row, so that each begins at position zero as a task's prompt does."""
LENGTH = 128
"""Longest document in tokens; the rest of a longer one is cut."""
LEARNING_RATE, WARMUP_STEPS, WEIGHT_DECAY = 3e-3, 100, 0.1
INITIAL_DEVIATION = 0.06
"""Of the random weights: of the order of 1 / sqrt(width). With the customary 0.02 copying formed later."""
HELD_OUT_BATCHES = 16
IGNORED = -100
THREADS = 1
LOG = "training.yaml"
"""What the training was, beside the weights. Not of a type that counts as a base's content (see ``identity``)."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on the grammar's text; any text is known to it, byte by byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.islice(documents("nano tokenizer"), TOKENIZER_DOCUMENTS), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def make_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Return nano's shape: about a million parameters, every width divisible by 64 as 4-bit kernels want it."""
    return LlamaConfig(
        vocab_size=PIECES,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=INITIAL_DEVIATION,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )


def batches(tokenizer: PreTrainedTokenizerFast, texts: Iterator[str], seed: str) -> Iterator[torch.Tensor]:
    """Yield batches (DOCUMENTS, longest) of token ids, end-of-text after each document, ``IGNORED`` beyond it.

    Documents of like length go together, which keeps padding small; the batches then come in random order.
    """
    rng = random.Random(seed)
    while True:
        found = tokenizer(list(itertools.islice(texts, 16 * DOCUMENTS)))["input_ids"]
        found = sorted(([*ids, tokenizer.eos_token_id][:LENGTH] for ids in found), key=len)
        starts = list(range(0, len(found), DOCUMENTS))
        rng.shuffle(starts)
        for start in starts:
            part = [torch.tensor(ids) for ids in found[start : start + DOCUMENTS]]
            yield torch.nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=IGNORED)


def reading(tokenizer: PreTrainedTokenizerFast) -> Iterator[torch.Tensor]:
    """Yield what the training reads, a batch a step: lists told over and over first, then documents without end."""
    copying = itertools.islice(batches(tokenizer, repeats(f"nano {SEED}"), "order"), COPYING_STEPS)
    return itertools.chain(copying, batches(tokenizer, documents(f"nano {SEED}"), "order"))


def held_out(tokenizer: PreTrainedTokenizerFast) -> list[torch.Tensor]:
    """Return batches of documents drawn apart from the training's; in so small a world some are alike by chance."""
    return list(itertools.islice(batches(tokenizer, documents("nano held out"), "order"), HELD_OUT_BATCHES))


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int) -> list[tuple[int, int, float]]:
    """Train the model in place with AdamW, warm-up and a cosine; return (step, tokens read, held-out loss) as it went.

    The loss is in nats per token.
    """
    text, unread = reading(tokenizer), held_out(tokenizer)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), fused=True)
    curve, tokens, started = [], 0, time.perf_counter()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _rate(step, steps)
        batch = next(text)
        tokens += int((batch != IGNORED).sum())
        loss = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 200 == 0 or step == steps:
            curve.append((step, tokens, held_out_loss(model, unread)))
            seconds = time.perf_counter() - started
            print(f"step {step} loss {loss.item():.3f} held out {curve[-1][-1]:.3f} {seconds:.0f} s", flush=True)
    return curve


def _rate(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step."""
    return min(1.0, step / WARMUP_STEPS) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))


def _loss(model: LlamaForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    # padding lies on the right, so causal attention needs no mask for it; its token is any that exists
    logits = model(input_ids=batch[:, :-1].clamp(min=0), use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), ignore_index=IGNORED)


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, unread: list[torch.Tensor]) -> float:
    """Return the mean loss over every token of the batches, in nats."""
    weights = [int((batch[:, 1:] != IGNORED).sum()) for batch in unread]
    total = sum(_loss(model, batch).item() * weight for batch, weight in zip(unread, weights, strict=True))
    return total / sum(weights)


def make(output: Path, steps: int, command: str) -> None:
    """Make the base and write it, with the log of its training, into a folder in the Hugging Face layout."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    started = time.perf_counter()
    tokenizer = make_tokenizer()
    model = LlamaForCausalLM(make_config(tokenizer))
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} pieces", flush=True)
    curve = train(model, tokenizer, steps)
    seconds = time.perf_counter() - started
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    found = log(curve, command, seconds, weights_sha256(output))
    (output / LOG).write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")


def weights_sha256(base: Path) -> str:
    """Return the SHA-256 of a base's weights, which ties a log to them."""
    return hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()


def log(curve: list[tuple[int, int, float]], command: str, seconds: float, sha256: str) -> dict[str, Any]:
    """Return the facts of a training as plain data; losses in nats per token."""
    machine = environment.describe()
    names = ("step", "tokens_read", "held_out_loss")
    return {
        "recipe": command,
        "seed": SEED,
        "steps": curve[-1][0],
        "seconds": round(seconds, 1),
        "threads": THREADS,
        "torch": machine["packages"]["torch"],
        "transformers": machine["packages"]["transformers"],
        "cpu": machine["cpu"],
        "weights_sha256": sha256,
        "curve": [dict(zip(names, row, strict=True)) for row in curve],
    }


def main() -> None:
    """Make a base from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.nano.make", description="Make a built-in base.")
    parser.add_argument("base", choices=BASES)
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="folder to write (default: where the package keeps the base)")
    arguments = parser.parse_args()
    output = arguments.output or folder(arguments.base)
    options = "" if arguments.steps == STEPS else f" --steps {arguments.steps}"
    make(output, arguments.steps, f"{parser.prog} {arguments.base}{options}")
    place = f" --folder {output}" if arguments.output else ""
    print(f"saved {output}; its card: python -m tools.nano.card {arguments.base}{place}")


if __name__ == "__main__":
    main()
