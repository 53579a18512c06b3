"""Notes under the retention table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from peftbench.records.wording import plural
from peftbench.report.derived.retention import Retained


def notes(cells: Sequence[Retained]) -> Iterable[str]:
    """Yield what was measured, and which differences are not significant or not comparable."""
    sizes = {(len(one.tokens), int(one.tokens.sum())) for one in cells}
    texts, tokens = next(iter(sizes))
    held_out = f"{plural(texts, 'text')}, {tokens:,} predicted tokens" if len(sizes) == 1 else "texts differ by cell"
    scopes = {one.change.scope.replace("examples", "texts") for one in cells if one.change}
    intervals = f" Intervals: 95 % for {' or for '.join(sorted(scopes))}." if scopes else ""
    yield (
        f"Retention: loss on held-out general text ({held_out}) of the base model before training and of the tuned "
        "model after, at the cell's precision. Forgetting: after minus before, paired by text; positive is worse."
        f"{intervals}"
    )
    if texts == 1:
        yield "Forgetting is not reported: one text gives no interval. Check evaluate.retention.separator."
    hashes = {text for one in cells for text in one.cell.texts("retention_sha256")}
    if len(hashes) > 1 and len({one.cell.summary.base for one in cells}) == 1:
        yield "Cells were evaluated on different general texts, so their losses are not comparable."
    infinite = [one.cell.name for one in cells if one.after is not None and not np.isfinite(one.after).all()]
    if infinite:
        yield f"No forgetting for {', '.join(infinite)}: a text's loss after training is not finite."
    void = [one.cell.name for one in cells if one.change and one.change.low <= 0 <= one.change.high]
    if void:
        yield f"Forgetting not significantly different from zero: {', '.join(void)}."
