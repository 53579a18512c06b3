"""Measuring the cost of inference: correct, without side effects, the same work for every method; and its table."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import random
import time
from pathlib import Path

import pytest
import torch

from peftbench import suite
from peftbench.evaluation import generation, structure
from peftbench.measure.clock import Clock
from peftbench.models.load import checksum
from peftbench.models.tokenizer import load_tokenizer
from peftbench.records import Base, Example
from peftbench.records.resolve import resolve
from peftbench.report import render, table
from peftbench.report.collect import collect
from peftbench.report.derived.inference import measured
from peftbench.runner import prepare, trial
from tests.support import trials
from tests.support.generation_subject import subject, texts
from tests.support.page_data import PageData
from tests.support.results_factory import make_result, store
from tests.support.sample import sample

MERGING = {"fp32": 1e-3, "bf16": 0.5, "int8": 1.0, "nf4": 5.0}
"""Largest change of a logit by merging on the tests' base model (standard deviation 1.6), due to rounding."""


def raw_of(columns):
    return json.loads(columns.inference_json)


def state(model):
    """Everything of a model that a measurement must not change: modules, flags, hooks, tensors, gradients, logits."""
    torch.manual_seed(5)
    modules = [
        (name, type(m).__name__, m.training, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m)))
        for name, m in model.named_modules()
    ]
    tensors = [(n, id(p), p.requires_grad, checksum(p)) for n, p in model.named_parameters()]
    return modules, tensors


@pytest.mark.parametrize(
    ("name", "precision"),
    sample(
        [
            *(("lora", p) for p in ("fp32", "bf16", "int8")),
            ("qlora", "nf4"),
            *((n, "fp32") for n in ("base", "full", "prompt_tuning", "prefix_tuning", "adapter", "llama_adapter")),
        ],
        3,
    ),
)
def test_measuring_does_not_change_the_model_or_a_later_save(name, precision, tiny, tmp_path):
    made = subject(tiny, tmp_path, name, precision)
    made.model.train()
    save = resolve(made.method.save)
    save(made.model, tmp_path / "before")
    before = state(made.model)
    torch.manual_seed(7)
    random.seed(7)
    drawn = torch.get_rng_state(), random.getstate()
    found = generation.measure(made)
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert random.getstate() == drawn[1]
    assert state(made.model) == before
    save(made.model, tmp_path / "after")
    files = sorted(p.name for p in (tmp_path / "before").glob("*.safetensors"))
    assert files
    assert all((tmp_path / "before" / n).read_bytes() == (tmp_path / "after" / n).read_bytes() for n in files)
    assert not list(tmp_path.glob(".saving-*"))

    raw = raw_of(found)
    failed = {part: why for part, why in raw["reasons"].items() if "Error" in why}
    assert failed == {}
    assert found.peak_generate_bytes == sum(json.loads(found.peak_generate_categories_json).values()) > 0
    beside = made.bare is not None
    assert set(raw["seconds"]) >= ({"tuned", "bare", "load"} if beside else {"tuned"})
    assert (found.load_adapter_seconds is not None) == beside
    assert ("load" in raw["reasons"]) == (not beside)
    assert (found.switch_adapter_seconds is not None) == (name in ("lora", "qlora", "prompt_tuning", "prefix_tuning"))
    assert ("switch" in raw["reasons"]) == (found.switch_adapter_seconds is None)
    assert ("merge" in raw["reasons"]) == (name not in ("lora", "qlora"))
    for variant in {"tuned", "bare", "merged"} & set(raw["seconds"]):
        for repeats in raw["seconds"][variant].values():
            assert [len(repeat) for repeat in repeats] == [generation.NEW_TOKENS] * generation.REPEATS
            assert all(seconds > 0 for repeat in repeats for seconds in repeat)
    if name in ("lora", "qlora"):
        assert 0 < found.largest_merge_logit_difference < MERGING[precision]


def test_measuring_on_the_cpu_loads_nothing_onto_a_gpu(tiny, tmp_path, monkeypatch):
    """Without a device argument, peft would do so."""
    for place in ("peft.peft_model", "peft.utils.save_and_load"):
        monkeypatch.setattr(f"{place}.infer_device", lambda: "cuda")
    found = generation.measure(subject(tiny, tmp_path, "lora"))
    assert found.load_adapter_seconds > 0, raw_of(found)["reasons"]
    assert found.switch_adapter_seconds > 0, raw_of(found)["reasons"]


def test_within_the_context_the_model_is_the_base_and_after_it_the_tuned_model(tiny, tmp_path):
    made = subject(tiny, tmp_path, "adapter")
    names = {name for name, _ in made.base.named_modules()}
    assert any("bottleneck" in name for name in names)
    with generation._bare(made.bare, made.model)():
        assert not any("bottleneck" in name for name, _ in made.base.named_modules())
        assert not any(m._forward_hooks for m in made.base.modules())
    assert {name for name, _ in made.base.named_modules()} == names


