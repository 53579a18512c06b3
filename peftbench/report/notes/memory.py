"""Notes on memory: how it was measured, what dominates the peaks, and which totals are comparable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peftbench.models.precision import PRECISIONS
from peftbench.records import Category
from peftbench.records import units as fmt
from peftbench.records.wording import plural, span
from peftbench.report.collect import Cell, Results, read_json
from peftbench.report.flat import flat_texts
from peftbench.results.rows import is_number

_MUST_EQUAL = {
    "options.target_modules": "target modules",
    "train.gradient_checkpointing": "gradient checkpointing",
    "train.micro_batch_size": "micro-batch sizes",
    "train.sequence_length": "sequence lengths",
    "train.packing": "packing",
    "train.logits": "the positions that have logits",
    "train.attention": "how attention is computed",
    "train.offload": "offloading",
    "train.compute": "the numbers that are multiplied",
}
"""Settings that, beside method, rank and precision, decide the memory of a training step; with their names in notes."""
_SINGULAR = ("gradient checkpointing", "packing")
WHOLE_RUN = "reserved_whole_run"
"""The kind of memory of results that have no peak of training."""
_PARTNERS = ("bf16", "fp16", "fp32")
"""Precisions of the LoRA that a QLoRA is compared with, the first that exists. QLoRA computes in 16 bits."""


def sentences(results: Results) -> tuple[str, ...]:
    """Return the notes beside the page's memory figure: how it was measured, what dominates, which pairs compare."""
    kind = results.common("memory_kind")
    how = {
        "tensor_accounting": "Tensor accounting on the CPU: the storages of all live tensors in one extra, untimed "
        "training step on the run's largest batch. Not comparable with the peak of a GPU allocator.",
        "allocator": "Peak of the CUDA allocator (allocated, not reserved), on the run's largest batch. "
        "Not comparable with tensor accounting on a CPU.",
        WHOLE_RUN: f"Memory is {kind_words(WHOLE_RUN)}. It compares with no peak of training.",
    }.get(str(kind), f"Memory by {kind_words(str(kind))}.")
    return (
        *([how] if kind else []),
        *_held_against(results),
        *_what_dominates(_peaks(results)),
        *_pairs(results, most=6),
    )


def _held_against(results: Results) -> Iterable[str]:
    """Yield how far the sum of the categories and the prediction are from the measured peak."""
    if results.common("memory_kind") != "tensor_accounting":
        return
    for column, claim in (
        ("peak_unexplained_bytes", "The categories add up to the allocator's own peak"),
        ("predicted_train_bytes", "Peaks predicted from the config alone equal the measured ones"),
    ):
        shares = []
        for cell in results.tuned:
            for value, peak in ((row[column], row["peak_train_bytes"]) for row in cell.rows):
                if not is_number(value) or not is_number(peak):
                    continue
                shares.append(abs(value if column.startswith("peak") else value - peak) / peak)
        if shares:
            how = f"to within {fmt.share(max(shares))}" if max(shares) else "to the byte"
            yield f"{claim} {how} in {plural(len(shares), 'trial')}."


def notes(results: Results) -> tuple[str, ...]:
    """Return the notes under the table: kind of accounting, dominant part, one comparable pair."""
    peaks = _peaks(results)
    kind = results.common("memory_kind")
    lead = [f"Memory by {kind_words(str(kind))}."] if kind and kind != WHOLE_RUN else []
    if kind == WHOLE_RUN:
        lead = [f"Memory is {kind_words(WHOLE_RUN)}. It compares with no peak of training."]
    lead += _what_dominates(peaks) if any(peak.moving > peak.weights for peak in peaks) else ()
    return (*([" ".join(lead)] if lead else []), *_pairs(results, most=1))


def kind_words(kind: str) -> str:
    """Return the kind of memory accounting in words."""
    words = {
        "tensor_accounting": "tensor accounting",
        "allocator": "the CUDA allocator's peak",
        WHOLE_RUN: "what the allocator reserved over the whole run, loading and evaluation included",
    }
    return words.get(kind, kind.replace("_", " "))


@dataclass(frozen=True)
class _Peak:
    """A cell's training peak, in bytes."""

    weights: float
    """Base weights and quantization state, which depend on storage precision."""
    moving: float
    """Activations, logits and temporaries, which do not."""
    total: float
    quantized: bool
    """Whether the base model is already stored in a quantized format."""


def _peaks(results: Results) -> list[_Peak]:
    found = []
    for cell in results.tuned:
        weights = _sum(cell, Category.BASE_WEIGHTS, Category.QUANTIZATION_STATE)
        moving = _sum(cell, Category.ACTIVATIONS, Category.LOGITS, Category.TEMPORARIES)
        total = cell.mean("peak_train_bytes")
        if weights and moving and total:
            precision = PRECISIONS.get(cell.precision)
            found.append(_Peak(weights, moving, total, precision is not None and precision.quantization is not None))
    return found


def _sum(cell: Cell, *categories: Category) -> float:
    return sum(cell.mean(category.column) or 0.0 for category in categories)


