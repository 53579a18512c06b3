"""Check before a run that base models can be loaded: their weights and tokenizers fit their configs and the data.

``check`` imports torch and transformers, if the suite has a base model that is not built in. A run's parent process
must not import them, so it has the check done by a process of its own.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.errors import Unsupported, UserError
from peftbench.models import builtin, causality, files, find
from peftbench.records import Base, Trial

if TYPE_CHECKING:
    from peftbench.models.dry_load import Sizes


def check(trials: Sequence[Trial], unseen: Container[str] = ()) -> None:
    """Check every base model of some trials that is on this machine. No weights are read.

    Args:
        trials: the trials of a grid.
        unseen: names of tasks whose data is not read.

    Raises:
        UserError: if weights, tokenizer or special tokens are not those of a model that its config describes, or texts
            of the trials contain tokens for which the model has no embedding.
    """
    for base in to_check(trials):
        folder = find.cached(base)
        if folder is not None:
            try:
                _check(base, folder, [trial for trial in trials if trial.base == base], unseen)
            except UserError as error:
                raise UserError(f"base {base.source!r}: {error}") from None


def unsupported(trials: Sequence[Trial]) -> dict[Base, str]:
    """Return the base models for which transformers has no causal language model, with the reason."""
    found: dict[Base, str] = {}
    for base in to_check(trials):
        with suppress(UserError):  # raised by ``check``
            folder = find.cached(base)
            if folder is not None:
                try:
                    _sizes(base, folder, trials)
                except Unsupported as error:
                    found[base] = str(error)
    return found


def to_check(trials: Sequence[Trial]) -> tuple[Base, ...]:
    """Return the base models that have to be checked: those with weights of their own that did not come with us."""
    bases = dict.fromkeys(trial.base for trial in trials if trial.unsupported is None)
    return tuple(base for base in bases if not base.random_weights and base.source not in builtin.BASES)


def _sizes(base: Base, folder: Path, trials: Sequence[Trial]) -> Sizes | None:
    """Return a base model's sizes; None if it cannot be built without weights.

    Raises:
        UserError: if its weights are not those of its config.
        Unsupported: if transformers has no causal language model for it, or one that does not find the weights.
    """
    from peftbench.models import configs, dry_load

    head = next((trial.head for trial in trials if trial.base == base), None)
    causality.check_config(files.read_mapping(folder / "config.json"), head is not None)
    found = dry_load.check(folder, base.trust_remote_code, head)
    if found is None:
        causality.check_config(configs.load_config(folder, base.trust_remote_code), head is not None)
    return found


def _check(base: Base, folder: Path, trials: Sequence[Trial], unseen: Container[str]) -> None:
    from peftbench.models.tokenizer import load_tokenizer
    from peftbench.runner.preflight import tokenizers

    try:
        sizes = _sizes(base, folder, trials)
    except Unsupported:  # its cells say so
        return
    if sizes is not None:
        tokenizers.check(
            trials, load_tokenizer(folder, base.trust_remote_code, trials[0].head is None), sizes.rows, unseen
        )
