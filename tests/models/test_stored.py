"""Base models that are stored quantized: trained as they are, or refused with the reason and the way out."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from peftbench import suite
from peftbench.errors import UserError
from peftbench.methods import METHODS
from peftbench.models import dry_load, find, load, storage, stored, stored_kinds
from peftbench.models.precision import PRECISIONS
from peftbench.records import Base
from peftbench.suite import base_defaults
from tests.support import families, stored_bases, tiny_base, trials

KINDS = ("nf4", "int8")
TORCHAO = stored_bases.TORCHAO
SUITE = """
base: {base}
seeds: 1
{more}
tasks:
  colour: {{ kind: choice, train: {data}/colours.jsonl, test: {data}/colours.jsonl, choices: [red, green, blue],
             prompt: "the colour of {{{{ thing }}}} ?", target: "{{{{ colour }}}}" }}
train: {{ steps: 2, sequence_length: 32, learning_rate: 0.01 }}
methods: {{ {methods} }}
"""


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A tiny base model, and the same one as it is stored by each quantizer."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("stored")

    class Bases(dict):
        def __missing__(self, kind):
            why = stored_bases.why_missing(kind)
            if why:
                pytest.skip(why)
            self[kind] = stored_bases.make(self["plain"], folder / kind, kind)
            return self[kind]

    return Bases(plain=tiny_base.make(folder / "plain"))


def steps(result):
    return [step.loss for step in result.steps]


def cells():
    """Every method on every kind of stored base; some of them by default."""
    often = {("lora", "nf4"), ("lora", "int8"), ("prefix_tuning", "nf4")}
    for method, kind in itertools.product([name for name, m in METHODS.items() if "stored" in m.precisions], KINDS):
        if (method, kind) != ("qlora", "int8"):  # QLoRA is LoRA on 4 bits
            yield pytest.param(method, kind, marks=[] if (method, kind) in often else [pytest.mark.slow])


@pytest.mark.parametrize(("method", "kind"), [*cells()])
def test_every_method_trains_a_stored_base_as_the_same_base_that_peftbench_quantizes(method, kind, bases, tmp_path):
    results = {}
    tmp_path.joinpath("scratch").mkdir()
    for base, precision in ((kind, "stored"), ("plain", kind)):
        options = {"peft_type": "VERA"} if method == "peft" else {}
        made = trials.trial(
            bases[base], tmp_path / "data", method, precision, options=options, training={"steps": 3}, unsupported=None
        )
        results[precision] = trials.run(made, tmp_path / "scratch")
    row, other = results["stored"].row, results[kind].row
    assert (row.status, row.message) == ("ok", None)
    assert steps(results["stored"]) == steps(results[kind])
    assert len(steps(results["stored"])) == (3 if METHODS[method].trains else 0)
    for name in ("base_parameters", "loaded_dtypes", "base_weights_bytes", "trainable_parameters", "moved_tensors"):
        assert getattr(row, name) == getattr(other, name), name
    assert (row.peak_quantization_state_bytes or 0) > 0 or not METHODS[method].trains
    assert row.peak_quantization_state_bytes == other.peak_quantization_state_bytes
    answers = [[replace(each, key="") for each in result.examples] for result in results.values()]
    assert answers[0] == answers[1] != []


def torchao_cells():
    """Every method on every kind of torchao's; one of them by default."""
    for method, kind in itertools.product([n for n, m in METHODS.items() if "stored" in m.precisions], TORCHAO):
        if method != "qlora":
            often = (method, kind) in {("lora", "torchao-int8")}
            yield pytest.param(method, kind, marks=[] if often else [pytest.mark.slow])


@pytest.mark.parametrize(("method", "kind"), [*torchao_cells()])
def test_every_method_trains_a_base_that_torchao_has_stored_in_the_memory_that_is_predicted(
    method, kind, bases, tmp_path
):
    options = {"peft_type": "VERA"} if method == "peft" else {}
    forms = ("adapter", "merged") if method == "lora" else ()
    made = trials.trial(bases[kind], tmp_path / "data", method, "stored", options=options, unsupported=None)
    tmp_path.joinpath("scratch").mkdir()
    row = trials.run(replace(made, deployed=forms), tmp_path / "scratch", predicts=True, measures_inference=True).row
    assert (row.status, row.message) == ("ok", None)
    if METHODS[method].trains:
        assert row.moved_tensors == row.trainable_tensors > 0
        assert row.peak_train_bytes > 0
        if method != "peft":  # VeRA reads values while it is attached, so a step of it cannot be traced
            assert row.predicted_train_bytes == row.peak_train_bytes
        assert row.peak_quantization_state_bytes > 0
    if forms:
        found = json.loads(row.deployed_json)["forms"]
        assert found["adapter"]["status"] == "ok"
        assert "its unquantized weights" in found["merged"]["message"]


