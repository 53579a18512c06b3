"""A tokenizer that lacks special tokens is mended where that is harmless, and refused in words where it is not."""

from __future__ import annotations

import pytest
import torch

from peftbench.errors import UserError
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.models.tokenizer import beyond, load_tokenizer, without_embedding
from tests.support import weights


@pytest.fixture
def folder(tiny, tmp_path):
    return weights.copy(tiny, tmp_path / "base")


def special(folder, **tokens):
    weights.edit(folder / "tokenizer_config.json", **tokens)
    return folder


def loaded(folder):
    return load.load(folder, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False)


def test_a_tokenizer_without_padding_pads_with_a_token_that_it_has(folder):
    assert load_tokenizer(folder, False).pad_token_id == 1


def test_a_padding_token_without_an_embedding_is_replaced(folder):
    special(weights.with_ids_beyond(folder), pad_token="<pad>")
    assert load_tokenizer(folder, False).pad_token_id == 1


@pytest.mark.parametrize("pad", [320, 99_999, -1])
def test_a_config_whose_padding_is_outside_the_vocabulary_loads(pad, tiny, folder):
    weights.edit(folder / "config.json", pad_token_id=pad)
    found = loaded(folder)
    assert (found.model.config.pad_token_id, found.tokenizer.pad_token_id) == (None, 1)
    ids = torch.arange(2, 10)[None]
    assert torch.equal(found.model(input_ids=ids).logits, loaded(tiny).model(input_ids=ids).logits)


@pytest.mark.parametrize(("config", "generation"), [(1, None), ([99_999, 1], None), (None, 1), (None, [1, 2])])
def test_a_tokenizer_without_end_of_text_takes_the_configs(config, generation, folder):
    special(folder, eos_token=None)
    weights.edit(folder / "config.json", eos_token_id=config)
    weights.edit(folder / "generation_config.json", eos_token_id=generation)
    assert load_tokenizer(folder, False).eos_token == "</s>"


def test_without_an_end_of_text_token_anywhere_a_base_is_refused(folder):
    special(folder, eos_token=None, bos_token=None)
    weights.edit(folder / "config.json", eos_token_id=None)
    weights.edit(folder / "generation_config.json", eos_token_id=None)
    with pytest.raises(UserError, match=r"names no end-of-text token.*name one in tokenizer_config\.json"):
        load_tokenizer(folder, False)


def test_a_tokenizer_without_beginning_of_text_is_as_good(folder):
    assert load_tokenizer(special(folder, bos_token=None), False).bos_token is None


@pytest.mark.parametrize("kind", ["eos_token", "bos_token"])
def test_a_special_token_without_an_embedding_is_refused(kind, folder):
    special(weights.with_ids_beyond(folder), **{kind: "<|im_end|>"})
    with pytest.raises(UserError, match=rf"\({kind}\) '<\|im_end\|>' has the id 321, .* 320 ids only; resize"):
        load_tokenizer(folder, False)


@pytest.mark.parametrize(
    ("kind", "told"),
    [(None, "has no tokenizer; copy"), ("TokenizersBackend", "has no tokenizer|cannot be loaded")]
    + [(kind, "only special tokens") for kind in ("LlamaTokenizer", "GPT2Tokenizer")],
)
def test_no_tokenizer_and_an_empty_one_are_refused(kind, told, folder):
    """transformers makes a tokenizer without words if only its kind is known."""
    (folder / "tokenizer.json").unlink()
    if kind is None:
        (folder / "tokenizer_config.json").unlink()
    else:
        special(folder, tokenizer_class=kind)
    with pytest.raises(UserError, match=told):
        load_tokenizer(folder, False)


def test_a_vocabulary_larger_than_the_tokenizers_is_right(folder):
    tokenizer = load_tokenizer(folder, False)
    assert len(tokenizer) < 320
    assert beyond(tokenizer, 320) == {}


def test_a_token_without_an_embedding_is_refused_by_the_model_itself(folder):
    found = loaded(weights.with_ids_beyond(folder))
    tokens = beyond(found.tokenizer, 320)
    assert tokens == {320: "<pad>", 321: "<|im_end|>"}
    ids = found.tokenizer("the sky<|im_end|>", return_tensors="pt").input_ids
    assert without_embedding(ids[0].tolist(), tokens, 320) == (
        "token '<|im_end|>' (id 321) has no embedding in the model, which has 320"
    )
    with pytest.raises(UserError, match=r"a text contains the token '<\|im_end\|>' \(id 321\)"):
        found.model(input_ids=ids)
    found.model(input_ids=ids[:, :-1])
