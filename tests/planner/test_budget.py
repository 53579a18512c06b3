"""Memory budgets: sizes with units, the largest size that fits, forecasts of a suite, and trials that are skipped."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
import time

import pytest

from peftbench import cli, errors
from peftbench.commands import memory_table
from peftbench.measure import device, environment
from peftbench.methods import METHODS, context_length
from peftbench.models import builtin, find
from peftbench.planner import budget, fit, forecast, memory_sizes
from peftbench.planner.predict import predict
from peftbench.records import Base
from peftbench.runner import trial
from peftbench.training import accounting, batches, loop
from tests.support import architectures, trials
from tests.support.method_cells import attached
from tests.support.sample import sample
from tools.docs import textbook


@pytest.mark.parametrize(
    ("text", "expected"),
    [("16GiB", 16 * 2**30), ("16 gib", 16 * 2**30), ("24GB", 24 * 10**9), ("1.5MiB", 1572864), ("1024B", 1024)],
)
def test_sizes_with_units_are_read(text, expected):
    assert memory_sizes.read(text, "--budget") == expected


def test_the_budget_may_be_the_memory_of_the_device(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus = [{"memory.total": "143771 MiB"}]
    monkeypatch.setattr(environment, "describe", lambda: {"memory_bytes": 5, "gpus": gpus})
    for limit, least in ((9, 5), (3, 3)):  # of a container
        monkeypatch.setattr(memory_sizes.cgroups, "memory_limit_bytes", lambda limit=limit: limit)
        assert memory_sizes.budget("device", "cpu") == least
    assert memory_sizes.budget("device", "cuda") == 143771 * 2**20
    assert memory_sizes.budget("1KiB", "cuda") == 1024
    gpus.append({"memory.total": "81559 MiB"})
    for visible, told in (("", 143771), ("1", 81559), ("1,0", 81559)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert memory_sizes.budget("device", "cuda") == told * 2**20


@pytest.mark.parametrize(
    ("sizes", "visible"),
    [
        ([], ""),
        (["[N/A]"], ""),
        (["[Insufficient Permissions]"], "0"),
        (["143771 MiB"], "1"),
        (["143771 MiB"], "MIG-3e2c"),  # a part of it
        (["143771 MiB", "81559 MiB"], "GPU-3e2c"),  # one of the two
    ],
)
def test_a_gpu_that_does_not_report_its_memory_is_refused_as_a_budget(sizes, visible, monkeypatch):
    found = [{"memory.total": size} for size in sizes] or None
    monkeypatch.setattr(environment, "describe", lambda: {"memory_bytes": 5, "gpus": found})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(errors.UserError, match="does not report how much memory the GPU has"):
        memory_sizes.budget("device", "cuda")


@pytest.mark.parametrize("text", ["", "16", "16 giga", "GiB", "-1GiB", "0", "1e3"])
def test_what_is_not_a_size_is_refused_with_an_example(text):
    with pytest.raises(errors.UserError, match=r"--budget: given .*; allowed: a size like 16GiB"):
        memory_sizes.read(text, "--budget")


@pytest.mark.parametrize("curve", [0, 3])
def test_the_largest_size_that_fits_fits_and_one_more_does_not(curve):
    rng = random.Random(curve)
    for _ in range(300):
        lines = [(rng.randrange(10**6), rng.randrange(10**4), rng.random() * curve) for _ in range(3)]

        asked: list[int] = []

        def peak(n, lines=lines, asked=asked):
            asked.append(n)
            return int(max(a + b * n + c * n * n for a, b, c in lines))

        room, limit = rng.randrange(2 * 10**7), rng.choice([1, 2, 4096, 2**20])
        found = fit.largest_size(peak, room, 1, limit)
        assert len(asked) <= 45
        assert max(asked) <= limit
        if found is None:
            assert peak(1) > room
        else:
            assert peak(found) <= room
            assert found == limit or peak(found + 1) > room


def test_the_textbook_gives_the_figures_that_are_printed_everywhere():
    whole = textbook.estimate(7e9, "fp32")
    assert [whole.weights / 1e9, whole.gradients / 1e9, whole.optimizer / 1e9] == [28, 28, 56]
    small = textbook.estimate(6e9, "int8")
    assert [small.weights / 1e9, small.gradients / 1e9, small.optimizer / 1e9] == [6, 6, 12]
    assert textbook.estimate(65e9, "mixed").total == 780e9
    assert textbook.estimate(65e9, "nf4", trainable=0.2e9).total < 48e9


def _run(made, tmp_path, **changes):
    job = dataclasses.replace(trials.job(made, tmp_path), **changes)
    return trial.run(job, time.perf_counter(), lambda _: None, lambda *_: None)


def test_a_trial_that_fits_stores_its_prediction_beside_what_it_measures(tiny, tmp_path):
    row = _run(trials.trial(tiny, tmp_path), tmp_path, predicts=True).row
    assert row.status == "ok"
    assert row.predicted_train_bytes == pytest.approx(row.peak_train_bytes, rel=0.02)
    assert row.plan_seconds > 0


def test_a_trial_that_is_predicted_not_to_fit_is_skipped_with_the_sizes_and_runs_with_more(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path)
    needed = _run(made, tmp_path, predicts=True).row.predicted_train_bytes
    skipped = _run(made, tmp_path, budget_bytes=needed - 1)
    assert (skipped.row.status, skipped.row.phase) == ("skipped", "plan")
    assert not skipped.row.status.final, "the same command with more memory runs it"
    assert "MiB in a training step (base weights 51" in skipped.row.message
    assert skipped.row.load_seconds is None, "nothing was loaded"
    assert skipped.row.predicted_train_bytes == needed
    assert _run(made, tmp_path, budget_bytes=needed).row.status == "ok"


def test_a_step_that_cannot_be_traced_is_not_predicted_and_runs(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "predict", lambda *_: 1 / 0)
    row = _run(trials.trial(tiny, tmp_path), tmp_path, budget_bytes=1).row
    assert (row.status, row.predicted_train_bytes) == ("ok", None)


@pytest.mark.parametrize("error", [errors.Unsupported("not here"), RuntimeError("no values")])
def test_a_failed_prediction_without_a_budget_ends_no_trial(error, tiny, tmp_path, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(budget, "predict", fail)
    row = _run(trials.trial(tiny, tmp_path), tmp_path, predicts=True).row
    assert (row.status, row.predicted_train_bytes) == ("ok", None)


def test_passes_have_the_shapes_of_the_largest_micro_batches():
    step = [batches.Encoded(tuple(range(n)), 1, False, ("t", 0)) for n in (3, 5, 4, 4, 9)]
    found = budget.passes(step, dataclasses.replace(trials.TRAINING, micro_batch_size=2))
    assert [(p.examples, p.tokens, p.padded) for p in found] == [(2, 5, True), (1, 9, False)]
    found = budget.passes(step[:4] * 3, dataclasses.replace(trials.TRAINING, micro_batch_size=2))
    assert [(p.examples, p.tokens) for p in found] == [(2, 5), (2, 5)], "the first, and one while gradients are there"
    (found,) = budget.passes(step, dataclasses.replace(trials.TRAINING, micro_batch_size=5))
    assert (found.examples, found.tokens) == (5, 9)


def accumulated(*steps: tuple[int, ...]) -> list[list[batches.Encoded]]:
    return [
        [batches.Encoded(tuple(range(7, 7 + n)), n - 2, False, ("made", index)) for index, n in enumerate(lengths)]
        for lengths in steps
    ]


@pytest.mark.parametrize(
    ("name", "sizes", "steps"),
    sample(
        [
            ("lora", {"batch_size": 2, "micro_batch_size": 2}, [(120, 120), (120, 60)]),
            ("lora", {"batch_size": 2, "micro_batch_size": 2}, [(121, 121), (120, 60)]),
            ("lora", {"batch_size": 6, "micro_batch_size": 2}, [(20, 20, 120, 120, 120, 60)]),
            ("prompt_tuning", {"batch_size": 3, "micro_batch_size": 2}, [(10, 10, 77), (38, 38, 5)]),
        ],
        2,
    ),
)
def test_the_peak_is_found_where_a_mask_or_virtual_tokens_decide(name, sizes, steps, tmp_path):
    changes = {"training": {"sequence_length": 128, **sizes}} | ({"rank": 50} if name == "prompt_tuning" else {})
    folder = architectures.make(tmp_path / "base", "llama", max_position_embeddings=256)
    made = trials.trial(folder, tmp_path, name, **changes)
    _, learner, _ = attached(folder, name, "fp32", tmp_path, **changes)
    learner.model.train()
    plan = accumulated(*steps)
    loop.step(learner, batches.micro_batches(plan[0], made.training, 1), 0.0)
    true = max(accounting.account_step(learner, step, False).peak_bytes for step in plan)
    virtual = context_length.virtual_tokens(made)
    found = accounting.largest_steps(plan, made.training, virtual)
    assert accounting.account_steps(learner, found, False).peak_bytes == true
    predicted = max(predict(made, folder, budget.passes(s, made.training, virtual)).peak_bytes for s in found)
    assert predicted == pytest.approx(true, rel=2e-3)


@pytest.mark.parametrize("name", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_the_peak_of_accumulated_steps_is_found_in_a_pass_during_which_gradients_exist(name, tiny, tmp_path):
    plan = accumulated((5, 6, 5, 6), (80, 20, 20, 20), (20, 20, 20, 79))
    training = {"micro_batch_size": 1, "sequence_length": 96}
    made = trials.trial(tiny, tmp_path, name, training=training)
    _, learner, _ = attached(tiny, name, "fp32", tmp_path, training=training)
    learner.model.train()
    loop.step(learner, batches.micro_batches(plan[0], made.training, 1), 0.0)
    trains_base = METHODS[name].trains_base
    peaks = [accounting.account_step(learner, step, trains_base).peak_bytes for step in plan]
    assert max(peaks) == peaks[2], "the shorter text, behind others"
    assert accounting.largest_steps(plan, made.training) == plan[:0:-1], "the longest text may yet be larger"
    assert accounting.account_steps(learner, plan[1:], trains_base).peak_bytes == peaks[2]
    found = [predict(made, tiny, budget.passes(step, made.training)).peak_bytes for step in plan]
    assert found == pytest.approx(peaks, rel=1e-3), "of four passes two are traced"


CELLS = (("base", "fp32"), ("lora", "fp32"), ("full", "nf4"), ("qlora", "nf4"))


def cells(tmp_path, tiny, *made, which=CELLS):
    asked = forecast.Question(*made)
    suite = [trials.trial(tiny, tmp_path, *cell) for cell in which]
    found = list(forecast.forecasts([*suite, *suite], lambda _: tiny, asked))
    assert [f.trial.cell for f in found] == [t.cell for t in suite]
    return found, "\n".join(memory_table.lines(found, asked))


def test_a_forecast_has_every_cell_or_why_it_has_no_prediction(tiny, tmp_path):
    found, text = cells(tmp_path, tiny)
    assert [f.found is not None for f in found] == [False, True, False, True]
    assert [f.fits for f in found] == [None] * 4
    assert "no forecast for base fp32: nothing trains" in text
    assert "no forecast for full nf4: quantized weights have no gradient" in text
    assert found[1].found == predict(found[1].trial, tiny)
    assert f"{found[1].found.peak_bytes / 2**20:.2f}" in text


def test_a_forecast_shows_what_fits_and_the_largest_size_that_does(tiny, tmp_path):
    def asked(*question):
        found, text = cells(tmp_path, tiny, *question, which=[("lora", "fp32")])
        return found[0], text

    lora = asked()[0].found.peak_bytes
    found, text = asked(lora + 100, 100)
    assert found.fits
    assert "yes" in text
    assert not asked(lora + 100, 101)[0].fits
    found, text = asked(3 * lora, 0, "batch_size")
    most = found.most
    peaks = [predict(fit.with_size(found.trial, "batch_size", n), tiny).peak_bytes for n in (most, most + 1)]
    assert peaks[0] <= 3 * lora < peaks[1]
    assert "most batch_size" in text


def test_no_sequence_is_longer_than_the_models_context(tiny, tmp_path):
    question = (2**40, 0, "sequence_length")
    (found,), text = cells(tmp_path, tiny, *question, which=[("lora", "fp32")])
    assert (found.most, found.capped) == (128, True)
    assert "The base model's context is the limit, and not memory, for every cell." in text
    less = dataclasses.replace(found, most=64, capped=False)
    assert "context is the limit" not in "\n".join(memory_table.lines([less], forecast.Question(*question)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--budget", "16GiB"], "--budget, --reserve and --fit are about memory: they need --memory"),
        (["--memory", "--fit", "batch_size"], "--fit needs a memory limit: give --budget"),
        (["--memory", "--reserve", "1GiB"], "--reserve: sets aside a part of the budget, so it needs --budget"),
        (
            ["--memory", "--budget", "1GiB", "--reserve", "2GiB"],
            "--reserve: given '2GiB'; allowed: less than the budget of 1,073,741,824 bytes per trial",
        ),
        (["--memory", "--budget", "much"], "--budget: given 'much'; allowed: a size like 16GiB"),
    ],
)
def test_options_that_need_another_option_are_refused_without_it(options, told, capsys):
    assert cli.main(["plan", "quickstart", *options]) == cli.BAD_INPUT
    assert told in capsys.readouterr().err


def test_nothing_is_predicted_unless_asked_for(tiny, tmp_path):
    row = _run(trials.trial(tiny, tmp_path), tmp_path).row
    assert (row.plan_seconds, row.predicted_train_bytes) == (None, None)


def test_virtual_tokens_take_from_the_context_as_in_a_run(tmp_path):
    def asked(**changes):
        nano = builtin.folder("nano")
        made = trials.trial(nano, tmp_path, "prompt_tuning", rank=200, **changes)
        return next(forecast.forecasts([made], lambda _: nano, forecast.Question(2**40, 0, "sequence_length")))

    assert asked().most == 256 - 200
    told = asked(training={"sequence_length": 100})
    assert (
        told.problem
        == "100 data tokens (train.sequence_length) and 200 virtual tokens exceed the base's context of 256"
    )
    assert (told.found, told.fits) == (None, None)


SUITE = "base: {{shape: {}}}\ntasks: [compute]\nseeds: 1\ndevice: cpu\nmethods: {{lora: {{target_modules: [{}]}}}}\n"


@pytest.mark.parametrize(
    ("config", "module", "told"),
    [
        ("{", "q_proj", "config.json"),
        ('{"model_type": "lama"}', "q_proj", "config.json: .*`lama`"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "q_proj", "config.json: .*hidden_size"),
        ('{"model_type": "llama", "num_hidden_layers": 2}', "q_prj", "lora r=.*target_modules.*'q_prj'"),
    ],
)
def test_bad_input_ends_a_plan_as_bad_input(config, module, told, tmp_path, capsys):
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "s.yaml").write_text(SUITE.format(tmp_path, module))
    assert cli.main(["plan", str(tmp_path / "s.yaml"), "--memory"]) == cli.BAD_INPUT
    assert re.search(f"s.yaml: .*{told}", capsys.readouterr().err)


def test_a_plan_without_any_figure_fails_with_the_reason(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    (tmp_path / "s.yaml").write_text(SUITE.format(tmp_path, "q_proj").replace("{lora:", "{base: , lora:"))
    assert cli.main(["plan", str(tmp_path / "s.yaml"), "--memory"]) == cli.FAILED
    assert "no forecast for lora r=8" in capsys.readouterr().out
    assert cli.main(["plan", str(tmp_path / "s.yaml"), "--memory", "--only", "method=base"]) == 0


@pytest.mark.parametrize("options", [[], ["--memory"]])
def test_a_plan_for_a_gpu_needs_none(options, monkeypatch, capsys):
    monkeypatch.setattr(device, "has_nvidia", lambda: False)
    asked = ["plan", "quickstart", "--only", "method=lora", "--set", "device=cuda", *options]
    assert cli.main(asked) == 0
    out = capsys.readouterr().out
    assert "lora" in out
    assert "note: device cuda: `peftbench run` would stop with an error here, as" in out
    with pytest.raises(errors.UserError, match="cuda was asked for, but"):
        device.resolve("cuda")


def test_a_plan_needs_no_weights(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(errors.UserError, match=r"no config\.json"):
        find.config_folder(Base(str(folder)))
    shutil.copy(builtin.shape("gpt2-medium") / "config.json", folder)
    assert find.config_folder(Base(str(folder))) == folder
    assert find.config_folder(Base("nano")) == builtin.folder("nano")
    assert find.config_folder(Base("llama-7b", random_weights=True)) == builtin.shape("llama-7b")
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **more: asked.append((name, more)) or folder)
    assert find.config_folder(Base("org/model", revision="v1")) == folder
    assert asked == [("org/model", {"revision": "v1", "allow_patterns": ["config.json"], "local_files_only": False})]


@pytest.mark.parametrize(("workers", "fits"), [(1, True), (2, False)])
def test_a_plan_shares_a_budget_among_the_workers_as_a_run_does(workers, fits, tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(
        f"base: nano\ntasks: [compute]\nseeds: 1\ndevice: cpu\nthreads: 1\nworkers: {workers}\nmethods: {{lora: }}\n"
    )
    command = ["plan", str(tmp_path / "s.yaml"), "--memory"]
    assert cli.main([*command, "--budget", "1GiB"]) == 0
    peak = float(re.search(r"lora r=8 fp32 +([\d.]+)", capsys.readouterr().out)[1])  # in MiB
    assert cli.main([*command, "--budget", f"{1.5 * peak:.0f}MiB"]) == 0
    assert (" yes" in capsys.readouterr().out) == fits


def test_plan_memory_prints_a_table_without_weights(tmp_path, capsys):
    config = json.loads((builtin.shape("gpt2-medium") / "config.json").read_text()) | {"n_layer": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "s.yaml").write_text(
        f"base: {{shape: {tmp_path}}}\ntasks: [compute]\nseeds: 1\ndevice: cpu\nmethods: {{lora: {{rank: [2, 4]}}}}\n"
    )
    command = ["plan", str(tmp_path / "s.yaml"), "--memory", "--budget", "1GiB", "--reserve", "100MiB"]
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["cell", "peak", "base"]
    assert [line.split()[:2] for line in lines[2:4]] == [["lora", "r=2"], ["lora", "r=4"]]
    assert [line.split()[-1] for line in lines[2:4]] in (["yes", "yes"], ["no", "no"])
    assert (
        "fits: whether the peak is at most 924.0 MiB, which is the budget of 1.0 GiB less 100.0 MiB that --reserve "
        "keeps free."
    ) in " ".join(lines)
    assert not [line for line in lines if line.startswith(" ") and "base:" in line]
    assert max(map(len, lines)) <= 130


@pytest.mark.parametrize(("ladder", "told"), [("previous", "the one above it"), ("first", "the first one")])
def test_a_plan_of_a_ladder_has_each_rows_change_of_the_peak(ladder, told, tmp_path, capsys):
    rows = "[{}, {gradient_checkpointing: true}, {logits: chunked}]"
    suite = tmp_path / "s.yaml"
    suite.write_text(
        f"base: nano\ntasks: [judge]\nseeds: 1\ndevice: cpu\nladder: {ladder}\n"
        f"train: {{steps: 1, batch_size: 8, sequence_length: 64}}\nmethods: {{base: {{}}, full: {rows}}}\n"
    )
    assert cli.main(["plan", str(suite), "--memory"]) == 0
    out = capsys.readouterr().out
    cells = [line.partition(" fp32 ")[2].split() for line in out.splitlines() if line.startswith("full ")]
    peaks, changes = [float(cell[0]) for cell in cells], [cell[1] for cell in cells]
    assert len(cells) == 3
    beside = [None, *(peaks[:-1] if ladder == "previous" else [peaks[0]] * 2)]
    assert changes[0] == "–"
    assert [float(each) for each in changes[1:]] == pytest.approx(
        [100 * (now / before - 1) for now, before in zip(peaks[1:], beside[1:], strict=True)], abs=0.06
    )
    assert f"than that of {told}" in " ".join(out.split())
    assert "The texts of the data are not read" in out