@pytest.mark.parametrize("kind", TORCHAO)
def test_a_layer_that_torchao_has_stored_computes_with_its_codes_and_scales(kind, bases):
    found = load.load(bases[kind], PRECISIONS["stored"], False, True, device="cpu", trust_remote_code=False).model
    layer = found.model.layers[0].mlp.up_proj
    assert layer.weight.zero_point.count_nonzero() == 0 if hasattr(layer.weight, "zero_point") else True
    x = torch.randn(5, 64, dtype=torch.bfloat16)
    expected = x.float() @ stored_bases.decoded(layer.weight).T
    assert torch.allclose(layer(x).float(), expected, rtol=0.01, atol=0.01 * float(expected.abs().max()))
    before = load.checksum(layer.weight)
    layer.weight.scale.view(torch.uint8)[0] ^= 1  # the checksum covers the scales too
    assert load.checksum(layer.weight) != before


@pytest.mark.parametrize("kind", [*KINDS, "nf4-single", *TORCHAO])
def test_bits_per_weight_of_the_files_are_those_in_memory(kind, bases):
    loaded = load.load(bases[kind], PRECISIONS["stored"], False, True, device="cpu", trust_remote_code=False)
    found = stored.contents(bases[kind])
    layers = [m for m in loaded.model.modules() if any(map(storage.is_packed, m.parameters(recurse=False)))]
    weights = sum(load.parameter_count(m.weight) for m in layers)
    assert len(layers) == len(found.packed) == 21
    held = 8 * sum(load.weights_bytes(m) for m in layers) / weights
    # the files describe each 4-bit weight in a text of some 100 bytes, and have an offset of 4 bytes in it
    assert found.bits_per_weight == pytest.approx(held, rel=0.2 if kind.startswith("nf4") else 0.01)
    plain = load.load(bases["plain"], PRECISIONS["bf16"], False, True, device="cpu", trust_remote_code=False)
    assert {name: each.shape for name, each in found.unpacked.items()} == {
        name: tuple(p.shape) for name, p in plain.model.named_parameters()
    }


def planned(bases, kind, folder, methods="base: , full: , lora: , qlora: ", more=""):
    trials.tasks(folder / "data")
    path = folder / "x.yaml"
    path.write_text(SUITE.format(base=bases[kind], data=folder / "data", methods=methods, more=more))
    made = base_defaults.resolve(suite.load(path, environ={}))
    return {trial.method: trial for trial in suite.expand(made, "cpu")}


def test_the_default_precision_is_stored_and_full_fine_tuning_says_why_it_is_not(bases, tmp_path):
    found = planned(bases, "nf4", tmp_path)
    assert {trial.precision for trial in found.values()} == {"stored"}
    assert found["full"].unsupported == (
        "full does not exist in stored, because quantized weights have no gradient (training only the rest would be "
        "another method)"
    )
    assert found["lora"].unsupported is None
    words = "bitsandbytes, nf4, 4 bits, double quantization"
    assert found["lora"].defaults["precision"] == f"the base is stored quantized ({words}), and trained as it is"
    assert find.storage_notes([found["lora"].base])[0].startswith(
        f"base {str(bases['nf4'])!r} is stored quantized: {words}; "
    )


def test_of_a_stored_base_that_is_refused_no_default_says_that_it_is_trained(bases, tmp_path):
    folder = shutil.copytree(bases["plain"], tmp_path / "gptq")
    config = json.loads((folder / "config.json").read_text())
    own = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": own}))
    found = planned({"gptq": folder}, "gptq", tmp_path)
    assert found["lora"].defaults["precision"] == "the base is stored quantized (GPTQ, 4 bits, groups of 128)"


def test_the_default_precision_of_an_unquantized_base_stays(bases, tmp_path):
    found = planned(bases, "plain", tmp_path)
    assert {name: t.precision for name, t in found.items()} == dict.fromkeys(found, "fp32") | {"qlora": "nf4"}
    assert find.storage_notes([found["lora"].base]) == ()


