"""The tool that makes a small encoder: what it reads, hides and writes."""

import random

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tools import encoder

WORDS = ("a", "small", "dog", "ran", "over", "the", "green", "hill", "and", "saw", "two", "grey", "cats", "asleep")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make three encoders of two steps from a text and a TSV file: with seed 0, again, with seed 1."""
    folder, draw = tmp_path_factory.mktemp("encoders"), random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=12)) for _ in range(80)]
    (folder / "plain.txt").write_text("\n\n".join(lines[:40]))
    (folder / "labelled.tsv").write_text("".join(f'SECRETLABEL\t"{line}\n' for line in lines[40:]))
    files = [str(folder / "plain.txt"), f"{folder / 'labelled.tsv'}:1"]
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        encoder.make(folder / name, files, steps=2, seed=seed)
    return folder


def test_the_same_seed_gives_the_same_weights(made):
    first, again, other = ((made / name / "model.safetensors").read_bytes() for name in ("first", "again", "other"))
    assert first == again != other
    log = yaml.safe_load((made / "first" / encoder.LOG).read_text())
    assert log["steps"] == 2
    assert log["curve"][-1]["held_out_loss"] > 0


def test_only_the_named_column_is_read(made):
    read = list(encoder.texts(f"{made / 'labelled.tsv'}:1"))
    assert len(read) == 40  # an unpaired quote opens no field that goes on over lines
    assert all(line.startswith('"') for line in read)
    pieces = AutoTokenizer.from_pretrained(made / "first").get_vocab()
    assert "green" in pieces
    assert not any("secret" in piece for piece in pieces)


def test_the_folder_loads_with_a_head_and_reads_pairs(made):
    model = AutoModelForSequenceClassification.from_pretrained(made / "first", num_labels=3)
    tokenizer = AutoTokenizer.from_pretrained(made / "first")
    pair = tokenizer("The dog ran", "two cats", return_tensors="pt")
    assert tokenizer.decode(pair["input_ids"][0]) == "[CLS] the dog ran [SEP] two cats [SEP]"
    assert pair["token_type_ids"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 1]]
    assert model(**pair).logits.shape == (1, 3)
    assert model.config.hidden_dropout_prob == 0.1


def test_each_row_is_read_once_in_an_epoch_within_the_limits(made):
    tokenizer = AutoTokenizer.from_pretrained(made / "first")
    rows = encoder.rows_of(tokenizer, ["the dog " * 100, "the", *(f"{one} dog saw two cats" for one in WORDS), "the"])
    assert {len(row) for row in rows} <= set(range(encoder.SHORTEST, encoder.LENGTH + 1))
    read = []
    for batch in encoder.batches(rows, random.Random(0), tokenizer.pad_token_id):
        assert batch.numel() <= encoder.TOKENS
        read += [tuple(i for i in ids if i != tokenizer.pad_token_id) for ids in batch.tolist()]
        if len(read) == len(rows):
            break
    assert sorted(read) == sorted(rows)


def test_special_tokens_are_neither_hidden_nor_predicted(made):
    tokenizer = AutoTokenizer.from_pretrained(made / "first")
    ids = torch.full((200, 40), 9)
    ids[:, 0], ids[:, -2], ids[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    hidden, labels = encoder.masked(ids, tokenizer, torch.Generator().manual_seed(0))
    words = ids >= len(encoder.SPECIAL)
    assert (hidden[~words] == ids[~words]).all()
    assert (labels[~words] == encoder.IGNORED).all()
    chosen = labels != encoder.IGNORED
    assert (labels[chosen] == 9).all()
    assert (hidden[~chosen] == ids[~chosen]).all()
    assert chosen[words].float().mean().item() == pytest.approx(encoder.MASKED, abs=0.02)
    assert (hidden[chosen] == tokenizer.mask_token_id).float().mean().item() == pytest.approx(0.8, abs=0.04)
