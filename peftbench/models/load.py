"""Load a base model at a precision, measure how it is stored, and classify its tensors."""

from __future__ import annotations

import errno
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from peftbench.errors import Unsupported, UserError
from peftbench.models import (
    attention,
    configs,
    dry_load,
    fp32_parts,
    head,
    origin,
    own_weights,
    padding_rows,
    quantization,
    random_weights,
    sliced,
    stored,
    text_part,
    unfit,
    unreached,
)
from peftbench.models.precision import Precision
from peftbench.models.storage import checksum as checksum
from peftbench.models.storage import dtype_name, is_packed, parameter_count, storage, weights_bytes
from peftbench.models.storage import quantization_tensors as quantization_tensors
from peftbench.models.tokenizer import load_tokenizer
from peftbench.records import Head
from peftbench.records.attention import AUTO
from peftbench.records.columns.size import SizeColumns
from peftbench.records.wording import abridged

_LONGEST_MESSAGE = 300
_UNQUANTIZED_SHARE = 0.01
"""Largest share of the parameters that may stay unquantized in matrices other than embeddings and head: enough for the
routers of a mixture of experts, not for the experts."""


@dataclass
class Loaded:
    """A loaded base model, and how it is stored."""

    model: Any
    """Replaced where a rank of several must read the base model after all (``runner.divided_base``)."""
    tokenizer: Any
    parameters: int
    """Number of parameters without a head's, tied ones once; each packed 4-bit weight counts as one."""
    weights_bytes: int
    """Bytes of weights and quantization state without a head's; tied ones once."""
    dtypes: str
    """Storage dtypes with their shares of the parameters, without a head's: ``uint8 0.86, bfloat16 0.14``."""


def load(folder: Path, precision: Precision, trains_base: bool, double_quantization: bool, **where: Any) -> Loaded:
    """Load a causal language model, or one with a head for whole texts, and its tokenizer, every weight frozen.

    peft's ``prepare_model_for_kbit_training`` is not called, but each of its steps has a counterpart. Freezing is done
    here, and ``training.loop.learner`` enables input gradients if gradient checkpointing needs them. Norms, embeddings
    and head in fp32 are precisions of their own (``nf4-fp32`` and so on): on small base models they cost more memory
    than 4 bits save, and methods could not be compared if only LoRA had them.

    Args:
        folder: a model folder in the Hugging Face layout, weights in safetensors.
        precision: how to store the weights.
        trains_base: whether the base model's own weights will train, and so need master weights.
        double_quantization: for 4-bit precisions, whether quantization constants are quantized too.
        **where: ``device`` (``cpu`` or ``cuda``), ``trust_remote_code``, for a shape ``random_weights``,
            ``head`` for a model that reads whole texts, ``attention`` (``attention.use``), and ``draws_on`` if the
            model goes to another device later (``origin.Origin``).

    Raises:
        UserError: if the folder cannot be loaded, or the loaded dtypes are not those of the precision.
        Unsupported: if the libraries left more than embeddings and head unquantized, or the model does not run with the
            attention.
    """
    device, trust, asked = where["device"], where["trust_remote_code"], where.get("head")
    settings: dict[str, Any] = {"dtype": getattr(torch, precision.base_weights(trains_base))}
    if precision.quantization:
        settings |= quantization.settings(precision, double_quantization) | {"device_map": {"": device}}
    set_products(precision)
    with _loading_errors(folder, device):
        tokenizer = load_tokenizer(folder, trust, ends=asked is None)
        with _quantizing(precision, double_quantization) if "quantization_config" in settings else nullcontext():
            if where.get("random_weights"):
                model = random_weights.load(folder, device, trust, asked, **settings)
            else:
                model = _from_files(folder, trust, settings, asked, precision)
    model = model if precision.quantization else model.to(device)
    quantization.quantize_experts(model, precision, double_quantization)
    use_one_kernel(model)
    attention.use(model, where.get("attention", AUTO))
    origin.guard_embeddings(model, tokenizer)
    model.requires_grad_(False)
    dtypes = storage(model)
    _check(model, precision, trains_base, dtypes)
    if precision.name == stored.NAME:
        quantization.check_stored(model, stored.contents(folder))
    if asked is not None:
        head.config(model.config, asked, tokenizer.pad_token_id)
        head.initialize(model, asked, getattr(torch, precision.trainable))
        dtypes = storage(model)
    total = sum(dtypes.values())
    shares = ", ".join(f"{name} {count / total:.3g}" for name, count in dtypes.most_common())
    model.peftbench_origin = origin.Origin(folder, tokenizer, trust, draws_on=where.get("draws_on"))
    with autocast(precision, device):
        text_part.mark_unreached(model, unreached.names(model, device))
    return Loaded(model, tokenizer, total, weights_bytes(model, head.apart(model)), shares)


