"""A base model without weights: built from its config on ``meta``, where methods attach, then made of fake tensors.

``meta`` alone is not enough, since transformers' attention masks need a real device. Attaching under fake tensors is
not possible, since their modules cannot be moved. So methods attach on ``meta``, and then every tensor is replaced by a
fake tensor on the CPU with the same shape, strides and dtype.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from peftbench.errors import Unsupported, UserError
from peftbench.methods import method_of
from peftbench.models import attention, fp32_parts, quantization, text_part, unreached
from peftbench.models import head as heads
from peftbench.models import load as models
from peftbench.models.precision import Precision, effective
from peftbench.planner import fake_quantized
from peftbench.planner.fake_cache import CachingFakeTensorMode
from peftbench.records import Head, Trial, failures
from peftbench.records.attention import AUTO
from peftbench.records.resolve import resolve

_UNREACHED: dict[str, frozenset[str]] = {}
"""Class and contents of a config -> names of the parameters that text does not use, each found once in a process."""


def base(trial: Trial, config: Any, precision: Precision) -> Any:
    """Return the base model of a config on ``meta``, frozen, with the dtypes and quantization of ``models.load``.

    Raises:
        Unsupported: if the libraries would leave more than the embeddings and the head unquantized.
    """
    method = method_of(trial.method, trial.options)
    config = copy.deepcopy(config)
    quantization.set_compute(config, precision)
    dtype = getattr(torch, precision.base_weights(method.trains_base))
    made = without_weights(trial, config, dtype)
    fp32_parts.cast(made, dtype)
    if precision.quantization:
        double = trial.options.get("double_quantization", True)
        with quantization.every_linear_layer(precision):
            fake_quantized.quantize(made, quantization.of_config(config) or quantization.config(precision, double))
        fake_quantized.quantize_experts(made, precision, double)
    models.use_one_kernel(made)
    attention.use(made, attention.traced(trial.training.attention if trial.training else AUTO))
    made.requires_grad_(False)
    models._check(made, precision, method.trains_base, models.storage(made))
    for _, parameter in heads.parameters(made):
        parameter.data = parameter.data.to(getattr(torch, precision.trainable))
    return made


def without_weights(trial: Trial, config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Return the model of a config on ``meta``, with every parameter in one dtype and what text does not use marked."""
    trust, head = trial.base.trust_remote_code, trial.head
    key = f"{type(config).__qualname__} {config.to_json_string(use_diff=False)} {head is None}"
    if key not in _UNREACHED:
        probe = _built(config, torch.float32, trust, head)
        with fake_tensors(padded=True), Answers():
            materialize(probe)
            _UNREACHED[key] = unreached.names(probe)
    made = _built(config, dtype, trust, head)
    text_part.mark_unreached(made, _UNREACHED[key])
    return made


def _built(config: Any, dtype: torch.dtype, trust_remote_code: bool, head: Head | None) -> Any:
    own = config if head is None else heads.config(copy.deepcopy(config), head)
    with torch.device("meta"):
        made = heads.auto_class(head).from_config(own, dtype=dtype, trust_remote_code=trust_remote_code)
    if head is not None:
        heads.place(made)
    return made


def attach(made: Any, trial: Trial) -> Any:
    """Attach the trial's method on ``meta`` with parameters in the precision's dtype; return the tuned model."""
    method = method_of(trial.method, trial.options)
    with torch.device("meta"):
        try:
            tuned = resolve(method.attach)(made, trial.rank, unread(trial.options))
        except Exception as error:
            named = f"{method.name} {method.variant}".strip()
            refusal = failures.refusal(error, named, method.attach.partition(".")[0])
            if refusal is None:
                raise
            raise refusal from error
        heads.trainable(tuned, torch.float32)  # cast with the others
        models.cast_trainable(tuned, effective(trial.precision, trial.options))
    return tuned


def lacks_values(error: BaseException) -> bool:
    """Return whether an exception, or one that it follows from, is of tensors without values, so a run may not end so.

    Such is what names these tensors or their device (``Tensor.item() cannot be called on meta tensors``), and what
    torch's fake tensors raise.
    """
    found: BaseException | None = error
    while found is not None:
        ours = isinstance(found, Unsupported | UserError)  # its text has names of models, such as meta-llama
        if not ours and _names_no_values(found):
            return True
        found = found.__cause__ or found.__context__
    return False


