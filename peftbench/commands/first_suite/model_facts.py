"""What is known of a base model before a suite names it. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.models import files, find, here, size
from peftbench.models.builtin import BASES
from peftbench.models.tokenizer_file import TokenizerFile
from peftbench.models.tokenizer_file import read as read_tokenizer
from peftbench.records import Base, Task
from peftbench.records.units import count
from peftbench.tasks import chat

_ANY = Task("any", "generation", chat=True)


@dataclass(frozen=True)
class BaseFacts:
    """A base model's files, as far as they are on this machine."""

    base: Base
    folder: Path | None
    """The folder with config and tokenizer; None if they are not here."""
    config: Mapping[str, Any]
    parameters: int | None = None
    context: int | None = None
    """In tokens."""
    chat: bool = False
    """Whether its tokenizer has a chat template."""
    has_weights: bool = False
    unknown: tuple[str, ...] = ()
    """What could not be found out, as sentences without a full stop."""

    @property
    def is_folder(self) -> bool:
        """Whether it is named by a path."""
        return self.base.source not in BASES and find.is_folder(find.local_folder(self.base))

    def sentence(self, whole: bool = False) -> str:
        """Return what is known of it; without its vocabulary, unless the whole is asked for."""
        if self.folder is None:
            return "a hub id of a model that is not here"
        text = size.text_config(self.config)
        known = [str(text.get("model_type") or self.config.get("model_type") or "unknown family")]
        stored = text.get("dtype") or text.get("torch_dtype") or self.config.get("torch_dtype")
        inside = f" in {stored}" if stored else ""
        known += [f"{count(self.parameters)} parameters{inside}"] if self.parameters else []
        known += [f"context of {self.context:,} tokens" if self.context else "no context length in its config"]
        known += [f"vocabulary of {text['vocab_size']:,}"] if whole and isinstance(text.get("vocab_size"), int) else []
        return ", ".join([*known, "with a chat template" if self.chat else "without a chat template"])

    def notes(self) -> tuple[str, ...]:
        """Return from where it is read, if its name could be understood otherwise."""
        return find.folder_notes([self.base])


def facts(source: str) -> BaseFacts:
    """Return what is known of a base model; of a hub id, config and tokenizer are downloaded if that is possible.

    Raises:
        UserError: if it is no base model, or stored quantized.
    """
    base = Base(source)
    folder = here.folder(base)
    if folder is None and find.on_hub(base):
        try:
            folder = here.described(base)
        except UserError as error:
            if "did you mean" in str(error) or "the hub refused it" in str(error):
                raise
            note = f"{source} is no folder here and the hub cannot be reached: its shape, tokenizer and chat template"
            return BaseFacts(base, None, {}, unknown=(f"{note} are unknown, so memory, time and lengths are too",))
    find.config_folder(base)
    assert folder is not None
    config = files.read_mapping(folder / "config.json")
    _check_predicts(source, config)
    unknown = []
    if source in BASES:
        unknown.append(f"what your own model would score: {source} was trained on the built-in tasks' grammar alone")
    weights = files.why_unusable(folder)
    if weights and not find.on_hub(base):
        unknown.append(f"its weights ({weights}): `plan --memory` needs none, `run` does")
    if tokenizer(folder) is None and not here.has_tokenizer(folder):
        raise UserError(f"base {source!r}: the folder has no tokenizer, so no text can be given to the model")
    return BaseFacts(
        base,
        folder,
        config,
        size.parameters(folder, config),
        size.context(config),
        chat.has_template(_ANY, folder) and here.has_tokenizer(folder),
        weights is None,
        tuple(unknown),
    )


def _check_predicts(source: str, config: Mapping[str, Any]) -> None:
    """Check that a base model predicts tokens, as the tasks do that are written here."""
    from peftbench.errors import Unsupported
    from peftbench.models import causality

    try:
        causality.check_config(config)
    except Unsupported as error:
        why = str(error).removeprefix("base: ")
        raise UserError(
            f"base {source!r}: {why}; init writes suites for models that predict tokens (suites/glue_small.yaml is one "
            "with a head)"
        ) from None


def tokenizer(folder: Path) -> TokenizerFile | None:
    """Return the tokenizer of a folder; None if it has no ``tokenizer.json`` that can be read."""
    from peftbench.errors import Unsupported

    try:
        return read_tokenizer(folder)
    except Unsupported:
        return None
