"""The optimizers that ``train: {optimizer: ...}`` names, a record each. No torch.

``training.optimizers`` makes them, ``methods.support`` refuses what a record excludes, ``methods.strategies`` says
which of them take shards, and ``docs/optimizers.md`` is made from this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from peftbench.records import optimizer_bytes as sizes
from peftbench.records.optimizer_bytes import APOLLO_RANK, GALORE_RANK, Shape

AS_ADAMW = "as with AdamW"
"""How the rates of most optimizers relate to AdamW's."""


@dataclass(frozen=True)
class Optimizer:
    """One optimizer: where it comes from, what state it keeps, and what it cannot do."""

    name: str
    title: str
    """What it is, as one sentence without its end."""
    source: str
    """Where it was published, with the arXiv id."""
    made_by: str
    """Package and class that a trial uses."""
    state: str
    """State of a tensor of n values in words, with b the bytes of a trainable value."""
    state_bytes: Callable[[Shape, int], int]
    """The same as a function of a tensor's shape and b."""
    shared_bytes: int = 0
    """State that all tensors share: code tables of 8-bit state."""
    package: str = ""
    """Module that must be installed besides the dependencies; empty for none."""
    extra: str = ""
    """Extra of peftbench with that package."""
    only_full: str = ""
    """Why it exists only for methods that train the base's own weights; empty if it trains whatever a method adds."""
    hidden_apart: bool = False
    """Whether matrices within the model have other steps than vectors, embeddings and heads."""
    in_backward: bool = False
    """Whether steps are taken in the backward pass, a parameter at a time, so that one gradient exists at a time."""
    paged: bool = False
    """Whether state on a GPU is in memory that the driver moves, which bitsandbytes never frees."""
    scores_mean: bool = False
    """Whether validation and scores are of a mean of the weights over the steps, not of the last step's weights."""
    only_schedule: tuple[str, str] = ("", "")
    """The only schedule that it can follow, and why; empty if it follows all."""
    rate: str = AS_ADAMW
    """How its learning rates relate to AdamW's, which the default rates are for."""
    departs: str = ""
    """How what a trial does differs from the paper or from the other optimizers; empty if it does not."""

    def bytes_per_value(self, width: int = 4) -> float:
        """Return the bytes of state for each value of a 4096 x 4096 matrix whose values have ``width`` bytes."""
        return self.state_bytes((4096, 4096), width) / 4096**2


_RANKED = "an adapter's matrices are of low rank already"
_KEPT = "an adapter's gradients are small beside its activations, so that there is nothing to save"
_ADAMW = "Loshchilov & Hutter 2019, arXiv:1711.05101"
_LION = "Chen et al. 2023, arXiv:2302.06675"
_PAGED = "Dettmers et al. 2023, arXiv:2305.14314"
_PAGES = "state of tensors with fewer than 100,000 values is not paged, and on the CPU nothing is"
_ADEMAMIX = "Pagliardini et al. 2024, arXiv:2409.03137"
_ADEMAMIX_DEPARTS = "alpha and beta3 are constant, without the paper's schedulers"
_LION_RATE = "3 to 10 times smaller, with a weight decay as much larger, by the paper's section 5"
_APOLLO = "Zhu et al. 2024, arXiv:2412.05270"
_APOLLO_RATE = (
    "larger by the root of m / 128, with m the smaller side of most matrices, since their steps are shorter by it"
)
_APOLLO_DEPARTS = "rank, scale and a new projection every 200 steps as in transformers; AdamW's eps of 1e-8"
_TABLES = "; tensors of fewer than 4,096 values keep 32 bits"

