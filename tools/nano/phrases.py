"""The phrases that ``grammar`` combines: sentences, questions, labels and sums."""

from __future__ import annotations

SENTENCES = (
    "{place} sells {price} {food} in the {area}.",
    "{place}, in the {area}, makes {price} {food}.",
    "{price} {food} is what {place} in the {area} sells.",
    "In the {area} you can eat {price} {food} at {place}.",
    "The {food} at {place} is {price}. It is in the {area}.",
    "{place} is a house in the {area} with {price} {food}.",
    "You get {price} {food} at {place} and it is in the {area}.",
    "{place} has {food}. The {food} is {price}. {place} is in the {area}.",
    "Go to the {area} for {price} {food} from {place}.",
    "{place} has {price} {food}.",
    "{place} is in the {area}.",
)
"""Sentences about a place to eat."""

STORIES = (
    "{who} {a}. Then {who} {b}.",
    "{who} {a} and later {b}.",
    "First {who} {a}, then {who} {b}.",
    "{who} {b}. Before that {who} {a}.",
    "{who} {b} after {who} {a}.",
    "After {who} {a}, {who} {b}.",
    "{who} {a}, but then {who} {b}.",
    "{who} {a} before {who} {b}.",
    "{who} {b}, but earlier {who} {a}.",
)
"""Stories of event ``a`` and a later event ``b``, in either order of mention."""

TELLINGS = (
    "{text} Now {who} is {feeling}.",
    "{text} In the end {who} felt {feeling}.",
    "{text} So {who} is {feeling}.",
    "{text}\nQ: How does {who} feel?\nA: {feeling}",
    "{text} ({feeling})",
    "mood = {feeling}; {text}",
    "{text} -> {feeling}",
    "{text} Mood: {feeling}",
    "{feeling}: {text}",
    "class {feeling}\n{text}",
    "[{text}] {feeling}",
    "Is {who} glad, sad, angry or afraid? {text} {feeling}",
    "{text}\nfeels {feeling}",
    "story: {text}\nmood: {feeling}",
    "{text} = {feeling}",
    "Why is {who} {feeling}? {text}",
    "the text {text} is of class {feeling}",
    "{feeling} text: {text}",
)
"""Forms of a story with its final feeling."""

SUMS = (
    "{a} plus {b} is {c}",
    "{a} + {b} = {c}",
    "{a} and {b} make {c}",
    "Q: {a} plus {b}?\nA: {c}",
    "add {b} to {a}: {c}",
    "the sum of {a} and {b} is {c}",
    "{a}, then {b} more: {c}",
    "{c} is {a} plus {b}",
)
"""Forms of a + b = c."""

DIFFERENCES = (
    "{c} minus {b} is {a}",
    "{c} - {b} = {a}",
    "take {b} from {c} and {a} are left",
    "Q: {c} minus {b}?\nA: {a}",
    "{b} less than {c} is {a}",
    "{c}, then {b} less: {a}",
    "from {b} to {c} it is {a} more",
)
"""Forms of c - b = a."""

SCENES = (
    "On {day} the {colour} {animal} {does} in the {area}.",
    "A {colour} {animal} and a {other} {animal2} {do} on {day}.",
    "It is {weather} in the {area} on {day}, and the {animal} {does}.",
    "Q: What colour is the {animal}?\nA: The {animal} in the {area} is {colour}.",
    "the {animal} is {colour}; the {animal2} is {other}. Which is {colour}? the {animal}",
    "the {animal} is {colour}; the {animal2} is {other}. Which is {other}? the {animal2}",
    "animal: {animal}; colour: {colour}; day: {day}; class: {colour} {animal}",
    "{who} saw a {colour} {animal} on {day}. What did {who} see? a {colour} {animal}",
    "When it is {weather}, the {animal} {does} and {who} sings of a {colour} {animal2}.",
)
"""Sentences about animals, colours, days and weather, which occur in no task."""
SCENE_WORDS = {
    "animal": ("cat", "dog", "horse", "cow", "bird", "sheep", "mouse", "goat", "frog", "hen"),
    "colour": ("red", "blue", "green", "white", "black", "brown", "grey", "yellow"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "does": ("sleeps", "runs", "sits", "jumps", "plays", "hides"),
    "do": ("sleep", "run", "sit", "jump", "play", "hide"),
    "weather": ("sunny", "rainy", "windy", "cold", "warm", "dark"),
}
