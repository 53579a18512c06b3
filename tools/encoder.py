"""Make a small BERT for trials with classification heads: ``python -m tools.encoder OUTPUT FILE[:COLUMN] ...``.

A WordPiece tokenizer and an encoder of about 1.5 million parameters are trained from scratch on the lines of the files,
by masked language modelling on one CPU thread, so that the same machine gives the same weights. With ``:COLUMN``,
counted from 0, the lines are records of a CSV file, or of a TSV file without quoting, and only that column is read, so
labels stay unread. The folder also gets ``pretraining.yaml``: the files, the settings and the curve.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = 6000
"""Number of tokens in the vocabulary, including special ones."""
LENGTH = 64
"""Largest number of tokens in a row; a longer line becomes several rows."""
SHORTEST = 6
"""Smallest number of tokens in a row, with both special ones: fewer give a masked word no context."""
TOKENS = 2048
"""Largest number of tokens in a step, with padding. A row begins at position 0, as a text of a task does."""
STEPS = 1800
LEARNING_RATE, WARMUP_STEPS, WEIGHT_DECAY = 2e-3, 100, 0.01
MASKED = 0.2
"""Share of the tokens that are predicted; of these, 80 % are masked, 10 % replaced and 10 % kept, as in BERT."""
HELD_OUT = 64
"""Every so many rows one is held out."""
IGNORED = -100
LOG = "pretraining.yaml"


def texts(source: str) -> Iterator[str]:
    """Yield the lines of a file, or of one column of it, that are not empty."""
    name, _, column = source.partition(":")
    with Path(name).open(encoding="utf-8", newline="") as file:
        if column:
            tabs = name.endswith(".tsv")
            records = csv.reader(file, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else 0)
            lines = (record[int(column)] for record in records)
        else:
            lines = iter(file)
        yield from (line.strip() for line in lines if line.strip())


def make_tokenizer(lines: Sequence[str]) -> BertTokenizerFast:
    """Return a lower-casing WordPiece tokenizer trained on the lines."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=PIECES, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=2 * LENGTH)


def make_model(tokenizer: BertTokenizerFast) -> BertForMaskedLM:
    """Return an untrained BERT with widths divisible by 64, as 4-bit kernels require."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=2 * LENGTH,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,  # an epoch or two of a small model: it underfits
        attention_probs_dropout_prob=0.0,
    )
    model = BertForMaskedLM(config)
    # dropout is for fine-tuning, where data are few
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1
    return model


def rows_of(tokenizer: BertTokenizerFast, lines: Sequence[str]) -> list[list[int]]:
    """Return the token ids of all rows, each with both special tokens, without repeated ones."""
    room, first, last = LENGTH - 2, tokenizer.cls_token_id, tokenizer.sep_token_id
    encoded = tokenizer(list(lines), add_special_tokens=False, verbose=False)["input_ids"]
    pieces = (ids[start : start + room] for ids in encoded for start in range(0, len(ids), room))
    return list(dict.fromkeys((first, *ids, last) for ids in pieces if len(ids) + 2 >= SHORTEST))


def batches(rows: Sequence[Sequence[int]], rng: random.Random, pad: int) -> Iterator[torch.Tensor]:
    """Yield batches (rows, longest) of at most ``TOKENS`` token ids, one epoch after another.

    Rows of similar length are batched together, which keeps padding small; batches come in random order.
    """
    while True:
        ordered = sorted(rows, key=lambda row: len(row) + rng.random())  # in random order if equally long
        found, start = [], 0
        while start < len(ordered):
            size = 1
            while start + size < len(ordered) and (size + 1) * len(ordered[start + size]) <= TOKENS:
                size += 1
            part = [torch.tensor(row) for row in ordered[start : start + size]]
            found.append(torch.nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=pad))
            start += size
        rng.shuffle(found)
        yield from found


def masked(ids: torch.Tensor, tokenizer: BertTokenizerFast, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch with some tokens hidden, and its labels, ``IGNORED`` where nothing is predicted."""
    chance, kind = torch.rand(ids.shape, generator=draw), torch.rand(ids.shape, generator=draw)
    chosen = (chance < MASKED) & (ids >= len(SPECIAL))
    other = torch.randint(len(SPECIAL), len(tokenizer), ids.shape, generator=draw)
    hidden = torch.where(chosen & (kind < 0.8), tokenizer.mask_token_id, ids)
    hidden = torch.where(chosen & (kind >= 0.9), other, hidden)
    return hidden, torch.where(chosen, ids, IGNORED)


def loss_of(model: BertForMaskedLM, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of the predicted tokens; logits are computed for these only, since the rest is wasted."""
    states = model.bert(input_ids=hidden, attention_mask=(hidden != model.config.pad_token_id).long())[0]
    chosen = labels != IGNORED
    return torch.nn.functional.cross_entropy(model.cls(states[chosen]), labels[chosen])


def train(
    model: BertForMaskedLM, tokenizer: BertTokenizerFast, rows: Sequence[Sequence[int]], steps: int, seed: int
) -> list[dict[str, float]]:
    """Train the model in place with AdamW, linear warm-up and cosine decay; return the curve of losses in nats."""
    pad = tokenizer.pad_token_id
    unread = list(itertools.islice(batches(rows[::HELD_OUT], random.Random(seed), pad), 8))
    read = batches([row for at, row in enumerate(rows) if at % HELD_OUT], random.Random(seed), pad)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), fused=True)
    draw = torch.Generator().manual_seed(seed)
    curve, tokens, started = [], 0, time.perf_counter()
    for step in range(1, steps + 1):
        rate = min(1.0, step / WARMUP_STEPS) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        batch = next(read)
        tokens += int((batch != pad).sum())
        loss = loss_of(model, *masked(batch, tokenizer, draw))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 200 == 0 or step == steps:
            again = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                losses = [loss_of(model, *masked(batch, tokenizer, again)).item() for batch in unread]
            curve.append({"step": step, "tokens_read": tokens, "held_out_loss": sum(losses) / len(losses)})
            print(f"{curve[-1]} {time.perf_counter() - started:.0f} s", flush=True)
    return curve


def make(output: Path, files: Sequence[str], steps: int, seed: int) -> None:
    """Train an encoder on files and write its folder in the Hugging Face layout."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    lines = [line for source in files for line in texts(source)]
    tokenizer = make_tokenizer(lines)
    model, rows = make_model(tokenizer), rows_of(tokenizer, lines)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} pieces, {len(rows):,} rows", flush=True)
    curve = train(model, tokenizer, rows, steps, seed)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    weights = hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()
    log = {"files": list(files), "steps": steps, "seed": seed, "weights_sha256": weights, "curve": curve}
    (output / LOG).write_text(yaml.safe_dump(log, sort_keys=False), encoding="utf-8")


def main() -> None:
    """Make an encoder from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.encoder", description=__doc__)
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("files", nargs="+", metavar="FILE[:COLUMN]")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and masks (default: %(default)s)")
    given = parser.parse_args()
    make(given.output, given.files, given.steps, given.seed)


if __name__ == "__main__":
    main()
