"""The record of how a base model is built. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PARTS = ("embeddings", "attention", "MLP", "norms", "head", "other")
"""Parts of a model by which its parameters are counted."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer."""

    kind: str | None
    """``byte-level BPE``, ``BPE``, ``Unigram``, ``WordPiece`` or ``WordLevel``."""
    tokens: int | None
    """Tokens that it knows, added ones included."""


@dataclass(frozen=True)
class Rotary:
    """Rotary position encoding of some layers."""

    layers: str
    """``all``, or the type of the layers as the config names it."""
    theta: float | None
    scaling: str | None
    """How angles are changed for long contexts, as the config names it; None for not at all."""
    factor: float | None
    """By how much the context is extended."""
    share: float | None
    """Share of a head's dimensions that are rotated."""


@dataclass(frozen=True)
class Positions:
    """How the model knows the order of tokens."""

    kind: str | None
    """``rotary``, ``learned``, ``sinusoidal``, ``ALiBi``, ``relative`` or ``none``."""
    rotary: tuple[Rotary, ...] = ()
    layers_without: int | None = None
    """Layers with attention that have no position encoding although the others have one; None if not known."""


@dataclass(frozen=True)
class Attention:
    """The attention of the decoder layers; None for what differs between them."""

    kind: str | None
    """``MHA`` (a key and value head for each query head), ``GQA``, ``MQA`` (one for all) or ``MLA`` (latent)."""
    heads: int | None
    key_value_heads: int | None
    """None for MLA, whose keys and values are made of a latent vector."""
    head_dim: int | None
    latent: int | None
    """Width of the latent vector of keys and values of MLA."""
    layers: int
    """Decoder layers with attention; the others have a recurrence or a convolution instead."""
    sliding_window: int | None
    """Tokens that a layer with a sliding window attends to."""
    sliding_layers: int | None
    """Layers with a sliding window; None if not known."""


@dataclass(frozen=True)
class Normalization:
    """The norms of the decoder layers; None for what differs between them."""

    kind: str | None
    """``RMSNorm`` or ``LayerNorm``, by what it computes."""
    eps: float | None
    placement: str | None
    """``pre``: of what attention and MLP read; ``post``: of what they give; ``pre and post``."""
    queries_and_keys: bool
    """Whether queries and keys have norms of their own."""


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward blocks (MLP) of the decoder layers; None for what differs between them."""

    activation: str | None
    gated: bool | None
    width: int | None
    """Inner width of a block without experts."""


@dataclass(frozen=True)
class Experts:
    """Mixtures of experts."""

    number: int | None
    """Experts of a layer, without shared ones."""
    active: int | None
    """Of these, how many read each token."""
    shared: int | None
    """Experts that read every token; None if the config does not name them."""
    width: int | None
    """Inner width of one expert."""
    layers: int | None
    """Decoder layers that have experts."""


@dataclass(frozen=True)
class Anatomy:
    """How a base model is built."""

    family: str | None
    """``model_type`` of the config."""
    model: str
    """transformers' class."""
    layers: int | None
    width: int | None
    """Of the residual stream."""
    context: int | None
    """Tokens; None if the config does not limit them."""
    tokenizer: Vocabulary | None
    """None if the folder has none."""
    embedded: int | None
    """Token ids that have an embedding."""
    positions: Positions
    attention: Attention | None
    """None if no decoder layer has attention, or none was found."""
    normalization: Normalization
    feed_forward: FeedForward
    parallel: bool | None
    """Whether attention and MLP of a layer read the same input, so that they could run side by side."""
    experts: Experts | None
    """None if there are none."""
    tied: bool | None
    """Whether the output embeddings are the input embeddings."""
    parameters: Mapping[str, int]
    """Number of parameters by ``PARTS``, each once."""
