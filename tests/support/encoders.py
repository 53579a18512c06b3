"""Tiny encoders with random weights and a tokenizer with special tokens, and tasks that a head learns on them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from peftbench.records import Task

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 96,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_OWN = {
    "roberta": {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 0},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 16},
}
FAMILIES = ("bert", "roberta", "deberta-v2")


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that puts [CLS] before a text and [SEP] after each, as BERT's does."""
    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = ["the red sky is good bad blue green sea rose leaf blood grass yes no one two three very not"] * 3
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=96, special_tokens=SPECIAL, show_progress=False))
    ends = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=inputs, **names)


def make(folder: Path, family: str = "bert", **changes) -> Path:
    """Write a tiny encoder that was "trained" on masked words, so that it lacks a head for whole texts."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save_pretrained(folder)
    config = transformers.AutoConfig.for_model(family, **(_SIZES | _OWN.get(family, {}) | changes))
    torch.manual_seed(0)
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    return folder


def texts(folder: Path, pairs: bool = False, kind: str = "classification", **changes) -> Task:
    """Write a few texts whose label follows from a word, and return the task."""
    folder.mkdir(parents=True, exist_ok=True)
    things, words = ("sky", "sea", "rose", "leaf", "grass", "blood"), {"good": ("yes", 3.5), "bad": ("no", 0.5)}
    rows = [
        {"a": f"the {thing} is {'very ' * n}{word}", "b": f"{thing} blue", "label": label, "number": number + n}
        for thing in things
        for n in range(3)
        for word, (label, number) in words.items()
    ]
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = "{{ number }}" if kind == "regression" else "{{ label }}"
    settings = {
        "files": {split: str(path) for split in ("train", "validation", "test")},
        "prompt": "{{ a }}",
        "prompt_pair": "{{ b }}" if pairs else "",
        "target": target,
        "choices": () if kind == "regression" else ("no", "yes"),
    }
    return Task("texts", kind, **{**settings, **changes})
