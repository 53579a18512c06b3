"""The seeded grammar that generates nano's pretraining text: many formats close to those of the tasks.

A document has one to three texts of one kind in one format. Formats are combined from parts, so that the model must
infer a format rather than memorize it. Formats of the tasks are excluded: records of the form
``key: value | key: value``, the sentences of ``describe``, changes separated by ``/``, and ``| class:``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from peftbench.tasks.builtin.vocabulary import (
    AREAS,
    EVENTS,
    FOODS,
    GAINS,
    LOSSES,
    NUMBERS,
    PEOPLE,
    PLACES,
    PRICES,
    THINGS,
)
from tools.nano.phrases import DIFFERENCES, SCENE_WORDS, SCENES, SENTENCES, STORIES, SUMS, TELLINGS

Kind = Callable[[random.Random], Callable[[], str]]
"""Chooses a format and returns a function that writes one text in it."""

FEELINGS = tuple(EVENTS)
REPEATED_WORDS = 32
POOLS = (FOODS, PEOPLE, PLACES, AREAS, THINGS, NUMBERS)
KEYS = {
    "place": ("name", "place", "house", "title"),
    "food": ("food", "dish", "meal", "menu"),
    "area": ("area", "side", "part", "where"),
    "price": ("price", "cost", "bill", "level"),
}
SIGNS = ((" = ", "; "), (" = ", ", "), (": ", ", "), (": ", "\n"), (": ", "; "), (" - ", " | "), (" is ", ", "))
"""Separators in a record: between key and value, and between pairs."""


def documents(seed: str) -> Iterator[str]:
    """Yield pretraining documents without end, the same for the same seed on every machine."""
    rng = random.Random(seed)
    kinds = [kind for kind, weight in KINDS for _ in range(weight)]
    while True:
        write = rng.choice(kinds)(rng)
        times = rng.choice((1, 1, 1, 1, 2, 3))
        yield "\n".join(write() for _ in range(times))


def repeats(seed: str) -> Iterator[str]:
    """Yield lists of words, each repeated up to ``REPEATED_WORDS`` words."""
    rng = random.Random(seed)
    while True:
        words = [rng.choice(rng.choice(POOLS)) for _ in range(rng.randrange(3, 11))]
        yield " ".join((words * REPEATED_WORDS)[:REPEATED_WORDS])


def _facts(rng: random.Random) -> tuple[dict[str, str], str]:
    level = rng.choice(tuple(PRICES))
    facts = {"place": rng.choice(PLACES), "food": rng.choice(FOODS), "area": rng.choice(AREAS), "price": PRICES[level]}
    return facts, level


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _place(rng: random.Random) -> Callable[[], str]:
    """A plain sentence or two about a place to eat."""
    return lambda: _upper(rng.choice(SENTENCES).format(**_facts(rng)[0]))


def _scene(rng: random.Random) -> Callable[[], str]:
    """A sentence about animals, colours and days."""
    form = rng.choice(SCENES)

    def write() -> str:
        words = {kind: rng.choice(given) for kind, given in SCENE_WORDS.items()}
        words["animal2"] = rng.choice([animal for animal in SCENE_WORDS["animal"] if animal != words["animal"]])
        words["other"] = rng.choice([colour for colour in SCENE_WORDS["colour"] if colour != words["colour"]])
        return form.format(**words, area=rng.choice(AREAS), who=rng.choice(PEOPLE))

    return write


def _record(rng: random.Random) -> Callable[[], str]:
    """A record of a place with a sentence of the same facts, before or after it, or with a question about it."""
    keys = {fact: rng.choice(names) for fact, names in KEYS.items()}
    join, sep = rng.choice(SIGNS)
    order = list(KEYS)
    if rng.random() < 0.6:
        rng.shuffle(order)
    sentence, arrow = rng.choice(SENTENCES), rng.choice((" -> ", "\n", " so: ", " => ", sep + "story" + join, " // "))
    plain, ask = rng.random() < 0.2, rng.random()
    questions = (
        ("place", rng.choice(("Which place?", "What is the name?", "Who sells it?"))),
        ("food", rng.choice(("What food?", "What is on the menu?", "What can you eat?"))),
        ("area", rng.choice(("Where is it?", "Which area?", "In which part?"))),
        ("price", rng.choice(("What price?", "Is it cheap or costly?", "What does it cost?"))),
    )

    def write() -> str:
        facts, level = _facts(rng)
        given = facts if plain else {**facts, "price": level}
        record = sep.join(keys[fact] + join + given[fact] for fact in order)
        if ask < 0.6:
            return record + arrow + _upper(sentence.format(**facts))
        if ask < 0.75:
            return _upper(sentence.format(**facts)) + arrow + record
        fact, question = rng.choice(questions)
        return f"{record}\nQ: {question}\nA: {facts[fact]}"

    return write


def _person(rng: random.Random) -> Callable[[], str]:
    """A record of a person, and a question or a sentence about it."""
    join, sep = rng.choice(SIGNS)
    keys = ["name", rng.choice(("age", "years")), rng.choice(("has", "owns")), rng.choice(("mood", "feels")), "home"]
    rng.shuffle(keys)
    keys = keys[: rng.randrange(2, 6)]
    asked = rng.choice(keys)
    ending = rng.choice((f"\nQ: {asked}\nA: ", f" -> {asked}: ", f" ({asked}) ", f"\nThe {asked} is "))

    def write() -> str:
        values = {"name": rng.choice(PEOPLE), "home": rng.choice(AREAS)}
        values["age"] = values["years"] = rng.choice(NUMBERS)
        values["has"] = values["owns"] = f"{rng.choice(NUMBERS)} {rng.choice(THINGS)}"
        values["mood"] = values["feels"] = rng.choice(FEELINGS)
        return sep.join(key + join + values[key] for key in keys) + ending + values[asked]

    return write


def _story(rng: random.Random) -> Callable[[], str]:
    """One or two events and the feeling caused by the last one, as a story, an answer or a label."""
    two = rng.random() < 0.75
    order = rng.choice(STORIES)
    telling = rng.choice(TELLINGS)

    def write() -> str:
        who, feeling = rng.choice(PEOPLE), rng.choice(FEELINGS)
        b, a = rng.choice(EVENTS[feeling]), rng.choice(EVENTS[rng.choice(FEELINGS)])
        text = order.format(who=who, a=a, b=b) if two else f"{who} {b}."
        return telling.format(text=text, who=who, feeling=feeling)

    return write


def _sum(rng: random.Random) -> Callable[[], str]:
    """One sum or difference up to twenty, as a fact, a question or a comparison."""
    plus = rng.choice(SUMS)
    minus = rng.choice(DIFFERENCES)
    share = rng.choice((0.0, 0.5, 0.5, 1.0))

    def write() -> str:
        c = rng.randrange(0, len(NUMBERS))
        b = rng.randrange(0, c + 1)
        b = min(b, rng.randrange(0, 13))
        form = plus if rng.random() < share else minus
        return form.format(a=NUMBERS[c - b], b=NUMBERS[b], c=NUMBERS[c])

    return write


def _changes(rng: random.Random) -> Callable[[], str]:
    """A number of things, one to three changes, and the final number, in some formats also the numbers in between."""
    begin = rng.choice(
        ("{who} has {n} {things}. ", "{n} {things}: ", "There are {n} {things}. ", "start {n} {things}, ")
    )
    change = rng.choice(("{who} {verb} {n}. ", "{verb} {n}, ", "then {verb} {n}; ", "{verb} {n} again. "))
    after = rng.choice(("", "", "that is {n}, "))
    end = rng.choice(
        (
            "Now {n}.",
            "left: {n}",
            "Total {n}.",
            "in total {n}",
            "{who} has {n} {things}.",
            "Q: How many?\nA: {n}",
            "= {n}",
        )
    )
    count = rng.choice((1, 1, 2, 2, 3))

    def write() -> str:
        words = {"who": rng.choice(PEOPLE), "things": rng.choice(THINGS)}
        total = rng.randrange(2, 16)
        text = begin.format(n=NUMBERS[total], **words)
        for step in range(count):
            by = rng.randrange(1, 8)
            more = by > total or (total + by < len(NUMBERS) and rng.random() < 0.5)
            total += by if more else -by
            text += change.format(verb=rng.choice(GAINS if more else LOSSES), n=NUMBERS[by], **words)
            if step < count - 1:
                text += after.format(n=NUMBERS[total])
        return text + end.format(n=NUMBERS[total], **words)

    return write


def _copy(rng: random.Random) -> Callable[[], str]:
    """A list of words, written two or three times with separators between the words."""
    sep = rng.choice((", ", " ", " | ", " / ", "; ", " and "))
    again = rng.choice((" -> ", "\n", " = ", ": ", " again: ", sep))
    length, times = rng.randrange(3, 9), rng.choice((2, 2, 3))

    def write() -> str:
        return again.join([sep.join([rng.choice(rng.choice(POOLS)) for _ in range(length)])] * times)

    return write


def _list(rng: random.Random) -> Callable[[], str]:
    """A list and a result: copied, reversed, counted, its first or last item; or counting up or down."""
    pool: tuple[str, ...] = rng.choice(POOLS)
    sep = rng.choice((", ", " ", " | ", " / ", "; "))
    verb = rng.choice(("copy", "turn", "count", "first", "last", "up", "down"))
    sign = rng.choice((": ", " = ", " -> "))

    def write() -> str:
        if verb in ("up", "down"):
            low = rng.randrange(0, 16)
            run = NUMBERS[low : low + rng.randrange(3, 7)]
            return f"{verb}{sign}" + sep.join(run if verb == "up" else run[::-1])
        items = [rng.choice(pool) for _ in range(rng.randrange(2, 7))]
        done = {
            "copy": sep.join(items),
            "turn": sep.join(items[::-1]),
            "count": NUMBERS[len(items)],
            "first": items[0],
            "last": items[-1],
        }[verb]
        return f"{verb}: {sep.join(items)}{sign}{done}"

    return write


KINDS: tuple[tuple[Kind, int], ...] = (
    (_place, 1),
    (_scene, 1),
    (_record, 7),
    (_person, 2),
    (_story, 4),
    (_sum, 3),
    (_changes, 6),
    (_copy, 1),
    (_list, 2),
)
"""Each kind of document with its weight."""
