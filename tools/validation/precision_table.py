"""Record the dtypes that occur at each precision: ``make reference RUNS=precisions``.

One optimizer step is taken on the tests' tiny base model with the code of trials, for a method on a frozen base model
and for full fine-tuning, while dtypes are recorded below autocast. ``tools/docs/precision_document.py`` makes
``docs/precisions.md`` from the result.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from peftbench.methods import METHODS
from peftbench.methods.support import why_unsupported
from peftbench.models.precision import PRECISIONS
from peftbench.records.resolve import resolve

RESULT = Path(__file__).resolve().parents[2] / "results" / "reference" / "precisions.json"
DEVICES = ("cpu", "cuda")
KINDS = {"frozen": "on a frozen base", "full": "full"}
"""Kinds of method -> heading."""
SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
VERSIONS = ("torch", "transformers", "peft", "bitsandbytes")
OPTIONAL = ("torchao",)
"""Libraries that only some rows need."""
STATES = ("fp32", "bf16-true")
"""Precisions of full fine-tuning in which trainable parameters are fp32 and bf16."""
WIDTH = 1024
"""Width of the second base model on which bits per weight are measured, besides the tiny one."""
KEPT = {
    **{f"stored: bitsandbytes {kind}": kind for kind in ("nf4", "int8")},
    **{f"stored: torchao {kind}": f"torchao-{kind}" for kind in ("int8", "int4", "float8", "nvfp4")},
}
"""Name of a row of precision ``stored`` -> the kind of base model that is stored so."""
STORED = {
    "linear": "linear layers",
    "scales": "their scales",
    "rest": "the rest",
    "trainables": "trainables",
    "gradients": "gradients",
    "state": "optimizer state",
    "scaling": "gradients scaled",
}
COMPUTED = {
    "entering": "enters linear layers",
    "product": "linear layers",
    "product_evaluated": "in evaluation",
    "product_trainable": "trainables",
    "product_backward": "backward",
    "product_head": "head",
    "attention": "attention",
    "norm": "norms",
    "loss": "loss",
}
"""What is recorded -> heading of its column."""


def names() -> list[str]:
    """Return the names of the rows: every precision, and in place of ``stored`` each kind of stored base model."""
    return [*(name for name in PRECISIONS if name != "stored"), *KEPT]


def here(name: str) -> bool:
    """Return whether a precision's, kept base's or optimizer's row can be made here: torchao is optional."""
    from tests.support import stored_bases

    package = PRECISIONS[name].package if name in PRECISIONS else ""
    return stored_bases.why_missing(KEPT.get(name, package)) is None


def precision_of(name: str) -> str:
    """Return the precision of a row."""
    return "stored" if name in KEPT else name


def base_of(name: str, plain: Path) -> Path:
    """Return the base model of a row: a plain one, or the same as it is stored quantized, made once beside it."""
    from tests.support import stored_bases

    if name not in KEPT:
        return plain
    folder = plain.with_name(f"{plain.name}-{KEPT[name]}")
    return folder if folder.is_dir() else stored_bases.make(plain, folder, KEPT[name])


def subject(kind: str, precision: str) -> str:
    """Return the method that represents full fine-tuning, or all methods on a frozen base model."""
    if kind == "full" or precision not in METHODS["qlora"].precisions or precision == "stored":
        return kind if kind == "full" else "lora"
    return "qlora"


