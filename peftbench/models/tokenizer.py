"""Load a base model's tokenizer, and check that the model has an embedding for what it gives. No torch until used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.models import builtin, configs, files, unfit

_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
_NAMED = 3
"""How many tokens a message names."""
_WITHOUT = "copy the tokenizer's files of the model that this one was made from (tokenizer.json, tokenizer_config.json)"


def load_tokenizer(folder: Path, trust_remote_code: bool, ends: bool = True) -> Any:
    """Return a base model's tokenizer; for a shape without one, that of the built-in model, whose ids fit any model.

    If it names no end-of-text token, the config's is used. If it names no token for padding, or one without an
    embedding, another token is: padding is masked everywhere.

    Args:
        folder: the base model's files.
        trust_remote_code: whether code that comes with the tokenizer may run.
        ends: whether an end-of-text token is needed; a head for whole texts needs none.

    Raises:
        UserError: if there is no tokenizer, or no end-of-text token, or the model has no embedding for its special
            tokens, or code of another repository would run.
    """
    from transformers import AutoTokenizer

    unfit.check_code(folder, trust_remote_code)
    has_one = any((folder / name).is_file() for name in _FILES)
    weights = any(folder.glob("*.safetensors")) or (folder / files.INDEX).is_file()
    here = folder if has_one or weights else builtin.folder(builtin.BASES[0])
    try:
        tokenizer = AutoTokenizer.from_pretrained(here, trust_remote_code=trust_remote_code)
    except Exception as error:  # of many kinds, and a tokenizer's own code may raise any
        if not has_one:
            raise UserError(f"the folder has no tokenizer; {_WITHOUT}") from error
        reason = " ".join((str(error) or type(error).__name__).split())[:300]
        raise UserError(f"its tokenizer cannot be loaded: {reason}") from error
    vocabulary = _vocabulary(tokenizer)
    if vocabulary is not None and set(vocabulary) <= set(tokenizer.all_special_tokens):
        raise UserError(f"its tokenizer has no vocabulary (only special tokens), so every text is empty; {_WITHOUT}")
    if here == folder:
        _mend(tokenizer, folder, trust_remote_code, ends)
    return tokenizer


def _mend(tokenizer: Any, folder: Path, trust_remote_code: bool, ends: bool) -> None:
    """Give a tokenizer the end-of-text token of the config if it names none, and a token for padding.

    Raises:
        UserError: if there is no end-of-text token, or a special token has no embedding.
    """
    size = rows(folder, trust_remote_code)
    if tokenizer.eos_token_id is None and ends:
        tokenizer.eos_token = _end_of_text(tokenizer, folder, trust_remote_code, size)
    for kind, token, number in (
        ("end-of-text token (eos_token)", tokenizer.eos_token, tokenizer.eos_token_id),
        ("beginning-of-text token (bos_token)", tokenizer.bos_token, tokenizer.bos_token_id),
    ):
        if number is not None and size is not None and number >= size:
            raise UserError(
                f"its tokenizer's {kind} {token!r} has the id {number:,}, but the model has embeddings for {size:,} "
                "ids only; resize the embeddings (resize_token_embeddings, then save_pretrained), or name a token in "
                "tokenizer_config.json that the model knows"
            )
    pad = tokenizer.pad_token_id
    if pad is None or (size is not None and pad >= size):
        known = (tokenizer.unk_token_id, tokenizer.eos_token_id, 0)
        chosen = next(i for i in known if i is not None and (size is None or i < size))
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(chosen)


def rows(folder: Path, trust_remote_code: bool) -> int | None:
    """Return how many token ids a model has embeddings for, by its config; None if it does not say."""
    try:
        size = configs.load_config(folder, trust_remote_code).get_text_config().vocab_size
    except Exception:  # the config is reported where it is loaded
        return None
    return size if isinstance(size, int) else None


def _end_of_text(tokenizer: Any, folder: Path, trust_remote_code: bool, size: int | None) -> str:
    """Return the end-of-text token that a model's configs name by its id.

    Raises:
        UserError: if they name none that the tokenizer and the model have.
    """
    named: list[Any] = []
    with suppress(Exception):
        named.append(configs.load_config(folder, trust_remote_code).get_text_config().eos_token_id)
    with suppress(UserError):
        named.append(files.read_mapping(folder / "generation_config.json").get("eos_token_id"))
    for each in named:
        for number in each if isinstance(each, list) else [each]:
            if isinstance(number, int) and 0 <= number < min(len(tokenizer), size or len(tokenizer)):
                token = tokenizer.convert_ids_to_tokens(number)
                if isinstance(token, str):
                    return token
    raise UserError(
        "its tokenizer names no end-of-text token (eos_token), and neither config.json nor generation_config.json has "
        "an eos_token_id, so an answer's end can be neither learned nor scored; name one in tokenizer_config.json"
    )


def beyond(tokenizer: Any, size: int | None) -> dict[int, str]:
    """Return the tokens for which a model has no embedding, by their ids."""
    if size is None:
        return {}
    return {number: token for token, number in (_vocabulary(tokenizer) or {}).items() if number >= size}


def _vocabulary(tokenizer: Any) -> dict[str, int] | None:
    """Return a tokenizer's tokens with their ids, added ones included; None if its own code does not give them."""
    try:
        return dict(tokenizer.get_vocab())
    except NotImplementedError:
        return None


def without_embedding(ids: Iterable[int], tokens: dict[int, str], size: int | None) -> str | None:
    """Return which of some token ids have no embedding, in words; None if all have one.

    Args:
        ids: token ids of a text.
        tokens: the tokens without an embedding.
        size: number of ids that have one.
    """
    found = sorted({number for number in ids if number in tokens})
    if not found or size is None:
        return None
    return f"{_list(found, tokens)} {'have' if len(found) > 1 else 'has'} no embedding in the model, which has {size:,}"


def _list(found: Sequence[int], tokens: dict[int, str]) -> str:
    shown = ", ".join(f"{tokens[number]!r} (id {number:,})" for number in found[:_NAMED])
    more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    return f"{'tokens' if len(found) > 1 else 'token'} {shown}{more}"
