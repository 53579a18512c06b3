"""What the memory figures mean, said from the stored peaks: what dominates the totals, and which totals compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peftbench.models.precision import PRECISIONS
from peftbench.records import Category
from peftbench.report import format as fmt
from peftbench.report.collect import Cell, Results, read_json
from peftbench.report.flat import flat_texts

_MUST_EQUAL = {
    "options.target_modules": "target modules",
    "train.gradient_checkpointing": "gradient checkpointing",
    "train.micro_batch_size": "micro-batch sizes",
    "train.sequence_length": "sequence lengths",
    "train.packing": "packing",
}
"""Settings that decide how much a training step holds, next to method, rank and precision; in words."""
_PARTNERS = ("bf16", "fp16", "fp32")
"""Against which LoRA a QLoRA is held, the first there is: QLoRA computes in 16 bits, so that one differs least."""


def sentences(results: Results) -> tuple[str, ...]:
    """Return what the page says beside its memory figure: the kind of accounting, what dominates, what compares."""
    kind = results.common("memory_kind")
    how = {
        "tensor_accounting": "Tensor accounting on the CPU: the storages of all live tensors, counted in extra steps "
        "outside the timed ones, on the run's largest batch. Not comparable with a GPU allocator's peak.",
        "allocator": "Peak of the CUDA allocator (allocated, not reserved), on the run's largest batch. "
        "Not comparable with tensor accounting on a CPU.",
    }.get(str(kind), f"Memory by {kind_words(str(kind))}.")
    return (how, *_held_against(results), *_what_dominates(_peaks(results)), *_pairs(results, most=6))


def _held_against(results: Results) -> Iterable[str]:
    """Say how far the categories are from the allocator's own count, and from what was predicted."""
    if results.common("memory_kind") != "tensor_accounting":
        return
    for column, told in (
        ("peak_unexplained_bytes", "The categories explain the allocator's own peak"),
        ("predicted_train_bytes", "Peaks predicted from the config alone are those measured"),
    ):
        shares = []
        for cell in results.tuned:
            rows = cell.trials[[column, "peak_train_bytes"]].dropna()
            for value, peak in rows.itertuples(index=False):
                shares.append(abs(value if column.startswith("peak") else value - peak) / peak)
        if shares:
            how = f"to within {fmt.share(max(shares))}" if max(shares) else "to the byte"
            yield f"{told} {how} in {len(shares)} trial{'s' * (len(shares) != 1)}."


def notes(results: Results) -> tuple[str, ...]:
    """Return what is said about memory under the table: the same, with one pair at most."""
    peaks = _peaks(results)
    lead = _what_dominates(peaks) if any(peak.moving > peak.weights for peak in peaks) else ()
    return (*lead, *_pairs(results, most=1))


def kind_words(kind: str) -> str:
    """Return the kind of memory accounting in words."""
    told = {"tensor_accounting": "tensor accounting", "allocator": "the CUDA allocator's peak"}
    return told.get(kind, kind.replace("_", " "))


@dataclass(frozen=True)
class _Peak:
    """A cell's training peak, in bytes."""

    weights: float
    """Base weights and quantization state: what storage precision decides."""
    moving: float
    """Activations, logits and temporaries: what it does not."""
    total: float
    quantized: bool
    """Whether storage is as narrow as it gets, so that there is nothing left to save."""


def _peaks(results: Results) -> list[_Peak]:
    found = []
    for cell in results.tuned:
        weights = _sum(cell, Category.BASE_WEIGHTS, Category.QUANTIZATION_STATE)
        moving = _sum(cell, Category.ACTIVATIONS, Category.LOGITS, Category.TEMPORARIES)
        total = cell.mean("peak_train_bytes")
        if weights and moving and total:
            found.append(_Peak(weights, moving, total, PRECISIONS[cell.precision].quantization is not None))
    return found


def _sum(cell: Cell, *categories: Category) -> float:
    return sum(cell.mean(category.column) or 0.0 for category in categories)