@contextmanager
def _quantizing(precision: Precision, double_quantization: bool) -> Iterator[None]:
    """Within the context, let transformers quantize all that is to be quantized, with little memory for it."""
    sliced.register()
    with quantization.every_linear_layer(precision), quantization.experts_as_loaded(precision, double_quantization):
        yield


def set_products(precision: Precision) -> None:
    """Let this process round the factors of float32 products to TF32, or not."""
    torch.set_float32_matmul_precision("high" if precision.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = precision.tf32  # for convolutions torch's default is True


def _from_files(
    folder: Path, trust_remote_code: bool, settings: dict[str, Any], asked: Head | None, precision: Precision
) -> Any:
    """Return the model in a folder, with a head if one is asked for.

    Raises:
        UserError: if its weights are not those of its config, or an adapter is beside them.
    """
    from transformers import AutoConfig

    problem = unfit.why_no_base(folder)
    if problem:
        raise UserError(problem)
    unfit.check_code(folder, trust_remote_code)
    if precision.quantization:  # the loader compares no shapes of what it quantizes
        dry_load.check(folder, trust_remote_code, asked)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    mended = [configs.mend(config), quantization.set_compute(config, precision)]
    settings |= {"config": config} if any(mended) else {}
    if asked is not None:  # the files may have a head of other classes
        settings |= {"config": head.config(config, asked), "ignore_mismatched_sizes": True}
    settings |= {"use_safetensors": True, "trust_remote_code": trust_remote_code, "output_loading_info": True}
    try:
        with dry_load.quiet() if asked is not None else nullcontext():
            model, info = head.auto_class(asked).from_pretrained(folder, **settings)
    except RuntimeError:
        dry_load.check(folder, trust_remote_code, asked)  # names tensors of another shape; transformers does not
        raise
    dry_load.verify(folder, model, info)
    padding_rows.restore(model, folder)
    if asked is not None:
        head.place(model, {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
    return model


@contextmanager
def _loading_errors(folder: Path, device: str) -> Iterator[None]:
    """Translate what the libraries raise while loading into a ``UserError`` or an out-of-memory error."""
    try:
        yield
    except UserError as error:
        raise UserError(f"base {folder.name!r}: {error}") from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOMEM:
            raise MemoryError(str(error)) from error
        message = " ".join(str(error).split())[:_LONGEST_MESSAGE]
        raise UserError(f"base {folder.name!r} cannot be loaded: {message}") from error
    except RuntimeError as error:
        # if quantizing a tensor fails, transformers only logs the cause and raises a general RuntimeError
        ran_out = device == "cuda" and torch.cuda.memory_stats().get("num_ooms")
        if ran_out and not isinstance(error, torch.OutOfMemoryError):
            raise torch.OutOfMemoryError("CUDA out of memory while the base was loaded") from error
        raise


def use_one_kernel(model: nn.Module) -> None:
    """Prevent bitsandbytes' 4-bit layers from repacking their weights on the CPU at the first inference.

    The kernel for repacked weights exists for some CPUs and some widths only, its results differ from those of the
    kernel used in training, and repacking changes the bytes of frozen weights.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def trainable_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters; tied parameters count once.

    Those of a head, which trains with every method, are not counted (``head.count``). A parameter of which only a part
    trains carries the size of that part as ``peftbench_trained``: LoRA on parts of a
    fused projection keeps the rest of B at zero.
    """
    apart = head.apart(model)
    own = (p for p in model.parameters() if p.requires_grad and id(p) not in apart)
    return sum(getattr(p, "peftbench_trained", p.numel()) for p in own)


def _check(model: Any, precision: Precision, trains_base: bool, dtypes: Counter[str]) -> None:
    """Check that a loaded base model is stored as the precision defines it: libraries skip layers silently.

    Parameters that the model's own class keeps in float32 are allowed, except weight matrices where it is quantized.
    """
    expected = precision.base_weights(trains_base)
    allowed = {expected, "int8", "uint8", "float8_e4m3fn"} if precision.quantization else {expected}
    if not set(dtypes) <= allowed:
        kept = fp32_parts.names(model, getattr(torch, expected))
        others = [n for n, p in model.named_parameters() if dtype_name(p) not in allowed and n not in kept]
        if others:
            raise UserError(
                f"precision {precision.name}: expected weights in {expected}, but loaded {dict(dtypes)} "
                f"({abridged(others, 2)})"
            )
        fp32_parts.mark(model, kept)
    if not precision.quantization or precision.name == stored.NAME:  # its files decide what is quantized
        return
    plain = {name: p for name, p in matrices(model).items() if not is_packed(p)}
    if sum(p.numel() for p in plain.values()) > _UNQUANTIZED_SHARE * sum(dtypes.values()):
        largest = max(plain, key=lambda name: plain[name].numel())
        raise Unsupported(
            f"precision {precision.name}: {len(plain)} weight matrices were not quantized, the largest {largest}"
            f"{_why_plain(model, largest, precision)}"
        )


def _why_plain(model: Any, name: str, precision: Precision) -> str:
    """Return why a weight matrix was not quantized, as the end of a message; empty if it is not known."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    if quantization.is_fused(module, module.get_parameter(own)):
        library = precision.package or ("LLM.int8" if precision.quantization == "int8" else "")
        return f", the weights of fused experts, which {library} does not support" if library else ""
    if fp32_parts.stays(module.get_parameter(own)):
        return ", which the model's class keeps in float32"
    kind = type(module).__name__
    if why := quantization.why_ungrouped(module, precision):
        return f", {why}"
    if kind == "Conv1D":
        return f", of a Conv1D layer, which {precision.package} does not quantize"
    return ", of a convolution" if kind.startswith("Conv") else ""


def matrices(model: Any) -> dict[str, nn.Parameter]:
    """Return the weight matrices that text passes through by name, without embeddings, head and biases.

    Quantized ones are included, those of vision towers are not (``text_part``).
    """
    aside = text_part.left_out_parameters(model)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    tables |= {id(getattr(output, "weight", None)), *(id(p) for _, p in head.parameters(model))}
    found = {name: p for name, p in model.named_parameters() if p.ndim >= 2 and id(p) not in tables}
    # biases of fused experts have two dimensions, (experts, out)
    return {name: p for name, p in found.items() if not name.endswith("bias") and id(p) not in aside}


def left_out_columns(model: Any) -> SizeColumns:
    """Return the row's columns on the parts of a base model that text does not pass through."""
    aside = text_part.left_out_parameters(model)
    count = sum(parameter_count(p) for p in model.parameters() if id(p) in aside)
    return SizeColumns(left_out_modules=", ".join(text_part.left_out_names(model)) or None, left_out_parameters=count)


def parameters_in(path: Path) -> int:
    """Return the number of values in a safetensors file, read from its header only."""
    with safe_open(path, framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (no mapping)


def cast_trainable(model: nn.Module, precision: Precision) -> list[nn.Parameter]:
    """Cast every trainable parameter to the precision's dtype for trainable parameters, and return these parameters.

    A method's frozen weights (``models.own_weights``) are cast with them. What the model's own class keeps in float32
    stays so.
    """
    for parameter in model.parameters():
        if (parameter.requires_grad or own_weights.frozen(parameter)) and not fp32_parts.stays(parameter):
            parameter.data = parameter.data.to(getattr(torch, precision.trainable))
    return [p for p in model.parameters() if p.requires_grad]


def autocast(precision: Precision, device: str) -> Any:
    """Return the autocast context of a precision, the same in training and evaluation."""
    if precision.autocast is None:
        return nullcontext()
    return torch.autocast(device, dtype=getattr(torch, precision.autocast))