def test_an_artificially_slow_layer_shows_in_prefill_and_decoding(tiny, tmp_path):
    """The clock advances only with forward passes: one second each, and one more in the tuned model."""
    passes = {"seconds": 0.0}

    class Passing(Clock):
        def now(self):
            return passes["seconds"]

    def tick(*_):
        passes["seconds"] += 1.0

    def clocked(slow):
        made = subject(tiny, tmp_path, "lora", clock=Passing())
        first = made.base.get_input_embeddings()
        slowed = next(m for n, m in made.model.named_modules() if n.endswith("layers.2.mlp.down_proj.lora_B.default"))
        # the bare base is put back as it was remembered, so its own hook goes into what is remembered
        first.register_forward_hook(tick)
        if slow:
            slowed.register_forward_hook(tick)
        bare = structure.remember((first,), weights=False)
        kept = [(m, a) for m, a in made.bare.attributes if m is not first]
        made = dataclasses.replace(made, bare=structure.Structure((*kept, *bare.attributes)))
        seconds = raw_of(generation.measure(made))["seconds"]
        return {name: seconds[name]["1"] for name in ("tuned", "bare")}

    ones, twos = ([[n] * generation.NEW_TOKENS] * generation.REPEATS for n in (1.0, 2.0))
    assert clocked(slow=False) == {"tuned": ones, "bare": ones}
    assert clocked(slow=True) == {"tuned": twos, "bare": ones}


def test_a_failed_part_has_a_reason_without_paths_and_the_rest_is_measured(tiny, tmp_path, monkeypatch):
    made = subject(tiny, tmp_path, "lora")
    before = state(made.model)

    def fail(self, *_, **__):
        next(m for m in self.model.modules() if hasattr(m, "lora_A")).merge()  # half way
        raise ValueError("no room in /home/someone/cache/file")

    monkeypatch.setattr(type(made.model.base_model), "merge_adapter", fail)
    found = generation.measure(made)
    assert raw_of(found)["reasons"] == {"merge": "ValueError: no room in file"}
    assert found.largest_merge_logit_difference is None
    assert found.load_adapter_seconds > 0
    assert state(made.model)[0] == before[0]


def test_failed_generation_is_a_reason_too(tiny, tmp_path, monkeypatch):
    made = subject(tiny, tmp_path, "adapter")
    monkeypatch.setattr(type(made.model), "generate", lambda *_, **__: 1 / 0)
    found = generation.measure(made)
    assert raw_of(found)["reasons"]["generate"].endswith("ZeroDivisionError: division by zero")
    assert found.first_token_seconds is None
    assert found.load_adapter_seconds > 0


def test_prompts_are_the_longest_truncated_to_a_length_that_fits(tiny):
    tokenizer = load_tokenizer(tiny, False)
    tokens = len(tokenizer(texts(12)[0].prompt)["input_ids"])
    found = generation.prompts(tokenizer, [texts(1, 12, 2), texts(20, 14, 13)], 128)
    assert found.ids.shape == (generation.BATCH, tokens)
    whole = tokenizer(texts(20)[0].prompt)["input_ids"]
    assert found.ids[0].tolist() == whole[-tokens:]
    assert found.sha256 == generation.prompts(tokenizer, [texts(20, 14, 13), texts(1, 12, 2)], 128).sha256
    assert found.sha256 != generation.prompts(tokenizer, [texts(20, 14, 13), texts(1, 11, 2)], 128).sha256
    assert generation.prompts(tokenizer, [texts(20)], 10).ids.shape == (generation.BATCH, 10 - generation.NEW_TOKENS)
    short = generation.prompts(tokenizer, [texts(20)], 2)
    assert (short.ids.shape, short.new_tokens) == ((generation.BATCH, 1), 1)
    assert generation.prompts(tokenizer, [[Example("", "two")]], 32).ids.shape == (generation.BATCH, 1)


def run(made, tmp_path, measures=True):
    job = dataclasses.replace(trials.job(made, tmp_path), measures_inference=measures)
    return trial.run(job, time.perf_counter(), lambda _: None, lambda *_: None)


def test_a_trial_measures_last_and_every_method_gets_the_same_prompts(tiny, tmp_path):
    plain = run(trials.trial(tiny, tmp_path), tmp_path, measures=False)
    assert (plain.row.inference_json, plain.row.inference_seconds) == (None, None)
    rows = {}
    for name in ("base", "lora", "prefix_tuning"):
        result = run(trials.trial(tiny, tmp_path, name), tmp_path)
        assert (result.row.status, result.row.message) == ("ok", None)
        rows[name] = result.row
        if name == "lora":
            assert result.scores == plain.scores
            assert [s.loss for s in result.steps] == [s.loss for s in plain.steps]
    assert len({row.inference_prompts_sha256 for row in rows.values()}) == 1
    assert all(row.inference_seconds > 0 and row.decode_tokens_per_second > 0 for row in rows.values())
    assert rows["lora"].merged_decoded_token_seconds > 0
    assert rows["prefix_tuning"].merged_decoded_token_seconds is None


