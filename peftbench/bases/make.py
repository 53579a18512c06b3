"""Make a built-in base from nothing: ``python -m peftbench.bases.make nano [--steps N] [--output FOLDER]``.

Text from the seeded grammar, a byte-level BPE tokenizer trained on it, and a small Llama trained on one CPU thread, so
that the same machine gives the same weights.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from peftbench.bases import BASES, folder
from peftbench.bases.grammar import documents

SEED = 0
PIECES = 1024
"""Tokenizer pieces, special ones included."""
TOKENIZER_DOCUMENTS = 40_000
STEPS = 3000
ROWS, LENGTH = 16, 128
"""Rows of text in a step, and tokens in a row."""
LEARNING_RATE, WARMUP_STEPS, WEIGHT_DECAY = 3e-3, 100, 0.1
HELD_OUT_ROWS = 128


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
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )


def rows(tokenizer: PreTrainedTokenizerFast, seed: str) -> Iterator[list[int]]:
    """Yield rows of ``LENGTH`` + 1 tokens: whole documents with end-of-text after each, only the last one cut.

    Every row begins with a document, since at position zero a task's prompt begins too.
    """
    texts = documents(seed)
    row: list[int] = []
    while True:
        for ids in tokenizer(list(itertools.islice(texts, 512)))["input_ids"]:
            row += [*ids, tokenizer.eos_token_id]
            if len(row) > LENGTH:
                yield row[: LENGTH + 1]
                row = []


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int) -> list[tuple[int, float]]:
    """Train the model in place with AdamW, warm-up and a cosine; return (step, held-out loss in nats per token)."""
    text = rows(tokenizer, f"nano {SEED}")
    held_out = torch.tensor(list(itertools.islice(rows(tokenizer, "nano held out"), HELD_OUT_ROWS)))
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), fused=True)
    curve, started = [], time.perf_counter()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _rate(step, steps)
        loss = _loss(model, torch.tensor(list(itertools.islice(text, ROWS))))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 250 == 0 or step == steps:
            curve.append((step, _held_out_loss(model, held_out)))
            seconds = time.perf_counter() - started
            print(f"step {step} loss {loss.item():.3f} held out {curve[-1][1]:.3f} {seconds:.0f} s", flush=True)
    return curve


def _rate(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step."""
    warm = min(1.0, step / WARMUP_STEPS)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _loss(model: LlamaForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def _held_out_loss(model: LlamaForCausalLM, held_out: torch.Tensor) -> float:
    return sum(_loss(model, part).item() * len(part) for part in held_out.split(ROWS)) / len(held_out)


CARD = """---
license: apache-2.0
library_name: transformers
tags: [peftbench]
---

# nano

The base model that ships inside peftbench: a Llama of {parameters:,} parameters ({layers} layers, width {width},
{pieces} byte-level BPE pieces) in fp32. With it, fine-tuning methods can be compared on a laptop, in minutes, offline.

It has read nothing but text that peftbench's own grammar generated (`peftbench/bases/grammar.py`): records and
sentences about places to eat, small stories and the feelings they leave, sums in words, lists, a few animals. It has
read formats near the built-in tasks, never a task's own. It knows nothing of the world and is of no other use.

- recipe: `python -m peftbench.bases.make nano{options}`
- read: {tokens:,} tokens of text, {steps:,} steps of {rows} rows of {length} tokens, AdamW at {rate:g}, seed {seed}
- time: {seconds:.0f} s on one CPU thread (torch {torch}, transformers {transformers})
- loss on held-out text of the same grammar: {loss:.3f} nats per token, a perplexity of {perplexity:.2f}
- licence: Apache-2.0, as peftbench; made from generated text only

| step | held-out loss |
|---:|---:|
{curve}

Documents are separated by `</s>`, which the model has learned to end a text with. The tokenizer adds no `<s>` itself.
"""


def card(model: LlamaForCausalLM, curve: list[tuple[int, float]], seconds: float) -> str:
    """Return the model card."""
    steps, loss = curve[-1]
    return CARD.format(
        parameters=model.num_parameters(),
        layers=model.config.num_hidden_layers,
        width=model.config.hidden_size,
        pieces=PIECES,
        options="" if steps == STEPS else f" --steps {steps}",
        tokens=steps * ROWS * LENGTH,
        steps=steps,
        rows=ROWS,
        length=LENGTH,
        rate=LEARNING_RATE,
        seed=SEED,
        seconds=seconds,
        torch=torch.__version__.partition("+")[0],
        transformers=transformers.__version__,
        loss=loss,
        perplexity=math.exp(loss),
        curve="\n".join(f"| {step} | {value:.3f} |" for step, value in curve),
    )


def main() -> None:
    """Make a base and save it in the Hugging Face layout."""
    parser = argparse.ArgumentParser(prog="python -m peftbench.bases.make", description="Make a built-in base.")
    parser.add_argument("base", choices=BASES)
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="folder to write (default: where the package keeps the base)")
    arguments = parser.parse_args()
    output = arguments.output or folder(arguments.base)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    started = time.perf_counter()
    tokenizer = make_tokenizer()
    model = LlamaForCausalLM(make_config(tokenizer))
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} pieces", flush=True)
    curve = train(model, tokenizer, arguments.steps)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / "README.md").write_text(card(model, curve, time.perf_counter() - started), encoding="utf-8")
    print(f"saved {output}")


if __name__ == "__main__":
    main()