@pytest.mark.parametrize("precision", ["bf16", "nf4", "int8"])
def test_another_precision_on_a_stored_base_is_refused_with_the_way_out(precision, bases, tmp_path):
    made = trials.trial(bases["nf4"], tmp_path / "data", "lora", precision)
    row = trials.run(made, tmp_path).row
    assert row.status == "unsupported"
    for part in ("stored quantized (bitsandbytes, nf4", f"in {precision}; use precision stored", ".dequantize()"):
        assert part in row.message


def test_precision_stored_on_an_unquantized_base_is_refused(bases, tmp_path):
    row = trials.run(trials.trial(bases["plain"], tmp_path / "data", "lora", "stored"), tmp_path).row
    assert (row.status, row.message) == (
        "unsupported",
        "lora: this base is not stored quantized; give another precision",
    )


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("int8", {}, "use lora"),
        ("nf4-single", {}, "give double_quantization: false"),
        ("nf4-single", {"double_quantization": False}, None),
    ],
)
def test_qlora_on_a_stored_base_is_what_its_options_say(kind, options, words, bases, tmp_path):
    made = trials.trial(bases[kind], tmp_path / "data", "qlora", "stored", options=options, training={"steps": 1})
    row = trials.run(made, tmp_path).row
    assert row.status == ("unsupported" if words else "ok")
    assert words is None or words in row.message


@pytest.mark.parametrize("case", ["dequantized", "missing", "shape"])
def test_files_that_are_not_what_the_config_says_are_refused(case, bases, tmp_path):
    folder = shutil.copytree(bases["int8"], tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    if case == "dequantized":
        weights[f"{name}.weight"] = weights[f"{name}.weight"].to(torch.bfloat16)
        del weights[f"{name}.SCB"], weights[f"{name}.weight_format"]
    elif case == "missing":
        del weights[f"{name}.weight"], weights[f"{name}.SCB"], weights[f"{name}.weight_format"]
    else:
        weights[f"{name}.weight"] = weights[f"{name}.weight"][:, :32].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError) as raised:
        load.load(folder, PRECISIONS["stored"], False, True, device="cpu", trust_remote_code=False)
    assert name in str(raised.value)


def test_the_dtype_of_products_is_the_precisions_and_not_of_who_stored_the_base(bases):
    config = json.loads((bases["nf4"] / "config.json").read_text())
    assert config["quantization_config"]["bnb_4bit_compute_dtype"] == "float32"
    loaded = load.load(bases["nf4"], PRECISIONS["stored"], False, True, device="cpu", trust_remote_code=False)
    assert loaded.model.model.layers[0].mlp.up_proj.compute_dtype == torch.bfloat16


def test_a_shape_that_asks_for_stored_weights_is_refused(bases):
    with pytest.raises(UserError, match="a shape has no stored weights"):
        find.config_folder(Base(str(bases["nf4"]), random_weights=True))


def run_way_out(kind, base, copy):
    """Run the Python that a message gives for a dequantized copy, and check that the copy is a plain base."""
    import transformers

    code = stored_kinds.KINDS[kind].way_out.replace('"BASE"', repr(str(base))).replace('"COPY"', repr(str(copy)))
    with dry_load.quiet():
        eval(code, {name: getattr(transformers, name) for name in re.findall(r"\b[A-Z]\w+(?=[.(])", code)})
    tiny_base.tokenizer().save_pretrained(copy)
    assert find.storage_notes([Base(str(copy))]) == ()
    return load.load(copy, PRECISIONS["bf16"], False, True, device="cpu", trust_remote_code=False).model


def test_the_way_out_of_bitsandbytes_gives_a_copy_with_the_same_logits(bases, tmp_path):
    copy = run_way_out("bitsandbytes", bases["nf4"], tmp_path / "copy")
    found = load.load(bases["nf4"], PRECISIONS["stored"], False, True, device="cpu", trust_remote_code=False).model
    ids = torch.arange(20).reshape(2, 10)
    with load.autocast(PRECISIONS["stored"], "cpu"):
        assert torch.equal(copy(input_ids=ids).logits, found(input_ids=ids).logits)


