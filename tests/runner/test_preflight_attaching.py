"""``plan`` names the cells that cannot be attached to a base model, in the words that a run ends with."""

from __future__ import annotations

import dataclasses

import pytest

from peftbench import suite
from peftbench.errors import Unsupported
from peftbench.models import find
from peftbench.planner import fake
from peftbench.records import Devices, Status, failures
from peftbench.runner import prepare
from peftbench.runner.preflight import attaching
from tests.support import encoders, families, trials

METHODS = (("adapter", "fp32"), ("llama_adapter", "fp32"), ("lora", "fp32"), ("full", "fp32"))


@pytest.mark.parametrize(
    ("family", "refused"),
    [
        ("ctrl", {"adapter": "no third one with weight matrices", "llama_adapter": "has no attention"}),
        ("codegen", {"llama_adapter": "the query cannot be intercepted"}),
        ("bert", {}),
    ],
)
def test_what_cannot_be_attached_is_planned_in_the_words_of_a_run(family, refused, tmp_path):
    home = tmp_path / "base"
    families.make(home, family)
    made = {name: trials.trial(home, tmp_path, name, precision) for name, precision in METHODS}
    planned = prepare.impossible(list(made.values()))
    assert set(planned) == {made[name].cell for name in refused}
    for name, words in refused.items():
        row = trials.run(made[name], tmp_path / name).row
        assert words in planned[made[name].cell]
        assert (row.status, row.message) == (Status.UNSUPPORTED, planned[made[name].cell])


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_tensor_parallelism_cannot_divide_is_planned(method, tmp_path):
    """It was refused in the trial, after the base model was loaded in every process."""
    words = {"mixtral": "divides model.layers.0.mlp.experts of MixtralForCausalLM as 'moe_tp_experts'", "llama": None}
    for family, expected in words.items():
        families.make(tmp_path / family, family)
        made = trials.trial(tmp_path / family, tmp_path, method, "fp32")
        made = dataclasses.replace(made, devices=Devices("tp", 2))
        planned = prepare.impossible([made])
        assert expected in planned[made.cell] if expected else planned == {}
    made = dataclasses.replace(made, devices=Devices("tp", 3))
    assert "num_attention_heads of the base model, 4, cannot be divided" in prepare.impossible([made])[made.cell]


def test_weights_that_the_stand_in_of_a_quantizer_leaves_plain_are_no_reason(tmp_path):
    families.make(tmp_path / "base", "gemma3n_text")
    made = trials.trial(tmp_path / "base", tmp_path, "qlora", "nf4")
    assert prepare.impossible([made]) == {}, "it runs"


def test_what_only_tensors_without_values_cannot_do_is_no_reason(tiny, tmp_path, monkeypatch):
    def attach(model, trial):
        raise Unsupported("lora: peft raised NotImplementedError") from NotImplementedError("no data on meta")

    monkeypatch.setattr("peftbench.planner.fake.attach", attach)
    assert attaching.unsupported([trials.trial(tiny, tmp_path)]) == {}


@pytest.mark.parametrize(
    "cause",
    [RuntimeError("Tensor.item() cannot be called on meta tensors"), ValueError("found devices, meta and cpu!")],
)
def test_what_names_tensors_without_values_is_no_reason_however_deep_it_stands(cause, tiny, tmp_path, monkeypatch):
    def attach(model, trial):
        try:
            raise cause
        except Exception as error:
            try:
                raise KeyError("idx") from error
            except KeyError as other:
                raise Unsupported("peft: peft raised KeyError") from other

    monkeypatch.setattr("peftbench.planner.fake.attach", attach)
    assert attaching.unsupported([trials.trial(tiny, tmp_path)]) == {}


def test_the_name_of_a_model_is_no_tensor_without_values():
    assert not fake.lacks_values(Unsupported("base 'meta-llama/Llama' has no fake news"))
    assert not fake.lacks_values(ValueError("no target modules in meta-llama/Llama-3.2-1B"))


def test_no_tuner_of_peft_that_runs_is_refused_for_want_of_values(monkeypatch):
    """Every tuner of the zoo in fp32, which docs/peft_zoo.md has as ok; some read values while they are attached."""
    monkeypatch.delenv(failures.SURFACE)
    grid = [one for one in suite.expand(suite.load("peft_zoo"), "cpu") if one.precision == "fp32"]
    assert len(grid) > 30
    folder = find.config_folder(grid[0].base)
    refused = attaching._of_base([one for one in grid if one.unsupported is None], folder)
    assert set(refused) == {"peft XLORA fp32"}, "which combines adapters, also in a run"


def test_a_rank_does_not_attach_again_and_what_raises_is_left_to_the_run(tiny, tmp_path, monkeypatch):
    made = trials.trial(tiny, tmp_path)
    asked = []

    def attach(model, trial):
        asked.append(trial.rank)
        raise RuntimeError("no values on meta")

    monkeypatch.setattr("peftbench.planner.fake.attach", attach)
    grid = [dataclasses.replace(made, rank=rank, cell=f"r={rank}") for rank in (1, 2)]
    assert attaching.unsupported(grid) == {}
    assert asked == [1]


def test_selected_weights_that_are_the_head_alone_are_said_before_a_run(tmp_path):
    folder = encoders.make(tmp_path / "bert")
    task = encoders.texts(tmp_path / "data")
    cells = {"head": {"modules": ["classifier"]}, "norms": {"modules": ["norms"]}, "deep": {"layers": 9}, "all": {}}
    made = [
        trials.trial(folder, tmp_path, "full", tasks=(task,), evaluate=("texts",), cell=cell, options=options)
        for cell, options in cells.items()
    ]
    found = attaching.unsupported(made)
    assert found.keys() == {"head", "deep"}
    assert "is the head, which trains as a whole" in found["head"]
