"""Base models that are stored quantized: trained as they are, or refused with the reason and the way out."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from peftbench import suite
from peftbench.errors import UserError
from peftbench.methods import METHODS
from peftbench.models import find, load, stored
from peftbench.models.precision import PRECISIONS
from peftbench.records import Base
from peftbench.suite import base_defaults
from tests.support import stored_bases, tiny_base, trials

KINDS = ("nf4", "int8")
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
    plain = tiny_base.make(folder / "plain")
    kinds = (*KINDS, "nf4-single")
    return {"plain": plain} | {kind: stored_bases.make(plain, folder / kind, kind) for kind in kinds}


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


@pytest.mark.parametrize("kind", [*KINDS, "nf4-single"])
def test_bits_per_weight_of_the_files_are_those_in_memory(kind, bases):
    loaded = load.load(bases[kind], PRECISIONS["stored"], False, True, device="cpu", trust_remote_code=False)
    found = stored.contents(bases[kind])
    layers = [m for m in loaded.model.modules() if any(not p.is_floating_point() for p in m.parameters(recurse=False))]
    weights = sum(load.parameter_count(m.weight) for m in layers)
    assert len(layers) == len(found.packed) == 21
    held = 8 * sum(load.weights_bytes(m) for m in layers) / weights
    # the files describe each 4-bit weight in a text of some 100 bytes, and have an offset of 4 bytes in it
    assert found.bits_per_weight == pytest.approx(held, rel=0.2 if kind != "int8" else 0.01)
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
