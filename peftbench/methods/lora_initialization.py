"""Initializations of LoRA's A and B from data or from the base model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import EvaConfig, get_peft_model_state_dict, initialize_lora_eva_weights
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from peftbench.errors import Unsupported
from peftbench.methods import lora_calibration
from peftbench.methods.lora_calibration import ADAPTER
from peftbench.models import dry_load, head
from peftbench.models.quantization import is_fused
from peftbench.models.storage import is_packed
from peftbench.training.batches import collate

_MUTATING = ("pissa", "olora", "corda", "lora_ga")
"""Initializations that subtract s B A from the base's weights; also ``pissa_niter_N``."""
_FROM_DATA = ("eva", "corda", "lora_ga")
_EVA_PASSES = 200
"""Largest number of forward passes of EVA's incremental SVD; if it converges, it does so within about ten."""


def mutates(start: str) -> bool:
    """Return whether an initialization subtracts s B A from the base's weights."""
    return start.partition("_niter_")[0] in _MUTATING


def check(model: nn.Module, start: str, options: Mapping[str, Any], name: str = "lora") -> None:
    """Check that an initialization, DoRA and dropout exist on a base model, before it is changed.

    Args:
        model: the base model.
        start: the initialization.
        options: ``dora``, ``dropout``, ``target_modules`` and ``experts``.
        name: the method's name, which begins messages.

    Raises:
        Unsupported: if one of them does not.
    """
    words = [word for word in ("dora", "dropout") if options.get(word)]
    words += [start] * (start not in ("kaiming", "gaussian"))
    # 4-bit experts are parametrizations; of them all-linear adapts only the router, through the same wrapper of peft
    fused = [
        f"{path}.{name}"
        for path, module in model.named_modules()
        for name, p in module.named_parameters(recurse=False)
        if is_fused(module, p) or ".parametrizations." in f"{path}."
    ]
    if words and fused and options["target_modules"] == "all-linear" and options.get("experts") != "none":
        raise Unsupported(
            f"{name}: all-linear includes fused experts ({fused[0]}) or their router, for which peft has no "
            f"{' and no '.join(words)}; experts: none, or target_modules: attention, exclude them"
        )
    if options.get("dora") and any(p.dtype == torch.int8 and p.device.type == "cpu" for p in model.parameters()):
        # DoRA reads the weight in every forward pass, and the copy that peft stores back on the CPU has no scales
        raise Unsupported(f"{name}: dora on int8 weights: peft 0.21 loses their scales on the CPU")
    quantized = any(map(is_packed, model.parameters()))
    if mutates(start) and quantized:
        raise Unsupported(
            f"{name}: initialization {start} subtracts s B A from the base's weights, which would be quantized again: "
            "the saved adapter would give other logits on the original base"
        )
    if start == "loftq" and not quantized:
        raise Unsupported(
            f"{name}: initialization loftq approximates the quantization error; this base is not quantized"
        )
    if start == "olora" and any(isinstance(m, Conv1D) for m in model.modules()):
        raise Unsupported(
            f"{name}: initialization olora: peft takes Conv1D weights as (out, in), but they are (in, out)"
        )
    if start in _FROM_DATA and not model.peftbench_origin.step_examples:  # type: ignore[union-attr]
        raise Unsupported(f"{name}: initialization {start} needs training batches, and there are none")