def fp8(plain, folder):
    """Store a base as fine-grained FP8 does: 8-bit floats, and a scale for each block of 128 x 128 weights."""
    shutil.copytree(plain, folder)
    weights = load_file(plain / "model.safetensors")
    for name in [name for name in weights if "proj" in name]:
        scale = weights[name].abs().max() / 448
        weights[name] = (weights[name] / scale).to(torch.float8_e4m3fn)
        weights[f"{name}_scale_inv"] = scale.reshape(1, 1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return folder


def test_fp8_is_dequantized_without_being_asked_and_its_way_out_gives_that_copy(bases, tmp_path):
    import transformers

    folder = fp8(bases["plain"], tmp_path / "fp8")
    with pytest.raises(UserError, match="dequantizes it without being asked"):
        find.resolve_base(Base(str(folder)))
    with dry_load.quiet():
        unasked = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16")
    assert {p.dtype for n, p in unasked.named_parameters() if "proj" in n} == {torch.bfloat16}
    copy = run_way_out("fp8", folder, tmp_path / "copy")
    assert torch.equal(copy.model.layers[0].mlp.up_proj.weight, unasked.model.layers[0].mlp.up_proj.weight)


def mxfp4(plain, folder):
    """Store the experts of a gpt-oss as MXFP4 does: two 4-bit floats in a byte, a power of two for each 32 of them."""
    shutil.copytree(plain, folder)
    weights, values = {}, torch.tensor([*stored_bases.FLOATS, *(-each for each in stored_bases.FLOATS)])
    for name, weight in load_file(plain / "model.safetensors").items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            weights[name] = weight
            continue
        blocks = weight.float().transpose(1, 2).unflatten(2, (-1, 32))
        exponents = torch.floor(torch.log2(blocks.abs().amax(-1))) - 2
        codes = ((blocks / 2 ** exponents[..., None])[..., None] - values).abs().argmin(-1).to(torch.uint8)
        weights[f"{name}_blocks"] = codes[..., 0::2] | codes[..., 1::2] << 4
        weights[f"{name}_scales"] = (exponents + 127).to(torch.uint8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return folder


def test_mxfp4_is_refused_and_its_way_out_gives_the_values_of_its_codes(tmp_path):
    families.make(tmp_path / "plain", "gpt_oss")
    folder = mxfp4(tmp_path / "plain", tmp_path / "mxfp4")
    with pytest.raises(UserError, match="trains no base whose experts are in MXFP4"):
        find.resolve_base(Base(str(folder)))
    copy = run_way_out("mxfp4", folder, tmp_path / "copy").model.layers[0].mlp.experts.gate_up_proj.float()
    name = "model.layers.0.mlp.experts.gate_up_proj"
    original = load_file(tmp_path / "plain" / "model.safetensors")[name].float()
    assert 0.05 < (copy - original).abs().mean() / original.abs().mean() < 0.15
    scales = 2.0 ** (load_file(folder / "model.safetensors")[f"{name}_scales"].float() - 127)
    codes = copy.transpose(1, 2).unflatten(2, (-1, 32)) / scales[..., None]
    assert set(codes.abs().unique().tolist()) <= set(stored_bases.FLOATS)


def test_what_is_said_of_formats_that_are_refused_is_true_of_the_installed_transformers():
    from transformers.quantizers import base as quantizers
    from transformers.quantizers import quantizer_hqq, quantizer_mxfp4, quantizer_quanto

    hqq, mxfp4 = quantizer_hqq.HqqHfQuantizer, quantizer_mxfp4.Mxfp4HfQuantizer
    for name in ("get_quantize_ops", "get_load_operations"):  # which raise an error, or are none
        assert getattr(hqq, name) is getattr(quantizers.HfQuantizer, name), "hqq can be loaded now"
    assert mxfp4.is_trainable.fget(None) is False
    assert quantizer_quanto.QuantoHfQuantizer.is_serializable(None) is False


@pytest.mark.parametrize(
    ("kind", "installed", "words"),
    [
        ("Int4WeightOnlyConfig", True, "peftbench reads only Int8WeightOnlyConfig, "),
        ("x", True, "peftbench reads only Int8WeightOnlyConfig, "),
        ("Int8WeightOnlyConfig", False, "pip install 'peftbench[torchao]'"),
        ("Int8WeightOnlyConfig", True, None),
    ],
)
def test_torchao_is_refused_without_its_package_and_in_other_schemes(kind, installed, words, monkeypatch):
    monkeypatch.setattr(stored, "find_spec", lambda name: "found" if installed else None)
    config = {"quantization_config": {"quant_method": "torchao", "quant_type": {"default": {"_type": kind}}}}
    message = stored.why_refused(config)
    assert message is None if words is None else words in message


def test_loftq_on_a_stored_base_is_refused_since_its_files_have_no_unquantized_weights(bases, tmp_path):
    made = trials.trial(bases["int8"], tmp_path / "data", "lora", "stored", options={"initialization": "loftq"})
    row = trials.run(made, tmp_path).row
    assert row.status == "unsupported"
    assert "loftq needs the unquantized weights" in row.message
