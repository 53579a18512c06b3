"""An adapter that is loaded again is the one that was saved."""

from __future__ import annotations

import pytest
import torch

from peftbench.errors import UserError
from peftbench.methods import METHODS, peft_checkpoint
from peftbench.records.resolve import resolve
from tests.support import families, trials
from tests.support.method_cells import IDS, loaded, logits


def perturbed_lora(folder):
    """LoRA on the base model in a folder, with noise on every trained tensor."""
    options = trials.trial(folder, folder, "lora").options
    torch.manual_seed(0)
    tuned = resolve(METHODS["lora"].attach)(loaded(folder, "lora", "fp32").model, 4, options)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return tuned


def test_tensors_that_peft_renames_wrongly_are_loaded(tmp_path):
    """peft 0.21 takes the renaming of laguna's checkpoints for a pattern: shared_experts becomes shared_experts. ."""
    families.make(tmp_path, "laguna")
    tuned = perturbed_lora(tmp_path)
    peft_checkpoint.save(tuned, tmp_path / "adapter")
    again = peft_checkpoint.load(loaded(tmp_path, "lora", "fp32").model, tmp_path / "adapter")
    assert torch.equal(logits(again, "fp32", IDS), logits(tuned, "fp32", IDS))


def test_a_saved_tensor_without_a_place_in_the_model_is_an_error(tiny, tmp_path):
    tuned = perturbed_lora(tiny)
    peft_checkpoint.save(tuned, tmp_path / "adapter")
    base = loaded(tiny, "lora", "fp32").model
    base.model.layers[0].mlp.register_module("other_proj", base.model.layers[0].mlp.up_proj)
    del base.model.layers[0].mlp.up_proj
    with pytest.raises((UserError, ValueError)):
        peft_checkpoint.load(base, tmp_path / "adapter")
