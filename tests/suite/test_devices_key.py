"""``devices:`` of a suite: an axis of the grid, its names, and what cannot run."""

from __future__ import annotations

import pytest

from peftbench import suite
from peftbench.errors import UserError
from peftbench.methods import METHODS, strategies
from peftbench.models.precision import PRECISIONS
from peftbench.records import OPTIMIZERS, STRATEGIES, Devices
from peftbench.suite.expand import expand
from peftbench.suite.trial_key import settings

SUITE = """
base: nano
tasks: [describe]
seeds: 1
methods: [base, full, qlora]
train: {batch_size: 6}
"""


def load(tmp_path, devices):
    path = tmp_path / "s.yaml"
    path.write_text(f"{SUITE}devices: {devices}\n")
    return suite.load(path)


def test_devices_are_an_axis_of_every_cell_that_trains(tmp_path):
    found = expand(load(tmp_path, "[one, {strategy: ddp, count: 2}, {strategy: fsdp2, count: 4, offload: cpu}]"), "cpu")
    assert [(t.cell, t.devices) for t in found[:4]] == [
        ("base fp32", None),
        ("full fp32", None),
        ("full ddpx2 fp32", Devices("ddp", 2)),
        ("full fsdp2x4+cpu fp32", Devices("fsdp2", 4, "cpu")),
    ]
    assert [t.named_settings for t in found[1:4]] == ["", "ddpx2", "fsdp2x4+cpu"]
    assert [t.training.micro_batch_size for t in found[1:4]] == [6, 3, 2]
    assert "devices" not in settings(found[1])
    assert settings(found[2])["devices"] == {"strategy": "ddp", "count": 2, "offload": "none"}
    refused = found[-1]
    assert refused.cell == "qlora r=8 fsdp2x4+cpu nf4"
    assert refused.unsupported.startswith(
        "qlora nf4 does not run on fsdp2x4+cpu, because its optimizer paged_adamw (bitsandbytes) takes no shards; use "
        "optimizer: adamw"
    )


def test_only_a_pipeline_needs_logits_at_every_position(tmp_path):
    devices = ", ".join(f"{{strategy: {name}, count: 2}}" for name in ("ddp", "fsdp2", "tp", "pp"))
    path = tmp_path / "s.yaml"
    path.write_text(SUITE.replace("batch_size: 6", "batch_size: 6, logits: [all, chunked]") + f"devices: [{devices}]\n")
    refused = [t for t in expand(suite.load(path), "cpu") if t.method == "full" and t.unsupported]
    assert [t.cell for t in refused] == ["full logits=chunked ppx2 fp32"]
    assert (
        "does not run on ppx2, because logits: chunked gives each micro-batch its own number of positions"
        in refused[0].unsupported
    )