def config(model: nn.Module, start: str, rank: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``LoraConfig`` that an initialization needs."""
    if start != "eva":
        return {}
    # rho x r components are computed of each layer's input, which has no more components than its width
    narrowest = min(m.in_features for m in model.modules() if isinstance(m, nn.Linear))
    largest = max(rank, *options.get("rank_pattern", {}).values(), 1)
    return {"eva_config": EvaConfig(rho=max(1.0, min(2.0, narrowest / largest)))}


def apply(tuned: Any, start: str, name: str = "lora") -> None:
    """Complete an initialization on the wrapped base model, and keep the initial values that saving needs.

    ``corda``, and ``lora_ga`` of the method peft, are applied before (``lora_calibration``).

    - ``pissa``: s B A consists of the r largest singular components of W, which are subtracted from W. Meng et al.
      2024, arXiv:2404.02948, section 3.1, with an exact SVD as there.
    - ``olora``: the same with the first r columns of a QR decomposition. Buyukakyuz 2024, arXiv:2406.01775. As in
      peft, B A is scaled by s before it is subtracted from W, so the first forward pass equals the base model's.
    - ``eva``: the rows of A are the r largest right singular vectors of the module's inputs on the training batches,
      and B is zero. Ranks are redistributed by explained variance; their sum stays the same, and none exceeds twice
      the given rank. Paischer et al. 2024, arXiv:2410.07170, section 3. Differs from peft's default: all tokens except
      padding are used, not only those with a loss, of which tasks with short answers have too few.
    - ``lora_ga``: singular vectors of the gradient of W, subtracted likewise; see ``lora_calibration.lora_ga``.
    - ``loftq``: s B A is the best rank-r approximation of W - Q(W). Li et al. 2023, arXiv:2310.08659, section 3.
      Differs from it: one iteration (T = 1), so the quantized weights are the same for every method. peft's own
      implementation needs CUDA and ignores s.

    Raises:
        Unsupported: if a module has fewer than r components, or its weight is tied to the embedding, which the
            initialization would change as well.
    """
    if start == "eva":
        _eva(tuned)
    if start == "lora_ga" and name == "lora":
        lora_calibration.lora_ga(tuned)
    if mutates(start):
        # copied to the host: A0 and B0 are needed only for saving
        state = get_peft_model_state_dict(tuned, save_embedding_layers=False)
        tuned.peftbench_start = {key: t.detach().float().cpu().clone() for key, t in state.items()}
    if start == "loftq":
        _loftq(tuned)
    tables = {id(m.weight) for m in tuned.modules() if isinstance(m, nn.Embedding)}
    for path, module in _layers(tuned):
        if mutates(start) and id(module.get_base_layer().weight) in tables:
            raise Unsupported(f"{name}: initialization {start} would change the embedding that is tied to {path}")
        if start in ("kaiming", "gaussian", "orthogonal") or ADAPTER not in module.lora_A:
            continue
        shape = tuple(module.lora_A[ADAPTER].weight.shape)
        if shape[0] != module.r[ADAPTER]:
            raise Unsupported(
                f"{name}: initialization {start}: {path} of shape ({module.out_features}, {module.in_features}) has "
                f"{shape[0]} components, fewer than its rank of {module.r[ADAPTER]}"
            )


def _layers(tuned: Any) -> Iterator[tuple[str, LoraLayer]]:
    return ((n, m) for n, m in tuned.get_base_model().named_modules() if isinstance(m, LoraLayer))


def _eva(tuned: Any) -> None:
    device = next(tuned.parameters()).device
    origin = tuned.get_base_model().peftbench_origin
    batches = [collate(step, origin.tokenizer.pad_token_id).to(str(device)).inputs for step in origin.step_examples]
    own = tuned.peft_config[ADAPTER]
    largest = max(own.r, *own.rank_pattern.values(), 1)
    needed = round(own.eva_config.rho * largest)
    tokens = max(int(b["attention_mask"].sum()) for b in batches)
    if tokens < needed:
        raise Unsupported(f"lora: initialization eva: {needed} components need as many tokens, a batch has {tokens}")
    left = iter(range(_EVA_PASSES))

    def forward(model: Any, inputs: Any) -> None:
        if next(left, None) is None:
            raise Unsupported(f"lora: initialization eva did not converge in {_EVA_PASSES} forward passes")
        with lora_calibration.computing(model):
            head.predictions(model, inputs)

    initialize_lora_eva_weights(
        tuned,
        batches,
        forward_fn=forward,
        prepare_model_inputs_fn=lambda inputs, _: inputs["attention_mask"].bool(),
        prepare_layer_inputs_fn=_tokens,
        gather_distributed_inputs=False,  # each process has all batches, and may be the only one with the weights
        show_progress_bar=False,
    )


def _tokens(layer_input: Any, mask: torch.Tensor, name: str) -> torch.Tensor:
    """Return a module's inputs (n, d) at the n positions of a mask (b, t); opt gives (b t, d), others (b, t, d)."""
    x = layer_input[0] if isinstance(layer_input, tuple | list) else layer_input
    if x.numel() != mask.numel() * x.shape[-1]:  # deberta's projections of relative positions
        raise Unsupported(f"lora: initialization eva: {name} also reads something else than the tokens of a text")
    return x.reshape(-1, x.shape[-1])[mask.flatten()]


@torch.no_grad()
def _loftq(tuned: Any) -> None:
    """Set s B A to the best rank-r approximation of W - Q(W); W is read again from the base model's folder."""
    base = tuned.get_base_model()
    origin = base.peftbench_origin
    settings = {"use_safetensors": True, "trust_remote_code": origin.trust_remote_code, "dtype": torch.float32}
    with dry_load.quiet():  # a head's own weights, which the folder lacks, are not read
        whole = head.auto_class(head.placed_in(base)).from_pretrained(origin.folder, **settings)
    for name, module in _layers(tuned):
        reference = whole.get_submodule(name)
        weight = reference.weight.T if isinstance(reference, Conv1D) else reference.weight
        own = module.lora_A[ADAPTER].weight
        error = weight.to(own.device) - _dequantized(module.get_base_layer())
        u, s, v = torch.linalg.svd(error, full_matrices=False)
        r, root = module.r[ADAPTER], (s / module.scaling[ADAPTER]).sqrt()
        module.lora_A[ADAPTER].weight.data = (root[:r, None] * v[:r]).to(own.dtype).contiguous()
        module.lora_B[ADAPTER].weight.data = (u[:, :r] * root[:r]).to(own.dtype).contiguous()


def _dequantized(layer: nn.Module) -> torch.Tensor:
    """Return a layer's weight (out, in) in fp32, and leave the layer as it is.

    On the CPU peft puts a copy in the place of an 8-bit weight. Once the layer has run, the copy has no scales, and the
    next pass fails.
    """
    held = layer.weight
    found: torch.Tensor = dequantize_module_weight(layer).float()
    layer.weight = held
    return found


def subtract(path: Path, start: Mapping[str, torch.Tensor]) -> None:
    """Rewrite a file of trained A (r, in) and B (out, r) as [A; A0] (2r, in) and [B, -B0] (out, 2r)."""
    state = load_file(path)
    for name, trained in state.items():
        before = start[name].to(trained.dtype)
        if ".lora_A." in name:
            state[name] = torch.cat([trained, before], dim=0)
        elif ".lora_B." in name:
            state[name] = torch.cat([trained, -before], dim=1)
    save_file(state, path, metadata={"format": "pt"})
