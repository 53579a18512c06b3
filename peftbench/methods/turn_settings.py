"""The options by which decoder layers train in turns. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from annotated_types import Ge

from peftbench.methods.record import Setting
from peftbench.records import STRATEGIES

_ALL_LAYERS = "layers that train in turns are all decoder layers, with all of their weights"
_ONE_DEVICE = (
    "the strategies set up once which weights train, and here these change from turn to turn; use one device, or full "
    "without turns"
)
_NEVER_FREED = (
    "bitsandbytes never frees paged state, which is dropped at the end of a turn, so that it would grow with each; "
    "use adamw or adamw_8bit, whose state is of one turn"
)
TURNS: Mapping[str, Setting] = MappingProxyType(
    {
        "turns": Setting(
            Literal["none", "lisa", "badam"],
            "none",
            "decoder layers train in turns. lisa: drawn at random, with embeddings, last norm and head in every turn "
            "(Pan et al. 2024, arXiv:2403.17919); badam: blocks of neighbours in random order, and nothing else (Luo "
            "et al. 2024, arXiv:2404.02827)",
            excludes=MappingProxyType(dict.fromkeys(("layers", "modules"), _ALL_LAYERS)),
            not_on=MappingProxyType(dict.fromkeys(STRATEGIES, _ONE_DEVICE)),
            why_no_paged=_NEVER_FREED,
            why_no_compile="each turn would be compiled anew in its first step; use compile: none",
            why_no_mean="its mean over the steps is kept in the state that is dropped at the end of a turn",
        ),
        "turn_size": Setting(
            Annotated[int, Ge(1)] | None,
            None,
            "decoder layers of a turn; default 2 for lisa, 1 for badam",
            shown="null (2 for lisa, 1 for badam)",
            not_with=("turns", "none"),
        ),
        "turn_steps": Setting(
            Annotated[int, Ge(1)] | None,
            None,
            "steps of a turn; default 20 for lisa, 50 for badam",
            shown="null (20 for lisa, 50 for badam)",
            not_with=("turns", "none"),
        ),
    }
)