def _what_dominates(peaks: Sequence[_Peak]) -> Iterable[str]:
    """Yield whether weights or activations dominate the peaks, and what this implies for comparing totals."""
    if not peaks:
        return
    above = [peak.moving / peak.weights for peak in peaks if peak.moving > peak.weights]
    cells = f"of {len(peaks)} {'cell' if len(peaks) == 1 else 'cells'}"
    if 2 * len(above) <= len(peaks):
        others = f" (others: up to {max(above):.1f} times the base weights)" if above else ""
        yield (
            "Base weights are larger than activations, logits and temporaries together in "
            f"{len(peaks) - len(above)} {cells}{others}: storage precision and frozen weights determine the totals."
        )
        return
    shares = [100 * peak.weights / peak.total for peak in peaks if not peak.quantized]
    most = ""
    if shares:
        most = (
            f" In unquantized cells the weights are {_span(shares)} % of the peak; 4-bit storage can save at most that "
            "share."
        )
    yield (
        f"Activations, logits and temporaries together are larger than the base weights in {len(above)} {cells} (by a "
        f"factor of {_span(above)})."
        f"{most} With billions of parameters the weights dominate, and the cells rank differently."
    )


def _span(values: Sequence[float]) -> str:
    return span(values, lambda value: f"{value:.0f}" if value >= 10 else f"{value:.1f}")


@dataclass(frozen=True)
class _Pair:
    """A QLoRA cell and the LoRA cell of the same base model and rank that it is compared with."""

    qlora: Cell
    lora: Cell
    differing: tuple[str, ...]
    """Names of the settings that make their totals incomparable."""
    checkpointing: bool

    def totals(self) -> str:
        """Return base weights and peaks of both."""
        base, peak = (self._both(column) for column in ("base_weights_bytes", "peak_train_bytes"))
        return f"{self.qlora.name} vs. {self.lora.name}: base weights {base}, peak {peak}"

    def base_weights(self) -> str:
        """Return the base weights of both, which are comparable even if other settings differ."""
        return self._both("base_weights_bytes")

    def _both(self, column: str) -> str:
        one, other = self.qlora.mean(column), self.lora.mean(column)
        unit = fmt.byte_unit([max(one or 0.0, other or 0.0)])
        texts = [fmt.number(None if value is None else value / unit.size) for value in (one, other)]
        return f"{texts[0]} vs. {texts[1]} {unit.name}"


def _pairs(results: Results, most: int) -> Iterable[str]:
    """Yield which totals of QLoRA and LoRA are comparable, or why none is.

    Args:
        results: what is reported.
        most: number of pairs at most; a single one is that of the middle rank.
    """
    qloras, loras = (
        [c for c in results.finished if c.method == method and c.mean("peak_train_bytes") is not None]
        for method in ("qlora", "lora")
    )
    if not qloras or not loras:
        return
    candidates = [(qlora, _partners(qlora, loras)) for qlora in qloras]
    pairs = [_best(qlora, partners) for qlora, partners in candidates if partners]
    known = [pair for pair in pairs if pair is not None]
    fair = [pair for pair in known if not pair.differing]
    if fair:
        yield _fair(fair, most)
    elif known:
        pair = known[(len(known) - 1) // 2]
        verb = "differs" if len(pair.differing) == 1 and pair.differing[0] in _SINGULAR else "differ"
        yield (
            f"Memory totals of {pair.qlora.name} and {pair.lora.name} are not comparable: "
            f"{' and '.join(pair.differing)} {verb}. Base weights are: {pair.base_weights()}."
        )
    elif not pairs:
        yield "Memory totals of qlora and lora are not comparable: they have no rank in common."


def _fair(pairs: Sequence[_Pair], most: int) -> str:
    middle = (len(pairs) - 1) // 2
    shown = pairs[middle : middle + 1] if most == 1 else pairs[:most]
    checkpointing = {pair.checkpointing for pair in shown}
    how = f" ({'with' if True in checkpointing else 'no'} checkpointing)" if len(checkpointing) == 1 else ""
    rest = len(pairs) - len(shown)
    more = "" if not rest else f"; {rest} more {'pair' if rest == 1 else 'pairs'}{' on the page' if most == 1 else ''}"
    return (
        "Memory totals are comparable only at equal target modules, rank and checkpointing. With these equal"
        f"{how}: {'; '.join(pair.totals() for pair in shown)}{more}."
    )


def _partners(qlora: Cell, loras: Sequence[Cell]) -> list[Cell]:
    return [lora for lora in loras if lora.rank == qlora.rank and lora.summary.base == qlora.summary.base]


def _best(qlora: Cell, partners: Sequence[Cell]) -> _Pair | None:
    """Return the pair that differs least; None if a setting that must be equal was not stored."""
    order = {precision: place for place, precision in enumerate(_PARTNERS)}
    pairs = [pair for lora in partners if (pair := _pair(qlora, lora)) is not None]
    return min(pairs, key=lambda p: (len(p.differing), order.get(p.lora.precision, len(order))), default=None)


def _pair(qlora: Cell, lora: Cell) -> _Pair | None:
    one, other = _settings(qlora), _settings(lora)
    needed = ("options.target_modules", "train.gradient_checkpointing")
    if any(name not in held for name in needed for held in (one, other)):
        return None
    differing = tuple(text for name, text in _MUST_EQUAL.items() if one.get(name) != other.get(name))
    return _Pair(qlora, lora, differing, one["train.gradient_checkpointing"] != "no")


def _settings(cell: Cell) -> dict[str, str]:
    return flat_texts(read_json(cell.ok_rows[0]["settings_json"]))
