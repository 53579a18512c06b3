"""A base model that is stored quantized, as other parts of the program see it; and files that are not what they say."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from peftbench import suite
from peftbench.errors import UserError
from peftbench.models import find, load, quantization, stored
from peftbench.models.precision import PRECISIONS
from peftbench.planner import cuda_reserve, levers
from peftbench.records import Base
from peftbench.runner import adapter_card, prepare
from peftbench.suite import base_defaults
from tests.support import stored_bases, trials


@pytest.fixture(scope="module")
def nf4(tiny, tmp_path_factory):
    """The tiny base model as bitsandbytes stores it in 4 bits."""
    torch.set_num_threads(1)
    return stored_bases.make(tiny, tmp_path_factory.mktemp("stored") / "nf4", "nf4")


def test_no_other_precision_is_offered_to_make_a_stored_base_fit(tmp_path):
    tried = {}
    for precision in ("stored", "bf16"):
        asked = []
        cell = trials.trial("nano", tmp_path, "lora", precision)
        levers.nearest(cell, lambda made, asked=asked: asked.append(made) or 9, 1)
        tried[precision] = {made.precision for made in asked}
    assert tried == {"stored": {"stored"}, "bf16": {"bf16", "nf4"}}


def test_a_stored_base_may_be_one_of_8_bits_in_the_reserve_of_a_gpu(tmp_path):
    one, other, plain = (
        cuda_reserve.reserve(trials.trial("nano", tmp_path, "lora", name, device="cuda"))
        for name in ("stored", "int8", "bf16")
    )
    assert one == other > plain


def test_the_card_of_an_adapter_says_how_to_quantize_a_base_that_is_not_stored_so(tmp_path):
    said = [
        adapter_card._quantized_base(SimpleNamespace(trial=trials.trial("nano", tmp_path, "lora", name)))
        for name in ("stored", "bf16", "nf4")
    ]
    assert ["BitsAndBytesConfig" in each for each in said] == [False, False, True]


def test_a_stored_base_is_told_with_its_bits_by_plan_and_run(nf4, tmp_path):
    (tmp_path / "x.yaml").write_text(
        f"base: {nf4}\nseeds: 1\ndevice: cpu\ntrain: {{steps: 1}}\nmethods: [lora]\ntasks:\n"
        "  colour: {kind: choice, train: colours.jsonl, test: colours.jsonl, choices: [red, green, blue],\n"
        '           prompt: "{{ thing }} ?", target: "{{ colour }}"}\n'
    )
    trials.tasks(tmp_path)
    every = suite.expand(base_defaults.resolve(suite.load(tmp_path / "x.yaml", environ={})), "cpu")
    words = "is stored quantized: bitsandbytes, nf4, 4 bits, double quantization; "
    assert any(words in note for note in prepare.check(every))
    assert any(words in note for note in prepare.prepare(every, tmp_path / "r", 1, "peftbench run x.yaml").notes)


def test_weights_that_are_not_quantized_in_memory_as_in_the_files_are_refused(nf4):
    model = load.load(nf4, PRECISIONS["stored"], False, True, device="cpu", trust_remote_code=False).model
    found = stored.contents(nf4)
    quantization.check_stored(model, found)
    name, codes = next(iter(found.packed.items()))
    rest = {key: each for key, each in found.packed.items() if key != name}
    longer = replace(codes, shape=(codes.shape[0] + 2, 1))
    for packed in (rest, {**rest, name: longer}, {**found.packed, "another": codes}):
        with pytest.raises(
            UserError, match=rf"the files have {len(packed)} quantized weights .* but after loading 21 "
        ):
            quantization.check_stored(model, replace(found, packed=packed))
    with pytest.raises(UserError, match="but after loading 0 "):
        quantization.check_stored(nn.Linear(2, 2), stored.Contents({}, {}, 0))


@pytest.mark.parametrize("description", [b"{", b"\xff\xfe", b"{}", b'{"shape": 5}'], ids=repr)
def test_a_description_of_a_weight_that_cannot_be_read_is_named(description, nf4, tmp_path):
    folder = shutil.copytree(nf4, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if ".quant_state." in name)
    weights[name] = torch.tensor(list(description), dtype=torch.uint8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="the description of a quantized weight cannot be read: "):
        stored.contents(folder)


def test_a_shape_whose_config_cannot_be_read_is_named(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"^base\.shape .*it holds a list"):
        find.config_folder(Base(str(tmp_path), random_weights=True))
