"""A row has the share of the base model's matrices that a method adapts, and a report what ``all-linear`` skipped."""

from __future__ import annotations

import json

import pytest

from peftbench import report
from peftbench.errors import Unsupported
from peftbench.methods import METHODS, adapted_share
from peftbench.models import load
from peftbench.records.resolve import resolve
from peftbench.runner import trial
from tests.support import architectures, results_factory, trials
from tests.support.method_cells import loaded

EXPERTS = "model.layers.*.mlp.experts.gate_up_proj, model.layers.*.mlp.experts.down_proj"
ATTENTION, ROUTER, FUSED = 64 * (64 + 32 + 32 + 64), 4 * 64, 4 * 3 * 64 * 128
"""Number of weights in one layer of mixtral."""


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    return architectures.make(tmp_path_factory.mktemp("mixtral"), "mixtral")


def columns(home, name="lora", precision="fp32", **options):
    made = trials.trial(home, home, name, precision, options=options)
    base = loaded(home, name, precision).model
    matrices = load.matrices(base)
    return adapted_share.columns(matrices, resolve(METHODS[name].attach)(base, made.rank, made.options))


def test_all_linear_adapts_fused_experts_in_floats_but_not_in_4_bits(mixtral):
    assert columns(mixtral).known() == {"adapted_share": 1.0}
    found = columns(mixtral, "qlora", "nf4")
    assert found.adapted_share == pytest.approx((ATTENTION + ROUTER) / (ATTENTION + ROUTER + FUSED))
    assert found.unadapted_matrices == EXPERTS


@pytest.mark.parametrize("precision", ["fp32", "int8", "nf4"])
def test_the_share_counts_weights_without_embeddings_and_head_however_stored(precision, tiny):
    found = columns(tiny, precision=precision, target_modules="attention")
    feed_forward = 3 * 64 * 128
    assert found.adapted_share == pytest.approx(ATTENTION / (ATTENTION + feed_forward))
    assert found.unadapted_matrices == ", ".join(f"model.layers.*.mlp.{m}_proj" for m in ("gate", "up", "down"))
    assert columns(tiny, precision=precision).adapted_share == 1.0


def test_trained_weights_count_as_adapted_and_methods_beside_the_weights_adapt_none(tiny):
    assert columns(tiny, "full").adapted_share == 1.0
    assert columns(tiny, "full", layers=1).adapted_share == pytest.approx(1 / 3)
    assert columns(tiny, "peft", peft_type="LOHA", target_modules=["q_proj"]).adapted_share < 0.2
    for name in ("prompt_tuning", "prefix_tuning", "adapter", "llama_adapter"):
        assert columns(tiny, name).known() == {}


def test_updates_of_4_bit_experts_are_refused_for_every_method(mixtral):
    """peft's parametrization would persist after each forward pass, and its update would accumulate."""
    from peft import LoraConfig, get_peft_model

    names = ["model.layers.0.mlp.experts.down_proj"]
    base = loaded(mixtral, "lora", "nf4").model
    matrices = load.matrices(base)
    tuned = get_peft_model(base, LoraConfig(target_modules=["q_proj"], target_parameters=names))
    with pytest.raises(Unsupported, match=r"4-bit fused experts \(down_proj\) anew in every pass"):
        adapted_share.columns(matrices, tuned)


def test_a_trial_on_4_bit_experts_ends_ok_and_its_row_has_the_adapted_share(mixtral, tmp_path):
    made = trials.trial(mixtral, tmp_path, "qlora", "nf4", training={"steps": 2})
    row = trial.run(trials.job(made, tmp_path), 0.0, lambda _: None, lambda *_: None).row
    assert (row.status, row.message) == ("ok", None)
    assert row.unadapted_matrices == EXPERTS
    assert 0 < row.adapted_share < 0.2
    assert row.peak_quantization_state_bytes > 3 * FUSED // 64
    assert row.base_bits_per_weight < 6


def test_a_report_names_what_all_linear_skipped_but_not_for_other_targets(tmp_path):
    def row(cell, targets, share, missed):
        settings = json.dumps({"options": {"target_modules": targets}})
        return results_factory.make_result(cell, settings_json=settings, adapted_share=share, unadapted_matrices=missed)

    store = results_factory.store(
        tmp_path / "found",
        row("lora r=8 nf4", "all-linear", 0.113, EXPERTS),
        row("lora r=4 nf4", "all-linear", 0.113, EXPERTS),
        row("lora r=8 bf16", "all-linear", 1.0, None),
        row("lora r=2 nf4", "attention", 0.1, EXPERTS),
    )
    text = " ".join(report.table(store, "text").split())
    told = f"all-linear adapts 11.3 % of the weights in the base model's matrices; not adapted: {EXPERTS}."
    assert text.count("all-linear adapts") == 1
    assert told in text
    assert {"lora r=8 nf4", "lora r=4 nf4"} == set(text.partition(": all-linear")[0][-29:].split(" and "))


@pytest.mark.parametrize("options", [{"dora": True}, {"dropout": 0.1}, {"initialization": "loftq"}], ids=str)
def test_4_bit_experts_take_only_plain_lora_as_peft_wraps_their_router(options, mixtral):
    with pytest.raises(Unsupported, match=r"gate_up_proj\.original\) or their router, for which peft has no"):
        columns(mixtral, precision="nf4", **options)
    assert columns(mixtral, precision="nf4", target_modules="attention", **options).adapted_share < 0.12
