"""The tables of precisions: dtypes are those of a run, and every supported cell runs."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from peftbench import suite
from peftbench.methods import FOUR_BIT, METHODS, method_of
from peftbench.methods.support import why_no_checkpointing, why_unsupported
from peftbench.models.precision import PRECISIONS, why_missing
from peftbench.records import Status
from peftbench.results import store
from peftbench.runner import grid, prepare, trial
from tests.support import trials
from tests.support.sample import sample
from tools.docs import precision_document
from tools.validation import precision_table

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SAMPLE = 4
"""One in this many cells is run by default, at least two of each precision."""
CELLS = [*itertools.product(METHODS, PRECISIONS)]
HERE = [name for name in PRECISIONS if why_missing(name) is None]
"""Precisions whose package is installed."""


ROWS = precision_table.names()
"""Precisions, and for ``stored`` a row for each kind of stored base model."""


def record_of(row):
    return PRECISIONS[precision_table.precision_of(row)]


def allowed():
    """Every supported cell, each on its device, with marks."""
    for device in precision_table.DEVICES:
        # those of ``stored`` are in test_stored, those of torchao in test_torchao_precisions
        own = [(m, p) for m, p in CELLS if p != "stored" and not PRECISIONS[p].package]
        there = [(m, p) for m, p in own if why_unsupported(METHODS[m], p, device) is None]
        for index, cell in enumerate(there):
            marks = [pytest.mark.slow] * (index % SAMPLE > 0) + [pytest.mark.gpu] * (device == "cuda")
            yield pytest.param(*cell, device, marks=marks)


@pytest.fixture(autouse=True)
def _device(request):
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device, or no -m gpu")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    torch.set_num_threads(1)
    return precision_table.bases(tmp_path_factory.mktemp("bases"))


@pytest.mark.parametrize("device", DEVICES)
def test_the_committed_tables_equal_a_new_recording(device, bases, tmp_path):
    committed = precision_document.seen(device)
    if committed is None:
        pytest.skip(f"nobody has looked at {device} yet: make reference RUNS=precisions")
    found = precision_table.everything(*bases, tmp_path, device)
    assert list(found["precisions"]) == [
        name for name in ROWS if device in record_of(name).devices and precision_table.here(name)
    ]
    for part, made in found.items():
        for name in filter(precision_table.here, {*made, *committed[part]}):
            assert made.get(name) == committed[part].get(name), f"{part}, {name}: run: make reference RUNS=precisions"


def quantization_of(row):
    return precision_table.KEPT.get(row, record_of(row).quantization)


def short(dtype):
    return precision_table.SHORT[dtype]


@pytest.mark.parametrize("kind", precision_table.KINDS)
@pytest.mark.parametrize("name", [name for name in ROWS if "cpu" in record_of(name).devices])
def test_a_precisions_record_agrees_with_the_recorded_dtypes(name, kind):
    record, seen = record_of(name), precision_document.seen("cpu")["precisions"][name].get(kind)
    if seen is None:
        assert why_unsupported(METHODS[kind], record.name, "cpu")
        return
    quantization = quantization_of(name)
    kinds = {None: short(record.base_weights(kind == "full")), "torchao-float8": "float8_e4m3fn"}
    kinds |= dict.fromkeys(("int8", "torchao-int8", "torchao-int4"), "int8")
    stored = kinds.get(quantization, "uint8")
    assert seen["linear"] == stored
    assert seen["rest"] == short(record.base_weights(kind == "full"))
    assert {seen[key] for key in ("trainables", "gradients", "state")} == {short(record.trainable)}
    assert {seen[key] for key in ("product", "product_head", "attention")} == {short(record.compute)}
    # on the CPU int8 is multiplied as int8 in evaluation only
    assert seen["product_evaluated"] == ("int8" if quantization == "int8" else short(record.compute))
    assert seen["scaling"] == ("yes" if record.gradient_scaling else "no")
    assert seen["loss"] == "fp32"


def test_the_version_of_a_library_whose_rows_are_kept_is_kept_with_them(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = precision_table._versions({"torch": "1", "torchao": "0.1"})
    assert found["torchao"] == "0.1"
    assert found["torch"] == torch.__version__
    assert "torchao" not in precision_table._versions({})


def test_a_changed_dtype_is_noticed(bases, tmp_path, monkeypatch):
    from dataclasses import replace

    other = replace(PRECISIONS["bf16"], autocast=None, weights="float32", trainable="bfloat16")
    monkeypatch.setattr(precision_table, "PRECISIONS", {"bf16": other})
    seen = precision_table.look(bases[0], tmp_path, "lora", "bf16")
    committed = precision_document.seen("cpu")["precisions"]["bf16"]["frozen"]
    changed = {key for key, value in seen.items() if committed[key] != value}
    assert changed >= {"linear", "rest", "trainables", "gradients", "state", "product", "attention"}


OWN = ("entering", "product_trainable", "product_backward", "optimizer")
"""What differs between methods: only LoRA and adapters train linear layers, and qlora's optimizer is paged."""
FROZEN = [name for name, m in METHODS.items() if m.trains and not m.trains_base and name not in ("lora", "qlora")]


