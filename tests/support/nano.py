"""The built-in base with a method attached."""

from __future__ import annotations

from peftbench.methods import METHODS
from peftbench.models import builtin, load
from peftbench.models.precision import PRECISIONS
from peftbench.records.resolve import resolve
from peftbench.training import loop
from tests.support import trials


def on_nano(method: str, precision: str, tmp_path, device: str = "cpu") -> tuple[loop.Learner, load.Loaded]:
    """Return the built-in base with a method attached at the rank of ``RANKS``, ready to train."""
    record, made = METHODS[method], trials.trial(builtin.folder("nano"), tmp_path, method, precision)
    chosen = PRECISIONS[precision]
    loaded = load.load(builtin.folder("nano"), chosen, record.trains_base, True, device=device, trust_remote_code=False)
    tuned = resolve(record.attach)(loaded.model, RANKS[method], made.options)
    where = {"precision": chosen, "device": device, "pad_id": 2, "virtual_tokens": 0}
    return loop.learner(tuned, load.cast_trainable(tuned, chosen), made.training, **where), loaded


RANKS = {
    "full": None,
    "prompt_tuning": 50,
    "prefix_tuning": 16,
    "adapter": 16,
    "llama_adapter": 10,
    "lora": 8,
    "qlora": 8,
    "peft": 8,
}
