"""The precisions of torchao: every method trains, is scored and deployed as on any frozen base, or is refused."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from peftbench import suite
from peftbench.errors import Unsupported, UserError
from peftbench.methods import METHODS, TORCHAO
from peftbench.methods.strategies import LIMITS
from peftbench.models import load, precision, quantization, storage
from peftbench.models.precision import PRECISIONS
from peftbench.planner.predict import predict
from peftbench.runner import adapter_card
from tests.support import encoders, families, stored_bases, tiny_base, trials

SUITE = """
base: {base}
seeds: 1
precision: {precision}
tasks:
  colour: {{ kind: choice, train: {data}/colours.jsonl, test: {data}/colours.jsonl, choices: [red, green, blue],
             prompt: "the colour of {{{{ thing }}}} ?", target: "{{{{ colour }}}}" }}
train: {{ steps: 2, sequence_length: 32, learning_rate: 0.01 }}
methods: {{ lora: }}
"""
LOADING = {"device": "cpu", "trust_remote_code": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.set_num_threads(1)
    return tiny_base.make(tmp_path_factory.mktemp("torchao") / "base")


@pytest.fixture
def torchao():
    """Skips a test where torchao is not installed."""
    if why := stored_bases.why_missing("torchao"):
        pytest.skip(why)


@pytest.mark.spawns
@pytest.mark.parametrize("quiet", [True, False])
def test_importing_torchao_prints_nothing_on_a_terminal(quiet, torchao):
    code = (
        "from peftbench.models import quiet_imports; quiet_imports.quantizers(); " * quiet
        + "import torchao.quantization"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert ("register_constant" in found) is not quiet
    assert not quiet or "torchao" not in found


@pytest.mark.spawns
def test_plan_prints_nothing_of_what_torchao_logs(base, tmp_path, torchao):
    trials.tasks(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_text(SUITE.format(base=base, data=tmp_path, precision="bf16"))
    found = subprocess.run(
        [sys.executable, "-m", "peftbench", "plan", path], capture_output=True, text=True, check=True
    )
    assert "torchao" not in found.stderr
    assert "register_constant" not in found.stderr


def test_the_precisions_of_torchao_are_those_of_its_package():
    assert tuple(name for name, record in PRECISIONS.items() if record.package == "torchao") == TORCHAO


def test_without_its_package_a_suite_is_refused_with_what_to_install(base, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "find_spec", lambda name: None)
    trials.tasks(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_text(SUITE.format(base=base, data=tmp_path, precision="[bf16, torchao-int8]"))
    with pytest.raises(UserError) as raised:
        suite.expand(suite.load(path, environ={}), "cpu")
    assert re.search(
        r"methods\.lora: precision: torchao-int8 needs the package torchao, which is not installed: "
        r"pip install 'peftbench\[torchao\]'",
        str(raised.value),
    )


def test_a_base_in_it_is_not_divided():
    assert {name for name in LIMITS["fsdp2"].precisions if name in TORCHAO} == set(TORCHAO)
    assert {name for name in LIMITS["tp"].precisions if name in TORCHAO} == set(TORCHAO)


def cells():
    """Every method in every precision of torchao; one of them by default."""
    for method, name in itertools.product([n for n, m in METHODS.items() if TORCHAO[0] in m.precisions], TORCHAO):
        often = (method, name) in {("lora", "torchao-int4"), ("prompt_tuning", "torchao-float8")}
        yield pytest.param(method, name, marks=[] if often else [pytest.mark.slow])


@pytest.mark.parametrize(("method", "name"), [*cells()])
def test_every_method_trains_in_the_memory_that_is_predicted_and_is_deployed(method, name, base, tmp_path, torchao):
    options = {"peft_type": "VERA"} if method == "peft" else {}
    forms = ("adapter", "merged", "merged_dequantized", "requantized") if method == "lora" else ()
    made = trials.trial(base, tmp_path / "data", method, name, options=options)
    tmp_path.joinpath("scratch").mkdir()
    row = trials.run(replace(made, deployed=forms), tmp_path / "scratch", predicts=True, measures_inference=True).row
    assert (row.status, row.message) == ("ok", None)
    codes = {"torchao-float8": "float8_e4m3fn", "torchao-nvfp4": "uint8"}.get(name, "int8")
    assert row.loaded_dtypes.startswith(f"{codes} 0.8")
    if METHODS[method].trains:
        assert row.moved_tensors == row.trainable_tensors > 0
        if method != "peft":  # VeRA reads values while it is attached, so a step of it cannot be traced
            assert row.predicted_train_bytes == row.peak_train_bytes > 0
        assert row.peak_quantization_state_bytes > 0
    if forms:
        found = json.loads(row.deployed_json)["forms"]
        assert {form: each["status"] for form, each in found.items()} == dict.fromkeys(forms, "ok")
        assert found["adapter"]["loaded_bytes"] < 0.9 * found["merged"]["loaded_bytes"]
        assert found["requantized"]["loaded_bytes"] < 0.9 * found["merged_dequantized"]["loaded_bytes"]
        # what was trained is exactly the adapter on these codes, merged or not
        assert found["merged_dequantized"]["largest_logit_difference"] < 0.5


@pytest.mark.parametrize("name", TORCHAO)
def test_dequantized_weights_are_codes_times_scales_and_give_the_same_logits(name, base, torchao):
    found = load.load(base, PRECISIONS[name], False, True, **LOADING).model
    plain = load.load(base, PRECISIONS["bf16"], False, True, **LOADING).model
    ids = torch.arange(20).reshape(2, 10)
    with load.autocast(PRECISIONS[name], "cpu"), torch.no_grad():
        before = found(input_ids=ids).logits.float()
    weight = found.model.layers[0].mlp.up_proj.weight
    expected, original = stored_bases.decoded(weight), plain.model.layers[0].mlp.up_proj.weight.float()
    own = quantization.dequantize(found, torch.bfloat16)
    assert not any(map(storage.is_packed, own.parameters()))
    assert not hasattr(own.config, "quantization_config")
    assert torch.allclose(own.model.layers[0].mlp.up_proj.weight.float(), expected, rtol=0.01, atol=1e-4)
    # half a step of the codes: 1/16 of a group's largest weight in 4 bits, 1/6 in floats of 4, far less in 8
    step = {"torchao-int8": 1 / 127, "torchao-int4": 1 / 7.5, "torchao-float8": 1 / 8, "torchao-nvfp4": 1 / 3}[name]
    largest = original.abs().reshape(128, -1, {"torchao-int4": 32, "torchao-nvfp4": 16}.get(name, 64)).amax(2)
    bound = 0.55 * step * largest.repeat_interleave(64 // largest.shape[1], dim=1)
    assert ((expected - original).abs() <= bound).all()
    with load.autocast(PRECISIONS[name], "cpu"), torch.no_grad():
        difference = (own(input_ids=ids).logits.float() - before).abs()
    assert difference.mean() < 0.05 < before.abs().mean() / 10


def test_a_head_for_whole_texts_stays_in_floats(tmp_path, torchao):
    encoder, task = encoders.make(tmp_path / "bert", "bert"), encoders.texts(tmp_path)
    made = trials.trial(encoder, tmp_path / "data", "lora", "torchao-int8", tasks=(task,), evaluate=("texts",))
    found = load.load(encoder, PRECISIONS["torchao-int8"], False, True, **LOADING, head=made.head).model
    assert type(found.classifier.weight) is torch.nn.Parameter
    assert found.classifier.weight.dtype == torch.float32
    assert storage.is_packed(found.bert.encoder.layer[0].attention.self.query.weight)


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("mixtral", "the weights of fused experts, which torchao does not support"),
        ("gpt2", "of a Conv1D layer, which torchao does not quantize"),
        ("falcon", None),
    ],
)
def test_a_family_is_quantized_whole_or_refused(family, words, tmp_path, torchao):
    families.make(tmp_path, family)
    if words is None:
        found = load.load(tmp_path, PRECISIONS["torchao-int8"], False, True, **LOADING).model
        layers = [m for n, m in found.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
        assert layers
        assert all(storage.is_packed(layer.weight) for layer in layers)
        return
    with pytest.raises(Unsupported, match=words):
        load.load(tmp_path, PRECISIONS["torchao-int8"], False, True, **LOADING)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torchao-int4", "whose inputs of 100 are no multiple of 32, which share a scale"),
        ("torchao-nvfp4", "whose 100 outputs and 64 inputs are not both multiples of 16, as torchao's NVFP4 needs"),
    ],
)
def test_layers_that_cannot_be_divided_into_groups_are_refused_before_anything_runs(name, words, tmp_path, torchao):
    base = tiny_base.make(tmp_path / "base", intermediate_size=100)
    made = trials.trial(base, tmp_path / "data", "lora", name)
    with pytest.raises(Unsupported, match=words):
        predict(made, base)
    row = trials.run(made, tmp_path).row
    assert row.status == "unsupported"
    assert words in row.message


@pytest.mark.parametrize(
    ("peft_type", "words"),
    [
        ("HRA", "computes with the base's weights, which are packed"),
        ("DELORA", "computes with the base's weights, which are packed here: Int8Tensor dispatch: attempting to run"),
        ("HIRA", "HIRA"),
    ],
)
def test_a_tuner_that_needs_plain_weights_is_refused(peft_type, words, base, tmp_path, torchao):
    made = trials.trial(base, tmp_path / "data", "peft", "torchao-int8", options={"peft_type": peft_type})
    row = trials.run(made, tmp_path).row
    assert row.status == "unsupported"
    assert words in row.message
    assert "types=" not in row.message


@pytest.mark.parametrize("name", TORCHAO)
def test_the_card_of_an_adapter_makes_the_same_quantized_base(name, base, tmp_path, torchao):
    """The Python of the card is run; its folder has the codes and scales that the trial had."""
    made = trials.trial(base, tmp_path / "data", "lora", name)
    text = adapter_card._quantized_base(trials.job(made, tmp_path))
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    folder = tmp_path / "stored"
    exec(code.replace('"ORIGINAL"', repr(str(base))).replace('"BASE"', repr(str(folder))), {})
    kept = load.load(folder, PRECISIONS["stored"], False, True, **LOADING).model
    own = load.load(base, PRECISIONS[name], False, True, **LOADING).model
    sums = [{n: load.checksum(p) for n, p in model.named_parameters()} for model in (own, kept)]
    assert sums[0] == sums[1]