@pytest.mark.parametrize(
    "name", ["bf16", *(pytest.param(p, marks=pytest.mark.slow) for p in ROWS if p not in ("bf16", "tf32"))]
)
def test_all_methods_on_a_frozen_base_have_the_dtypes_of_the_one_in_the_table(name, bases, tmp_path):
    committed = precision_document.seen("cpu")["precisions"][name]["frozen"]
    if not precision_table.here(name):
        pytest.skip("torchao is not installed (dependency group quantizers)")
    for method in FROZEN:
        if method == "peft" and quantization_of(name) in FOUR_BIT:
            continue  # LoHa
        base = precision_table.base_of(name, bases[0])
        seen = precision_table.look(base, tmp_path, method, precision_table.precision_of(name))
        told = {key: value for key, value in seen.items() if key not in OWN}
        assert told == {key: committed[key] for key in told}, method


def options(method, precision):
    """LoHa represents peft's tuners; in 4 bits, where LoHa is refused (see below), VeRA does."""
    return {"peft_type": "VERA"} if method == "peft" and precision in FOUR_BIT else trials.EXAMPLES.get(method, {})


def run(method, precision, device, base, folder, **changes):
    given = options(method, precision) | changes.pop("options", {})
    training = {"steps": 3} | changes.pop("training", {})
    few = {"tasks": trials.tasks(folder / "data")[:1], "evaluate": ("colour",), "unsupported": None}
    made = trials.trial(
        base, folder / "data", method, precision, options=given, training=training, device=device, **few, **changes
    )
    return trial.run(trials.job(made, folder), 0.0, lambda *_: None, lambda *_: None)


@pytest.mark.parametrize(("method", "precision", "device"), sample(allowed(), 3))
def test_every_cell_that_the_table_allows_is_ok(method, precision, device, bases, tmp_path):
    result = run(method, precision, device, bases[0], tmp_path)
    row, trained = result.row, METHODS[method].trains
    assert (row.status, row.message, len(result.steps)) == ("ok", None, 3 if trained else 0)
    assert row.stalled_tensors is None
    assert not trained or row.moved_tensors == row.trainable_tensors > 0


SUITE = """
base: {base}
seeds: 1
precision: [{precisions}]
tasks:
  colour: {{ kind: choice, train: {data}/colours.jsonl, test: {data}/colours.jsonl, choices: [red, green, blue],
             prompt: "the colour of {{{{ thing }}}} ?", target: "{{{{ colour }}}}" }}
train: {{ steps: 2, sequence_length: 32, learning_rate: 0.01, gradient_checkpointing: {checkpointing} }}
methods:
{methods}
"""


def planned(base, folder, device, checkpointing=False):
    """The trials of a suite of every method in every precision."""
    trials.tasks(folder / "data")
    blocks = "".join(f"  {name}: {json.dumps(trials.EXAMPLES.get(name, {}))}\n" for name in METHODS)
    given = {"base": base, "data": folder / "data", "methods": blocks, "precisions": ", ".join(HERE)}
    path = folder / "all.yaml"
    path.write_text(SUITE.format(**given, checkpointing=str(checkpointing).lower()))
    return suite.expand(suite.load(path), device)


