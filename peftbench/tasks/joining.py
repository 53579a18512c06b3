"""Where an answer begins in the tokens of a prompt with its answer. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_MOST_OTHER = 16
"""Most tokens at the end of a prompt that are looked at because they are others if an answer follows."""


def joined(
    prompt: Sequence[int], whole: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> tuple[list[int], int]:
    """Return the tokens of a prompt with its answer, and the position at which the answer begins in them.

    Usually the prompt's tokens begin the whole text's. Some tokenizers make others of a prompt's end if an answer
    follows: GPT-2 has one token for two line feeds at the end of a text, and two before a word. The prompt then keeps
    its own tokens, behind which decoding starts, if a token of the whole text begins with the answer. If none does,
    since the prompt's end merges with the answer, the answer is everything behind the tokens that both share.

    Args:
        prompt: the prompt's token ids.
        whole: those of the prompt with the answer.
        decode: returns the text of token ids as it is.
    """
    start = _shared(prompt, whole)
    rest = prompt[start:]
    if not rest or len(rest) > _MOST_OTHER:
        return list(whole), start
    text = decode(rest)
    if text and "\ufffd" not in text:
        for end in range(start + 1, min(len(whole), start + len(text.encode())) + 1):
            if decode(whole[start:end]) == text:
                return [*prompt, *whole[end:]], len(prompt)
    return list(whole), start


def _shared(prompt: Sequence[int], whole: Sequence[int]) -> int:
    """Return how many tokens two texts share at their beginning."""
    pairs = enumerate(zip(prompt, whole, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(prompt), len(whole)))
