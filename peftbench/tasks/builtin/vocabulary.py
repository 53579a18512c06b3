"""The vocabulary shared by the built-in tasks and the text on which nano is pretrained.

It is in one file, so that no task uses a word that the base model has not seen. Keep it small: each word takes at least
one of the tokenizer's roughly 1,000 tokens.
"""

from __future__ import annotations


def _split(text: str, mark: str = " ") -> tuple[str, ...]:
    return tuple(text.split(mark))


PEOPLE = _split(
    "Ada Ben Cleo Dora Emil Finn Greta Hugo Ida Jon Kira Leo Mira Nils Olga Paul Rosa Sam Tess Uma Vera Wim Yara Zoe"
)
"""First names of people."""

PLACES = _split(
    "Alba Brio Corvo Delta Elmo Fiora Gala Havana Iris Juno Kobe Luna Milo Nova Orion Porto Quinta Roma "
    "Sola Tara Umbra Vega Wanda Zenit"
)
"""Names of places to eat."""

FOODS = _split("soup bread fish rice pizza salad cake curry tea pasta cheese eggs beans duck lamb noodles")
"""What a place serves; each reads well after an adjective and without an article."""

AREAS = ("north", "south", "east", "west", "centre", "harbour", "hills", "valley")
"""Where a place is; each reads well after "in the"."""

PRICES = {"low": "cheap", "middle": "fair", "high": "costly"}
"""Price in a record -> adjective."""

NUMBERS = _split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
"""Number words, each at the index of its value."""

THINGS = ("pears", "nuts", "coins", "books", "cups", "stones", "keys", "balls")
"""Things that are counted."""

GAINS = ("got", "found", "bought", "won")
"""Verbs that increase a number."""

LOSSES = ("lost", "ate", "sold", "broke")
"""Verbs that decrease a number."""

EVENTS = {
    "glad": _split(
        "won a race, found a coin, got a gift, met a friend, heard a song, danced all night, had a party, saw the sun",
        ", ",
    ),
    "sad": _split(
        "lost a ring, missed a friend, broke a cup, left home, was alone, saw a grave, said goodbye, heard bad news",
        ", ",
    ),
    "angry": _split(
        "heard a lie, was pushed, caught a thief, was cheated, "
        "paid too much, was called a fool, waited for hours, had a fight",
        ", ",
    ),
    "afraid": _split(
        "met a wolf, saw a ghost, heard a scream, was in the dark, "
        "fell in deep water, saw a snake, was chased, smelled smoke",
        ", ",
    ),
}
"""Feeling -> events that cause it."""