def _names_no_values(error: BaseException) -> bool:
    if isinstance(error, NotImplementedError) or type(error).__module__.startswith("torch._subclasses"):
        return True
    return re.search(r"(?<![a-z])meta(?![a-z/-])|fake ?tensor", str(error), re.IGNORECASE) is not None


def unread(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return options whose initialization reads no weights, texts or batches; it does not change memory in training."""
    if "initialization" not in options:
        return options
    plain = {"initialization": "kaiming" if "alpha" in options else "random"}
    return {name: value for name, value in options.items() if name != "text"} | plain


def materialize(model: nn.Module) -> None:
    """Replace every tensor of a model on ``meta`` by one on the CPU; under ``fake_tensors`` these take no memory."""
    made: dict[int, torch.Tensor] = {}
    storages: dict[int, torch.Tensor] = {}
    replaced = []  # keeps the tensors alive, so that no id is reused

    def other(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            replaced.append(tensor)
            whole = fake_quantized.rebuilt(tensor, other)
            if whole is not None:
                return made.setdefault(id(tensor), whole)
            storage = tensor.untyped_storage()
            if storage._cdata not in storages:  # the whole storage, since a slice keeps all of it alive
                values = torch.empty(storage.nbytes() // tensor.element_size(), dtype=tensor.dtype, device="cpu")
                storages[storage._cdata] = values
            held = storages[storage._cdata]
            new = held.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).detach()
            if isinstance(tensor, nn.Parameter):
                new = nn.Parameter(new, requires_grad=tensor.requires_grad)
                fake_quantized.name(new, tensor)
            made[id(tensor)] = new
            new.__dict__.update({k: other(v) if isinstance(v, torch.Tensor) else v for k, v in vars(tensor).items()})
        return made[id(tensor)]

    for module in model.modules():
        for holder in _holders(module):
            for name, value in holder.items():
                if isinstance(value, torch.Tensor):
                    holder[name] = other(value)


def _holders(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield the dictionaries that hold a module's tensors: parameters, buffers, attributes, and dicts among these."""
    yield from (vars(state) for state in fake_quantized.states(module))
    yield from (module._parameters, module._buffers, vars(module))
    yield from (v for name, v in vars(module).items() if isinstance(v, dict) and not name.startswith("_"))


class Answers(TorchDispatchMode):
    """Gives fake tensors values where code reads them: True, or 0.

    The count of infinite gradients is 0 too, so that gradient scaling skips no step.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the check costs time at every operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator."""
        if func is torch.ops.prim.device.default:  # called more often than any operator that computes
            return args[0].fake_device
        if func is torch.ops.aten._local_scalar_dense.default:
            dtype = args[0].dtype
            return True if dtype is torch.bool else 0.0 if dtype.is_floating_point else 0
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run one operator that returns tensors."""
        if func is torch.ops.aten._grouped_mm.default:
            return _experts_product(*args, **kwargs)
        return func(*args, **kwargs)


def _experts_product(
    x: torch.Tensor, y: torch.Tensor, ends: Any = None, bias: Any = None, dtype: Any = None
) -> torch.Tensor:
    """Return an empty result of a grouped matrix product; torch's own fake version supports only bf16.

    Shapes: x (n, d) and y (experts, d, o) give (n, o); x (d, n) and y (n, o) give (experts, d, o).
    """
    shape = (x.shape[0], y.shape[-1]) if y.ndim == 3 else (ends.shape[0], x.shape[0], y.shape[-1])
    return x.new_empty(shape, dtype=dtype or x.dtype)


@contextmanager
def fake_tensors(padded: bool) -> Iterator[None]:
    """Make every tensor that is created in the context a fake one.

    transformers takes fake tensors for tracing and then always makes an attention mask. A real batch without padding
    has no mask, so for such a batch its check for tracing is disabled.

    Args:
        padded: whether a row of the batches has padding.
    """
    from transformers import masking_utils

    asked = masking_utils.is_tracing
    if not padded:
        masking_utils.is_tracing = lambda tensor=None: False
    try:
        with CachingFakeTensorMode():
            yield
    finally:
        masking_utils.is_tracing = asked