OPTIMIZERS: Mapping[str, Optimizer] = MappingProxyType(
    {
        o.name: o
        for o in (
            Optimizer(
                "adamw",
                "Adam with decoupled weight decay, one fused kernel",
                _ADAMW,
                "torch AdamW",
                "2 b n + 4",
                sizes.adamw,
            ),
            Optimizer(
                "adamw_8bit",
                "AdamW with both moments in 8 bits, a scale for each block of 256 values",
                "Dettmers et al. 2022, arXiv:2110.02861",
                "bitsandbytes AdamW8bit",
                f"2 (n + 4 ceil(n / 256)){_TABLES}",
                sizes.eight_bits(2),
                shared_bytes=2048,
            ),
            Optimizer(
                "paged_adamw",
                "AdamW whose state the driver moves between device and host",
                _PAGED,
                "bitsandbytes PagedAdamW32bit",
                "8 n",
                sizes.of_values(8),
                paged=True,
                departs=_PAGES,
            ),
            Optimizer(
                "paged_adamw_8bit",
                "adamw_8bit whose state the driver moves between device and host",
                _PAGED,
                "bitsandbytes PagedAdamW8bit",
                f"2 (n + 4 ceil(n / 256)){_TABLES}",
                sizes.eight_bits(2),
                shared_bytes=2048,
                paged=True,
                departs=_PAGES,
            ),
            Optimizer(
                "sgd",
                "stochastic gradient descent without momentum",
                "Robbins & Monro 1951",
                "torch SGD",
                "none",
                sizes.of_values(0),
                rate="on another scale, since a step is the rate times the gradient",
            ),
            Optimizer(
                "adafactor",
                "second moments of rows and columns instead of values",
                "Shazeer & Stern 2018, arXiv:1804.04235",
                "transformers Adafactor",
                "4 (rows + columns) + 4; of a vector 4 n + 4",
                sizes.adafactor,
                departs="the rate is the schedule's, and not relative to the step or to the scale of the tensor; each "
                "update is clipped to a root mean square of 1 after the gradient clipping of all methods",
            ),
            Optimizer(
                "lion",
                "the sign of a momentum: every value moves by the rate",
                _LION,
                "bitsandbytes Lion32bit",
                "4 n",
                sizes.of_values(4),
                rate=_LION_RATE,
            ),
            Optimizer(
                "lion_8bit",
                "lion with its momentum in 8 bits, a scale for each block of 256 values",
                f"{_LION}; Dettmers et al. 2022, arXiv:2110.02861",
                "bitsandbytes Lion8bit",
                f"n + 4 ceil(n / 256){_TABLES}",
                sizes.eight_bits(1),
                shared_bytes=1024,
                rate=_LION_RATE,
            ),
            Optimizer(
                "paged_lion",
                "lion whose state the driver moves between device and host",
                f"{_LION}; {_PAGED}",
                "bitsandbytes PagedLion32bit",
                "4 n",
                sizes.of_values(4),
                paged=True,
                rate=_LION_RATE,
                departs=_PAGES,
            ),
            Optimizer(
                "paged_lion_8bit",
                "lion_8bit whose state the driver moves between device and host",
                f"{_LION}; {_PAGED}",
                "bitsandbytes PagedLion8bit",
                f"n + 4 ceil(n / 256){_TABLES}",
                sizes.eight_bits(1),
                shared_bytes=1024,
                paged=True,
                rate=_LION_RATE,
                departs=_PAGES,
            ),
            Optimizer(
                "ademamix",
                "AdamW with a second, slower mean of gradients (alpha 5, beta3 0.9999)",
                _ADEMAMIX,
                "bitsandbytes AdEMAMix",
                "12 n",
                sizes.of_values(12),
                departs=_ADEMAMIX_DEPARTS,
            ),
            Optimizer(
                "ademamix_8bit",
                "ademamix with its three moments in 8 bits, a scale for each block of 256 values",
                f"{_ADEMAMIX}; Dettmers et al. 2022, arXiv:2110.02861",
                "bitsandbytes AdEMAMix8bit",
                f"3 (n + 4 ceil(n / 256)){_TABLES}",
                sizes.eight_bits(3),
                shared_bytes=2048,
                departs=_ADEMAMIX_DEPARTS,
            ),
            Optimizer(
                "muon",
                "the momentum of a matrix within the model, made orthogonal; AdamW for the rest",
                "Jordan et al. 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982",
                "torch Muon, torch AdamW",
                "b n; of vectors, embeddings and heads that of adamw",
                sizes.momentum,
                hidden_apart=True,
                departs="a step is scaled to the root mean square of AdamW's, as in arXiv:2502.16982",
            ),
            Optimizer(
                "schedule_free_adamw",
                "AdamW whose scored weights are a mean over the steps, in place of a schedule",
                "Defazio et al. 2024, arXiv:2405.15682",
                "schedulefree AdamWScheduleFree",
                "2 b n",
                sizes.two_copies,
                package="schedulefree",
                extra="optimizers",
                scores_mean=True,
                only_schedule=("constant", "its mean over the steps takes the place of a falling rate"),
                rate="1 to 10 times larger, by the package's advice",
                departs="decay is of the weights at which the gradient is taken; validation and scores are of the mean",
            ),
            Optimizer(
                "galore_adamw",
                f"AdamW in a space of rank {GALORE_RANK} for each matrix within the model; AdamW for the rest",
                "Zhao et al. 2024, arXiv:2403.03507",
                "pytorch_optimizer GaLore",
                "b r (2 max(rows, columns) + min(rows, columns)), r the smallest of 128, rows and columns; of vectors, "
                "embeddings and heads 2 b n",
                sizes.low_rank,
                package="pytorch_optimizer",
                extra="optimizers",
                only_full=_RANKED,
                hidden_apart=True,
                departs="as in transformers: scale 0.25, a new projection every 200 steps; the singular value "
                "decomposition of these steps is not in a plan's peak; AdamW is pytorch-optimizer's here, for the rest "
                "too: its eps is 1e-6, added to the root before the bias is corrected (adamw: 1e-8, after), and it "
                "decays the weights after a step (adamw: before)",
            ),
            Optimizer(
                "apollo",
                "the gradient, each column scaled as AdamW scales a random projection of it to rank "
                f"{APOLLO_RANK}; AdamW for the rest",
                _APOLLO,
                "peftbench Apollo, torch AdamW",
                "2 b r max(rows, columns) + 4, r the smallest of 128, rows and columns; of vectors, embeddings and "
                "heads that of adamw",
                sizes.projected(APOLLO_RANK),
                only_full=_RANKED,
                hidden_apart=True,
                rate=_APOLLO_RATE,
                departs=_APOLLO_DEPARTS,
            ),
            Optimizer(
                "apollo_mini",
                "the gradient of a matrix, scaled as AdamW scales a random projection of it to rank 1; AdamW for the "
                "rest",
                _APOLLO,
                "peftbench Apollo, torch AdamW",
                "2 b max(rows, columns) + 4; of vectors, embeddings and heads that of adamw",
                sizes.projected(1),
                only_full=_RANKED,
                hidden_apart=True,
                rate=_APOLLO_RATE,
                departs=_APOLLO_DEPARTS,
            ),
            Optimizer(
                "lomo",
                "sgd whose steps are taken in the backward pass, so that one gradient exists at a time",
                "Lv et al. 2023, arXiv:2306.09782",
                "torch SGD",
                "none",
                sizes.of_values(0),
                only_full=_KEPT,
                in_backward=True,
                rate="on another scale, since a step is the rate times the gradient",
                departs="without the second backward pass by which the paper clips gradients",
            ),
            Optimizer(
                "adafactor_in_backward",
                "adafactor whose steps are taken in the backward pass, so that one gradient exists at a time",
                "Shazeer & Stern 2018, arXiv:1804.04235; Lv et al. 2023, arXiv:2310.10195 (AdaLomo)",
                "transformers Adafactor",
                "that of adafactor",
                sizes.adafactor,
                only_full=_KEPT,
                in_backward=True,
                departs="as adafactor; AdaLomo's update is alike, but relative to the scale of the tensor",
            ),
        )
    }
)
"""Every optimizer by its name in a suite."""
