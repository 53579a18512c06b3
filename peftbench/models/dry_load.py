"""Load a base model without its weights: what transformers would find, from the config and the files' headers alone.

The model is built on ``meta``, and transformers' own loader gets tensors on ``meta`` with the shapes of the headers, so
every renaming and conversion of names is its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from peftbench.errors import Unsupported, UserError
from peftbench.models import configs, files, loading_causes, quiet_imports, tied
from peftbench.models import head as heads
from peftbench.models.loading_report import Comparison, Expected, Report
from peftbench.models.stored import contents
from peftbench.records import Head


@dataclass(frozen=True)
class Sizes:
    """What a base model can take."""

    rows: int | None
    """Number of token ids that have both an embedding and a logit; None if the model does not say."""


def check(folder: Path, trust_remote_code: bool, head: Head | None = None) -> Sizes | None:
    """Check that a model folder's weights are those of its config, reading only headers and a few rows of tied weights.

    A head for whole texts may be missing.

    Returns:
        The model's sizes; None if it cannot be built on ``meta``. It is then checked when it is loaded.

    Raises:
        UserError: if the config cannot be read, files are incomplete, or tensors are missing, of another shape or left
            over, or tied weights differ.
        Unsupported: if transformers' causal language model for the config does not find the weights.
    """
    stored = contents(folder).unpacked
    try:
        config = _plain(configs.load_config(folder, trust_remote_code))
    except Exception as error:  # of many kinds, and a model's own code may raise any
        raise UserError(f"config.json: {(str(error) or type(error).__name__).strip().partition(chr(10))[0]}") from error
    try:
        model, report = _loaded(config, trust_remote_code, stored, head)
    except Exception:  # whatever a model's code does not do without weights
        return None
    _refuse(model, _comparison(folder, model, report, stored))
    tied.check(folder, model, stored)
    return Sizes(rows(model))


def _plain(config: Any) -> Any:
    """Return a config without the quantization of the stored weights, since shapes are those of the plain model."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def verify(folder: Path, model: Any, info: Mapping[str, Any]) -> None:
    """Check the loader's report on a model that was just loaded.

    Args:
        folder: the model folder.
        model: the model, before anything is attached or quantized after loading.
        info: transformers' loading info.

    Raises:
        UserError: if tensors are missing, of another shape or left over, or tied weights differ.
        Unsupported: if transformers' causal language model for the config does not find the weights.
    """
    _refuse(model, _comparison(folder, model, Report.of(info), contents(folder).unpacked))
    tied.verify(model)


def _refuse(model: Any, found: Comparison) -> None:
    """Refuse weights that are not the config's, if there are such.

    The weights of a model with towers may be unknown to the text model that transformers takes in its place.
    """
    reason = loading_causes.why_refused(found)
    if not reason:
        return
    saved = found.config.get("architectures")
    whole = str(saved[0]) if isinstance(saved, list) and saved else ""
    if whole.endswith("ForConditionalGeneration") and whole != type(model).__name__ and _is_most(found):
        raise Unsupported(
            f"base: transformers loads {whole} as {type(model).__name__}, which does not find the weights under the "
            "names that they have in the files"
        )
    raise UserError(reason)


def _is_most(found: Comparison) -> bool:
    return len(found.missing) > len(found.expected.parameters) / 2


def _comparison(folder: Path, model: Any, report: Report, stored: Mapping[str, files.Stored]) -> Comparison:
    index = {}
    with suppress(UserError):
        index = files.index(folder)
    return Comparison(report, _expected(model), stored, files.read_mapping(folder / "config.json"), index)


def _loaded(
    config: Any, trust_remote_code: bool, stored: Mapping[str, files.Stored], head: Head | None
) -> tuple[Any, Report]:
    """Return a config's model on ``meta``, and the loader's report on the tensors in its files."""
    if head is not None:
        heads.config(config, head)
    quiet_imports.quantizers()
    with quiet():
        with torch.device("meta"):
            empty = heads.auto_class(head).from_config(config, trust_remote_code=trust_remote_code)
        model, info = type(empty).from_pretrained(
            None,
            config=empty.config,
            state_dict={name: torch.empty(found.shape, device="meta") for name, found in stored.items()},
            device_map={"": "meta"},
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to name them all; nothing is computed with this model
        )
    return model, Report.of(info)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bar and its own report."""
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _expected(model: Any) -> Expected:
    """Return the tensors of a model."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = frozenset(model.state_dict()) - frozenset(parameters)
    tables = [_table(model, name) for name in ("get_input_embeddings", "get_output_embeddings")]
    named = [next((name for name, p in parameters.items() if p is table), None) for table in tables]
    optional = frozenset(heads.names_in(model))
    return Expected(frozenset(parameters), buffers, model.base_model_prefix, named[0], named[1], optional)


def _table(model: Any, getter: str) -> Any:
    """Return the weight of the input or output embeddings; None if there is none or the model does not say."""
    try:
        return getattr(getattr(model, getter)(), "weight", None)
    except (NotImplementedError, AttributeError):
        return None


def rows(model: Any) -> int | None:
    """Return how many token ids have both an embedding and a logit; None if the model does not say."""
    tables = [_table(model, name) for name in ("get_input_embeddings", "get_output_embeddings")]
    sizes = [table.shape[0] for table in tables if table is not None and table.ndim == 2]
    return min(sizes, default=None)