def look(
    base: Path, scratch: Path, method: str, precision: str, device: str = "cpu", **training: str
) -> dict[str, str]:
    """Return the dtypes in one training step and one evaluation of a method at a precision."""
    import torch

    from peftbench.models import load, storage
    from peftbench.tasks import read
    from peftbench.training import batches, loop
    from tests.support import trials

    record, made = PRECISIONS[precision], trials.trial(base, scratch, method, precision, training=training)
    loaded = load.load(base, record, METHODS[method].trains_base, True, device=device, trust_remote_code=False)
    torch.manual_seed(0)
    tuned = resolve(METHODS[method].attach)(loaded.model, made.rank, made.options)
    parameters = load.cast_trainable(tuned, record)
    where = {"precision": record, "device": device, "pad_id": loaded.tokenizer.pad_token_id, "virtual_tokens": 0}
    learner = loop.learner(tuned, parameters, made.training, **where)
    plan = batches.draw_batches({"colour": read.examples(made.tasks[0], "train")}, made.training, loaded.tokenizer, 0)
    batch = batches.collate(plan[0], loaded.tokenizer.pad_token_id).to(device)
    seen, evaluated = defaultdict(set), defaultdict(set)
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(lambda p: seen["gradients"].add(p.grad.dtype))
    tuned.train()
    with watched(tuned, seen):
        loop.step(learner, [batch], made.training.learning_rate, 0)
    tuned.eval()
    with torch.no_grad(), watched(tuned, evaluated), load.autocast(record, device):
        tuned(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    linear = linear_layers(tuned)
    weights = {id(m.weight) for m in linear}
    seen["linear"] = {storage.parts(m.weight)[0].dtype for m in linear}
    seen["scales"] = {t.dtype for t in load.quantization_tensors(tuned)}
    seen["rest"] = {
        p.dtype for p in tuned.parameters() if id(p) not in weights and p.requires_grad is (method == "full")
    }
    seen["trainables"] = {p.dtype for p in parameters}
    seen["state"] = {t.dtype for t in tensors(learner.optimizer)}
    seen["product_evaluated"] = evaluated["product"]
    if method == "full":
        seen["product_trainable"] = seen["product"]
    found = {name: names_of(seen[name]) for name in (*STORED, *COMPUTED)}
    if torch.get_float32_matmul_precision() != "highest":
        found = {name: v.replace("fp32", "tf32") if name.startswith("product") else v for name, v in found.items()}
    return found | {"scaling": "yes" if learner.scaler.is_enabled() else "no", "optimizer": made.training.optimizer}


def tensors(optimizer: Any) -> Iterator[Any]:
    """Yield the tensors of an optimizer's state, without scalars such as step counts."""
    for state in optimizer.state.values():
        yield from (value for value in state.values() if getattr(value, "ndim", 0))


def places(model: Any) -> dict[Any, str]:
    """Return the category of the products in each linear layer; layers added by a method count as trainable."""
    from torch import nn

    whole = all(p.requires_grad for p in model.parameters())
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            own = "product_trainable" if module.weight.requires_grad and not whole else "product"
            found[module] = "product_head" if name.endswith("lm_head") else own
    return found


def linear_layers(model: Any) -> list[Any]:
    """Return the linear layers of the base model's decoder layers."""
    return [module for module, place in places(model).items() if place == "product"]


@contextmanager
def watched(tuned: Any, seen: dict[str, set]) -> Iterator[None]:
    """Record the dtypes of matrix products by category, of attention, of norms and of the loss within the context."""
    from torch.utils._python_dispatch import TorchDispatchMode

    inner: list[str] = []

    def enter(module: Any, args: Any) -> None:
        inner.append(here[module])
        if inner[-1] == "product":
            seen["entering"].add(args[0].dtype)

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            with inside(function, seen, inner):
                key, operands = operation(function.overloadpacket.__name__, args, inner)
                if key:
                    seen[key] |= {t.dtype for t in operands}
                return function(*args, **(kwargs or {}))

    here = places(tuned)
    hooks = [m.register_forward_pre_hook(enter) for m in here]
    hooks += [m.register_forward_hook(lambda *_: inner.pop() and None) for m in here]
    try:
        with Watch():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def operation(name: str, args: Any, inner: list[str]) -> tuple[str | None, Iterable[Any]]:
    """Return the category of an operator below autocast, and the tensors whose dtypes are recorded for it."""
    import torch

    given = [a for a in args if isinstance(a, torch.Tensor)]
    if name in ("mm", "addmm", "bmm", "baddbmm"):
        if torch._C._current_graph_task_id() != -1:
            return "product_backward", given[-2:]
        return (inner[-1] if inner else None), given[-2:]  # None outside linear layers, as for rotary angles
    if name == "int8_mixed_scaled_mm":
        return inner[-1], given[1:3]  # the codes of activations and weights
    if name == "gemm_4bit":
        return inner[-1], given[:1]  # weights are dequantized to the dtype of the activations
    if name.startswith("_scaled_dot_product") and not name.endswith("backward"):
        return "attention", given[:3]
    return {"rsqrt": "norm", "_log_softmax": "loss"}.get(name), given


@contextmanager
def inside(function: Any, seen: dict[str, set], inner: list[str]) -> Iterator[None]:
    """Record the dtypes inside the operator that dequantizes 4-bit weights and multiplies, if that is in Python."""
    from torch.nn import functional

    if function.overloadpacket.__name__ != "gemm_4bit":
        yield
        return
    multiply = functional.linear

    def linear(x: Any, weight: Any, bias: Any = None) -> Any:
        seen[inner[-1]] |= {x.dtype, weight.dtype}
        return multiply(x, weight, bias)

    with mock.patch.object(functional, "linear", linear):
        yield


def names_of(dtypes: Iterable[Any]) -> str:
    """Return the short names of dtypes: ``bf16, uint8``."""
    names = (str(dtype).removeprefix("torch.") for dtype in dtypes)
    return ", ".join(sorted(SHORT.get(name, name) for name in names)) or "–"


def bits(base: Path, precision: str, device: str = "cpu") -> dict[str, float]:
    """Return bits per weight of a base model, and of its linear layers with and without code tables."""
    from peftbench.models import load

    loaded = load.load(base, PRECISIONS[precision], False, True, device=device, trust_remote_code=False)
    linear = linear_layers(loaded.model)
    weights = sum(load.parameter_count(m.weight) for m in linear)
    tables = 0
    for module in linear:
        state = getattr(module.weight, "quant_state", None)
        while state is not None:
            tables += state.code.nbytes
            state = state.state2
    held = sum(load.weights_bytes(m) for m in linear)
    return {
        "base": round(8 * loaded.weights_bytes / loaded.parameters, 3),
        "linear": round(8 * held / weights, 3),
        "linear_without_tables": round(8 * (held - tables) / weights, 3),
    }


def devices() -> list[str]:
    """Return the devices of this machine."""
    import torch

    return [d for d in DEVICES if d == "cpu" or torch.cuda.is_available()]


def everything(tiny: Path, wide: Path, scratch: Path, device: str) -> dict[str, Any]:
    """Return all records of a device.

    They are, by precision, bits per weight and the dtypes for each kind of method; and by optimizer, the dtypes of its
    state for each dtype of trainable parameters.
    """
    from peftbench.records import OPTIMIZERS

    precisions = {
        name: {
            "bits": {
                "tiny": bits(base_of(name, tiny), precision_of(name), device),
                "wide": bits(base_of(name, wide), precision_of(name), device),
            },
            **{
                kind: look(base_of(name, tiny), scratch, subject(kind, precision_of(name)), precision_of(name), device)
                for kind in KINDS
                if why_unsupported(METHODS[subject(kind, precision_of(name))], precision_of(name), device) is None
            },
        }
        for name in names()
        if device in PRECISIONS[precision_of(name)].devices and here(name)
    }
    optimizers = {
        name: {
            precision: look(tiny, scratch, "full", precision, device, optimizer=name)["state"] for precision in STATES
        }
        for name in OPTIMIZERS
    }
    return {"precisions": precisions, "optimizers": optimizers}


def bases(folder: Path) -> tuple[Path, Path]:
    """Make the tiny base model and a wide one with a single decoder layer."""
    from tests.support import tiny_base

    wide = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1}
    return tiny_base.make(folder / "tiny"), tiny_base.make(folder / "wide", **wide)


def _versions(earlier: Mapping[str, str]) -> dict[str, str]:
    """Return the versions of the libraries that were used; of an optional one that is not installed, the earlier one.

    Rows that need it are kept from then.
    """
    from importlib.metadata import version
    from importlib.util import find_spec

    kept = {library: earlier[library] for library in OPTIONAL if library in earlier}
    here = [*VERSIONS, *(library for library in OPTIONAL if find_spec(library))]
    return {library: version(library) for library in here} | {k: v for k, v in kept.items() if k not in here}


def main() -> None:
    """Record every device of this machine, and keep earlier records of other devices."""
    import torch

    torch.set_num_threads(1)
    kept = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        made = bases(Path(folder))
        for device in devices():
            name = torch.cuda.get_device_name() if device == "cuda" else None
            found = everything(*made, Path(folder), device)
            earlier = kept.get(device, {}).get("precisions", {})
            rows = {row: found["precisions"].get(row, earlier.get(row)) for row in names()}
            kept[device] = {
                "versions": _versions(kept.get(device, {}).get("versions", {})),
                "name": name,
                **found,
                "precisions": {row: seen for row, seen in rows.items() if seen},
            }
    RESULT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