def test_strategies_without_a_check_of_gradients_refuse_selective_checkpointing(tmp_path):
    devices = ", ".join(f"{{strategy: {name}, count: 2}}" for name in ("ddp", "fsdp2", "tp", "pp"))
    path = tmp_path / "s.yaml"
    kinds = "gradient_checkpointing: [true, 2, selective]"
    path.write_text(SUITE.replace("batch_size: 6", f"batch_size: 6, {kinds}") + f"devices: [{devices}]\n")
    refused = [t for t in expand(suite.load(path), "cpu") if t.method == "full" and t.unsupported]
    assert [t.cell for t in refused] == [
        f"full gradient_checkpointing=selective {name}x2 fp32" for name in ("fsdp2", "tp")
    ]
    why = "because gradient_checkpointing: selective"
    assert f"{why} is checked against gradients without it before training" in refused[0].unsupported
    assert f"{why} gives back what it keeps by the order" in refused[1].unsupported


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ("{strategy: fdp2, count: 2}", "s.yaml:7: devices.strategy: unknown strategy 'fdp2'; did you mean 'fsdp2'?"),
        ("{strategy: ddp, count: 1}", "s.yaml:7: devices.count: given 1 (a whole number); allowed: a whole number, at"),
        ("[one, {strategy: ddp}]", "s.yaml:7: devices.1.count: the key 'count' is missing"),
        ("{strategy: ddp, count: 2, offload: cpu}", "s.yaml:7: devices.offload: given cpu; allowed: none, since only"),
        ("[]", "s.yaml:7: devices: an empty list has no value"),
        ("2", "s.yaml:7: devices: given 2 (a whole number); allowed: one, or a mapping of strategy, count and offload"),
        ("[one, null]", "s.yaml:7: devices: the same devices are given twice"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(devices, said, tmp_path):
    with pytest.raises(UserError) as caught:
        load(tmp_path, devices)
    assert said in str(caught.value)


def test_every_refusal_has_a_reason_that_names_a_way_out():
    for name, limits in strategies.LIMITS.items():
        why = [limits.never, limits.logits, limits.selective, limits.gradient_scaling]
        for table in (limits.precisions, limits.methods, limits.optimizers):
            why += table.values()
        assert all("use " in reason for reason in why if reason), name
        assert set(limits.precisions) <= set(PRECISIONS)
    assert {s for s in STRATEGIES if not strategies.LIMITS[s].never} >= {"ddp", "fsdp2"}


def test_optimizers_whose_numbers_would_be_of_a_part_of_a_tensor_are_refused_where_tensors_are_divided():
    refused = {name: {o.name for o in OPTIMIZERS.values() if not strategies.divides(name, o)} for name in STRATEGIES}
    in_backward = {"lomo", "adafactor_in_backward"}
    blocks = {"adamw_8bit", "paged_adamw_8bit", "lion_8bit", "paged_lion_8bit", "ademamix_8bit"}
    whole = {"adafactor", "muon", "galore_adamw"}
    for name, least in {
        "ddp": in_backward,
        "pp": in_backward,
        "tp": in_backward | blocks | whole,
        "fsdp2": in_backward | blocks | whole | {"paged_adamw", "lion", "ademamix", "schedule_free_adamw"},
    }.items():
        assert refused[name] >= least, name
        assert "adamw" not in refused[name]


def test_a_method_and_a_variant_are_looked_up_by_name():
    adalora = METHODS["peft"].__class__(**{**vars(METHODS["peft"]), "variant": "ADALORA"})
    assert "AdaLoRA" in strategies.supported("fsdp2", adalora, "fp32")
    assert strategies.supported("fsdp2", METHODS["peft"], "fp32") == ""
    assert strategies.supported("ddp", adalora, "fp32") == ""
    assert strategies.supported("fsdp2", METHODS["qlora"], "nf4") == ""


def test_more_devices_than_the_machine_has_are_refused_before_anything_runs(tmp_path, monkeypatch, capsys):
    from peftbench import cli
    from peftbench.measure import device

    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: {0, 1})
    path = tmp_path / "s.yaml"
    path.write_text(f"{SUITE}devices: [one, {{strategy: ddp, count: 4096}}]\ndevice: cpu\nworkers: 1\n")
    assert cli.main(["run", str(path), "--results", str(tmp_path / "results")]) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "devices.count: given 4096; allowed: at most 2 here, as this machine has 2 CPU cores" in said
    assert not list((tmp_path / "results").rglob("*.parquet"))
    assert cli.main(["plan", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "note: `peftbench run` would stop with an error here: devices.count: given 4096" in said
    assert "or run on a cluster of which one machine has 4,096 (--executor ray)" in said
    assert "none can run here: a trial needs other or more devices than this machine has (the last note)" in said
    assert "all can run" not in said
    monkeypatch.setattr("peftbench.commands.plan_time.predict", lambda *_: pytest.fail("a pilot was run"))
    assert cli.main(["plan", str(path), "--time"]) != 0
    assert "devices.count: given 4096; allowed: at most 2 here" in " ".join(capsys.readouterr().err.split())
    path.write_text(f"{SUITE}devices: {{strategy: ddp, count: 2}}\ndevice: cpu\n")
    assert cli.main(["plan", str(path)]) == 0
    said = capsys.readouterr().out
    assert ("would stop" in said, "can run here" in said) == (False, False)
    other = SUITE.replace("base, full, qlora", "qlora")
    path.write_text(f"{other}devices: {{strategy: fsdp2, count: 4096, offload: cpu}}\ndevice: cpu\n")
    assert cli.main(["plan", str(path)]) != 0
    said = " ".join(capsys.readouterr().out.split())
    assert "none can run, as every cell is unsupported" in said
    assert "none can run here" not in said


@pytest.mark.parametrize(
    ("peaks", "said"),
    [
        ((2048, 3072), "2.0 KiB, 3.0 KiB"),
        ((2048,) * 4096, "4,096 devices, 2.0 KiB each"),
        ((2048, 3072) * 8, "16 devices, 2.0 KiB to 3.0 KiB"),
    ],
)
def test_the_peaks_of_many_devices_are_a_range(peaks, said):
    from peftbench.commands import memory_table

    assert memory_table.peaks(peaks) == said


@pytest.mark.parametrize(("visible", "count"), [("0,1,3", 3), ("", 0), ("1", 1)])
def test_gpus_that_a_process_may_not_see_do_not_count(visible, count, monkeypatch):
    from peftbench.measure import device

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device.count("cuda") == count