@pytest.mark.parametrize("device", ["cpu", "cuda"])  # what is refused needs no device
def test_every_cell_that_the_table_refuses_is_a_row_with_the_same_reason(device, bases, tmp_path):
    whole = planned(bases[0], tmp_path, device)
    table = {(m, p): why_unsupported(METHODS[m], p, device) for m, p in CELLS if p in HERE}
    assert {(t.method, t.precision): t.unsupported for t in whole} == table
    refused = [t for t in whole if t.unsupported]
    more = sum(PRECISIONS[p].package != "" for p in HERE)
    assert len(refused) == {"cpu": 7 + 7 + len(METHODS) - 1, "cuda": 7 + 7}[device] + 2 * more  # full and qlora
    prepared = prepare.prepare(refused, tmp_path / "results", 1, "peftbench run all.yaml")
    outcome = grid.run(prepared, lambda _: None)
    rows = store.read_trials(tmp_path / "results")
    assert outcome.statuses == {Status.UNSUPPORTED: len(refused)}
    found = {(r.method, r.precision): (r.status, r.message) for r in rows.itertuples()}
    assert found == {cell: ("unsupported", why) for cell, why in table.items() if why}


def test_methods_without_checkpointing_are_refused_with_their_own_reason(bases, tmp_path):
    for made in planned(bases[0], tmp_path, "cpu", checkpointing=True):
        method = method_of(made.method, made.options)
        why = why_no_checkpointing(method) if method.trains else None
        assert made.unsupported == (why_unsupported(method, made.precision, "cpu") or why), made.cell
    assert [name for name, m in METHODS.items() if why_no_checkpointing(m)] == ["prefix_tuning"]


@pytest.mark.parametrize(
    ("method", "precision", "training", "told"),
    [
        ("full", "int8", {}, "only Tensors of floating point dtype can require gradients"),
        ("full", "nf4", {}, "only Tensors of floating point dtype can require gradients"),
        ("prefix_tuning", "fp32", {"gradient_checkpointing": True}, "must match the size of tensor"),
    ],
)
def test_a_refused_cell_that_is_run_anyway_fails_for_the_stated_reason(
    method, precision, training, told, bases, tmp_path
):
    row = run(method, precision, "cpu", bases[0], tmp_path, training=training).row
    assert row.status == "error"
    assert told in row.message


def test_a_tuner_that_needs_unpacked_weights_is_refused_in_4_bits(bases, tmp_path):
    row = run("peft", "nf4", "cpu", bases[0], tmp_path, options={"peft_type": "LOHA"}).row
    assert row.status == "unsupported"
    assert row.message.startswith("peft LOHA computes with the base's weights, which are packed here")


def test_int8_layers_have_llm_int8s_threshold(bases):
    from peftbench.models import load

    base = load.load(bases[0], PRECISIONS["int8"], False, True, device="cpu", trust_remote_code=False).model
    layers = precision_table.linear_layers(base)
    assert {layer.state.threshold for layer in layers} == {6.0}  # Dettmers et al. 2022, arXiv:2208.07339, section 3.2


def test_bits_per_weight_of_wide_layers_are_the_papers():
    for device in precision_table.DEVICES:
        found = precision_document.seen(device)
        for name, at in found["precisions"].items() if found else ():
            kind = quantization_of(name)
            row = 32 / precision_table.WIDTH  # a scale for each output; torchao's int8 has an offset of 8 bits too
            eights = {"int8": 8 + row, "torchao-int8": 8 + row * 40 / 32, "torchao-float8": 8 + row}
            # codes of 4 bits in 8 each; a scale of 16 bits and an offset of 8 for each group of 32
            others = {None: None, "torchao-int4": 8 + 24 / 32, "torchao-nvfp4": 4 + 8 / 16 + row / 1024}
            wanted = {**eights, **others}.get(kind, 4 + 8 / 64 + 32 / (64 * 256))
            if wanted:
                assert at["bits"]["wide"]["linear_without_tables"] == pytest.approx(wanted, abs=5e-4), name