def test_a_shape_with_random_weights_is_measured_but_not_scored(tiny, tmp_path):
    made = dataclasses.replace(trials.trial(tiny, tmp_path), base=Base(str(tiny), random_weights=True))
    row = run(made, tmp_path).row
    assert (row.status, row.scores_json) == ("ok", "{}")
    assert row.prefill_tokens_per_second > 0
    assert row.load_adapter_seconds > 0


def test_the_first_trial_of_each_cell_measures_unless_disabled_which_changes_the_keys(tmp_path, monkeypatch):
    text = "base: nano\ntasks: [judge]\nseeds: 3\nmethods: {base: null, lora: {rank: [2, 4]}}\n"
    (tmp_path / "yes.yaml").write_text(text)
    (tmp_path / "no.yaml").write_text(text + "evaluate: {inference: false}\n")
    jobs = {}
    for name in ("yes", "no"):
        made = suite.expand(suite.load(tmp_path / f"{name}.yaml"), "cpu")
        jobs[name] = prepare.prepare(made, tmp_path / name, 1, "peftbench run").jobs
    assert [(j.trial.rank, j.trial.seed) for j in jobs["yes"] if j.measures_inference] == [(None, None), (2, 0), (4, 0)]
    assert not any(j.measures_inference for j in jobs["no"])
    assert {j.key for j in jobs["yes"]}.isdisjoint(j.key for j in jobs["no"])


SLOW, EVEN = (1.3, 1.32, 1.29, 1.31, 1.3), (0.9, 1.1, 1.0, 1.05, 0.95)


def stored(folder: Path, hashes=("h", "h", "h")) -> Path:
    """Write a base model, a LoRA that takes 1.3 times its time, and an adapter without a significant difference."""

    def columns(times, sha, **more):
        def repeats(factors):
            return {n: [[f * (1 + i / 100), *[f * 0.01] * 3] for i, f in enumerate(factors)] for n in ("1", "4")}

        seconds = {"tuned": repeats(times)} | ({} if more.pop("base", False) else {"bare": repeats((1.0,) * 5)})
        raw = {"prompts": 4, "prompt_tokens": 8, "new_tokens": 4, "seconds": seconds, "reasons": more.pop("why", {})}
        return {
            "inference_json": json.dumps(raw),
            "inference_prompts_sha256": sha,
            "prefill_tokens_per_second": 1234.5,
            "decode_tokens_per_second": 99.4,
            **more,
        }

    merged = {"largest_merge_logit_difference": 1.5e-5, "merged_decoded_token_seconds": 0.01}
    merged |= {"load_adapter_seconds": 0.05, "switch_adapter_seconds": 0.001}
    results = [
        make_result("base fp32", "base", rank=None, seed=None, **columns((1.0,) * 5, hashes[0], base=True)),
        make_result(**columns(SLOW, hashes[1], **merged)),
        make_result(seed=1),
        make_result("adapter r=8 fp32", "adapter", **columns(EVEN, hashes[2], why={"merge": "<no> weight"})),
        make_result("lora r=2 fp32", rank=2),
    ]
    return store(folder, *results)


def test_the_table_shows_which_methods_have_a_cost_and_gaps_for_what_was_not_measured(tmp_path):
    folder = stored(tmp_path / "results")
    cells = {one.cell.name: one for one in measured(collect(folder))}
    assert list(cells) == ["base fp32", "adapter r=8 fp32", "lora r=8 fp32"]
    assert cells["base fp32"].decode is None
    lora = cells["lora r=8 fp32"].decode
    assert lora.low < 1.304 < lora.high
    assert lora.high - lora.low < 0.05
    assert cells["adapter r=8 fp32"].decode.low < 1 < cells["adapter r=8 fp32"].decode.high
    for format in ("text", "md"):
        text = " ".join(table(folder, format).split())
        assert "Slower than the base model (95 % interval above 1): LoRA (prefill 1.30 ×" in text
        assert "Not significantly slower than the base model: bottleneck adapter." in text
        assert "logits change by at most 1.5e-05 in fp32." in text
        assert "Not merged: bottleneck adapter" in text
        assert "the same prompts" not in text
    row = next(
        line for line in table(folder, "md").splitlines() if line.startswith("| untuned base") and "1,234" in line
    )
    assert row.count("–") == 7
    assert "1.30 (1." in table(folder, "md")
    assert len(list(csv.reader(io.StringIO(table(folder, "csv"))))) == 1 + 4 + 2, "csv holds the comparison alone"
    page = render(folder, tmp_path / "page.html").read_text()
    assert PageData(page).column("decode_over_base")["lora r=8 fp32"] == pytest.approx(1.304, abs=0.01)
    assert "<no> weight" not in page


def test_different_prompts_are_reported(tmp_path):
    text = " ".join(table(stored(tmp_path / "results", ("h", "h", "other")), "text").split())
    assert "Cells were given different prompts" in text


def test_older_results_have_no_such_table(tmp_path):
    folder = store(tmp_path / "results", make_result())
    assert "Inference:" not in table(folder, "text")
    shown = PageData(render(folder, tmp_path / "page.html").read_text()).core["columns"]
    assert [c for c in shown if c["name"] == "decode_over_base" and any(v is not None for v in c["values"])] == []