def _what_dominates(peaks: Sequence[_Peak]) -> Iterable[str]:
    """Say in how many cells activations outweigh the weights, and what follows for most of them."""
    if not peaks:
        return
    above = [peak.moving / peak.weights for peak in peaks if peak.moving > peak.weights]
    cells = f"of {len(peaks)} {'cell' if len(peaks) == 1 else 'cells'}"
    if 2 * len(above) <= len(peaks):
        told = f" (others: activations, logits and temporaries up to {max(above):.1f} times them)" if above else ""
        yield (
            f"Base weights outweigh activations, logits and temporaries in {len(peaks) - len(above)} {cells}{told}: "
            "storage precision and frozen weights decide the totals."
        )
        return
    shares = [100 * peak.weights / peak.total for peak in peaks if not peak.quantized]
    most = ""
    if shares:
        most = f": weights are {_span(shares)} % of unquantized peaks, the most that 4-bit storage can save"
    yield (
        f"Activations, logits and temporaries exceed the base weights in {len(above)} {cells} ({_span(above)} times)"
        f"{most}. With billions of parameters weights dominate, and the order of the cells is another."
    )


def _span(values: Sequence[float]) -> str:
    """Return "2.1 to 9.8", or one number where both ends read the same."""
    ends = [f"{value:.0f}" if value >= 10 else f"{value:.1f}" for value in (min(values), max(values))]
    return " to ".join(dict.fromkeys(ends))


@dataclass(frozen=True)
class _Pair:
    """A QLoRA cell and the LoRA cell of the same base and rank that it is held against."""

    qlora: Cell
    lora: Cell
    differing: tuple[str, ...]
    """Settings, in words, that keep their totals from comparing."""
    checkpointing: bool

    def told(self) -> str:
        """Return base weights and totals of both."""
        base, peak = (self._both(column) for column in ("base_weights_bytes", "peak_train_bytes"))
        return f"{self.qlora.name} against {self.lora.name}: base weights {base}, peak {peak}"

    def base_weights(self) -> str:
        """Return base weights of both: those compare whatever else differs."""
        return self._both("base_weights_bytes")

    def _both(self, column: str) -> str:
        one, other = self.qlora.mean(column), self.lora.mean(column)
        unit = fmt.byte_unit([max(one or 0.0, other or 0.0)])
        texts = [fmt.number(None if value is None else value / unit.size) for value in (one, other)]
        return f"{texts[0]} against {texts[1]} {unit.name}"


def _pairs(results: Results, most: int) -> Iterable[str]:
    """Say which totals of QLoRA and LoRA compare, or why none does.

    Args:
        results: What is reported.
        most: How many pairs are told at most, beginning with the middle rank.
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
        be = "differs" if pair.differing == (_MUST_EQUAL["train.gradient_checkpointing"],) else "differ"
        yield (
            f"Memory totals of {pair.qlora.name} and {pair.lora.name} do not compare: {' and '.join(pair.differing)} "
            f"{be}. Base weights do: {pair.base_weights()}."
        )
    elif not pairs:
        yield "Memory totals of qlora and lora do not compare: they have no rank in common."


def _fair(pairs: Sequence[_Pair], most: int) -> str:
    middle = (len(pairs) - 1) // 2
    shown = pairs[middle : middle + 1] if most == 1 else pairs[:most]
    checkpointing = {pair.checkpointing for pair in shown}
    how = f", {'with' if True in checkpointing else 'without'} checkpointing" if len(checkpointing) == 1 else ""
    rest = len(pairs) - len(shown)
    more = "" if not rest else f"; {rest} more {'pair' if rest == 1 else 'pairs'}{' on the page' if most == 1 else ''}"
    return (
        "Totals compare only at equal targets, rank and checkpointing. At equal ones"
        f"{how}: {'; '.join(pair.told() for pair in shown)}{more}."
    )


def _partners(qlora: Cell, loras: Sequence[Cell]) -> list[Cell]:
    return [lora for lora in loras if lora.rank == qlora.rank and lora.summary.base == qlora.summary.base]


def _best(qlora: Cell, partners: Sequence[Cell]) -> _Pair | None:
    """Return the pair that differs least; None where what must be equal was not stored."""
    order = {precision: place for place, precision in enumerate(_PARTNERS)}
    pairs = [pair for lora in partners if (pair := _pair(qlora, lora)) is not None]
    return min(pairs, key=lambda p: (len(p.differing), order.get(p.lora.precision, len(order))), default=None)


def _pair(qlora: Cell, lora: Cell) -> _Pair | None:
    one, other = _settings(qlora), _settings(lora)
    needed = ("options.target_modules", "train.gradient_checkpointing")
    if any(name not in held for name in needed for held in (one, other)):
        return None
    differing = tuple(text for name, text in _MUST_EQUAL.items() if one.get(name) != other.get(name))
    return _Pair(qlora, lora, differing, one["train.gradient_checkpointing"] == "yes")


def _settings(cell: Cell) -> dict[str, str]:
    return flat_texts(read_json(cell.ok["settings_json"].iloc[0]))
