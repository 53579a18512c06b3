"""Templates for well-known datasets, which turn their records into prompts and answers. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

CHUNK_CHARACTERS = 500
"""Default length of the longest chunk of plain text: about 125 tokens of English, so that the default
``sequence_length`` truncates little."""


@dataclass(frozen=True)
class Template:
    """Defaults for a task's block. Fields named like keys of the block apply if the block does not give them."""

    name: str
    doc: str
    """What it is for."""
    reads: str
    """The fields of the data that it uses."""
    kind: str
    prompt: str
    target: str
    choices: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    several_references: bool = False
    max_new_tokens: int | None = None
    answer_pattern: str | None = None
    stop: tuple[str, ...] = ()
    messages: str | None = None
    chat: bool = False

    def block(self) -> dict[str, Any]:
        """Return the keys of a task's block that the template provides."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return {key: value for key, value in plain.items() if key not in ("name", "doc", "reads") and value}


_INSTRUCTION = """\
Below is an instruction that describes a task{% if {input} is defined and {input} %}, \
paired with an input that provides further context{% endif %}. \
Write a response that appropriately completes the request.

### Instruction:
{{ instruction }}
{% if {input} is defined and {input} %}
### Input:
{{ {input} }}
{% endif %}
### Response:"""
"""The prompt of Stanford Alpaca (Taori et al. 2023), for records with and without an input."""
CONVERSATION = (
    "{% for role, text in turns %}{{ role | capitalize }}: {{ text }}\n{% endfor %}Assistant:",
    "{{ answer }}",
)
"""Prompt and target of a conversation where no chat template writes it."""
_SUBJECT = "{% if text is defined %}{{ text.split('||')[0] | trim }}{% else %}{{ meaning_representation }}{% endif %}"
_SENTENCE = (
    "{% if text is defined %}{{ text.split('||', 1)[1] }}"
    "{% else %}{{ human_reference if human_reference is defined else target }}{% endif %}"
)
_TREC_LABEL = (
    "{% if label_coarse_original is defined %}{{ label_coarse_original }}"
    "{% elif coarse_label is defined %}{{ ['ABBR', 'ENTY', 'DESC', 'HUM', 'LOC', 'NUM'][coarse_label | int] }}"
    "{% else %}{{ label }}{% endif %}"
)
_TREC_WORDS = ("description", "entity", "human", "number", "location", "abbreviation")
_TREC_CODES = ("DESC", "ENTY", "HUM", "NUM", "LOC", "ABBR")

TEMPLATES: Mapping[str, Template] = MappingProxyType(
    {
        t.name: t
        for t in (
            Template(
                "alpaca",
                "instructions in Alpaca's form",
                "instruction, input (may be empty or absent), output",
                "generation",
                _INSTRUCTION.replace("{input}", "input"),
                "{{ output }}",
                max_new_tokens=256,
                stop=("### Instruction:",),
            ),
            Template(
                "dolly",
                "instructions in Dolly's form, with Alpaca's prompt",
                "instruction, context (may be empty or absent), response",
                "generation",
                _INSTRUCTION.replace("{input}", "context"),
                "{{ response }}",
                max_new_tokens=256,
                stop=("### Instruction:",),
            ),
            Template(
                "gsm8k",
                "word problems; the answer is the whole solution",
                "question, answer (ends with #### and the number)",
                "exact_match",
                "Question: {{ question }}\nAnswer:",
                "{{ answer }}",
                max_new_tokens=256,
                answer_pattern="gsm8k",
                stop=("Question:",),
            ),
            Template(
                "e2e",
                "E2E: facts to a sentence; a meaning's references are grouped",
                "text (lines MEANING||SENTENCE of a .txt file), or meaning_representation and human_reference",
                "generation",
                f"{_SUBJECT}\nText:",
                _SENTENCE,
                several_references=True,
                max_new_tokens=96,
            ),
            Template(
                "sst2",
                "SST-2: a phrase's sentiment as one of two words",
                "sentence, label (0 or 1)",
                "choice",
                "Review: {{ sentence | trim }}\nSentiment:",
                "{{ label }}",
                labels={"0": "negative", "1": "positive"},
            ),
            Template(
                "trec",
                "TREC: a question's coarse type as one of six words",
                "question or text; label_coarse_original, coarse_label, or label (0 description to 5 abbreviation)",
                "choice",
                "Question: {{ question if question is defined else text }}\nType:",
                _TREC_LABEL,
                choices=_TREC_WORDS,
                labels={
                    **dict(zip(_TREC_CODES, _TREC_WORDS, strict=True)),
                    **{str(n): word for n, word in enumerate(_TREC_WORDS)},
                },
            ),
            Template(
                "classification",
                "a text's class as a word; the block gives labels",
                "text, label",
                "choice",
                "Text: {{ text }}\nClass:",
                "{{ label }}",
            ),
            Template(
                "messages",
                "conversations in OpenAI's form, with the base's chat template; the last answer is the target",
                "messages (a list of role and content)",
                "generation",
                *CONVERSATION,
                max_new_tokens=256,
                messages="messages",
                chat=True,
            ),
            Template(
                "sharegpt",
                "conversations in ShareGPT's form, with the base's chat template; the last answer is the target",
                "conversations (a list of from and value)",
                "generation",
                *CONVERSATION,
                max_new_tokens=256,
                messages="conversations",
                chat=True,
            ),
            Template(
                "text",
                "plain text for language modelling, in chunks",
                "text (a .txt file as a whole), no prompt",
                "language_modelling",
                "",
                "{{ text }}",
            ),
        )
    }
)
