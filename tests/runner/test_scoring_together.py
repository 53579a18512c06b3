"""Processes that score one divided model decide together in which form texts are run."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from peftbench.evaluation import cached_steps, decoding, likelihood, shared_prompts
from peftbench.evaluation.agreement import Agreement
from peftbench.measure.clock import Clock
from peftbench.records import Devices, Status
from peftbench.records.devices import Place
from peftbench.runner import devices_of_trial, evaluating, trial
from peftbench.runner.state import Run
from peftbench.training.parallel import make
from tests.support import trials
from tests.support.method_cells import loaded
from tests.support.ranks import on_ranks

FSDP2 = Devices("fsdp2", 2)


def scored(rank, job):
    """Run a rank of a trial, of which the second finds that no two forms are equal, and that no cache can be used."""
    if rank == 1:
        likelihood.TOLERANCE = dict.fromkeys(likelihood.TOLERANCE, -1.0)
        cached_steps._CLOSE, cached_steps._CLOSE_ELSE = {}, -1.0
    devices_of_trial.group.join = lambda devices, rank, meeting, device: make(devices, rank, device)
    trial.evaluating.check_decoding = lambda *_: None  # ends the trial
    return trial.run(job, 0.0, lambda _: None, lambda *_: None, place=Place(rank, ""))


def test_ranks_that_would_run_texts_in_other_forms_run_them_in_the_same_one(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, devices=FSDP2, training={"steps": 1})
    alone = trials.run(replace(made, devices=None), tmp_path)
    settings = {score.task: score.settings for score in alone.scores}
    assert "decoded_without_cache" not in settings["colour_text"]
    assert settings["colour"]["prompts"] == "run once for all choices"
    found = on_ranks(2, tmp_path, scored, trials.job(made, tmp_path))
    for result in found:
        assert result.row.status == Status.OK, result.row.message
        settings = {score.task: score.settings for score in result.scores}
        assert "apart" in settings["colour_text"]["decoded_without_cache"]
        assert "log-probabilities differ" in settings["colour"]["prompts_reason"]


def ended_early(rank, job):
    """Run a rank of a trial, of which the first ends each answer with its first token."""
    if rank == 0:
        decoding.end_tokens = lambda tokenizer, stops=(): tuple(range(len(tokenizer)))
    devices_of_trial.group.join = lambda devices, rank, meeting, device: make(devices, rank, device)
    trial.evaluating.check_decoding = lambda *_: None
    return trial.run(job, 0.0, lambda _: None, lambda *_: None, place=Place(rank, ""))


@pytest.mark.slow  # transformers does it for modules that torch marks as divided by FSDP2
def test_a_rank_whose_answers_end_earlier_runs_passes_until_the_others_have_theirs(tiny, tmp_path):
    made = trials.trial(
        tiny, tmp_path, devices=FSDP2, training={"steps": 1}, evaluate=("colour_text",), inference=False
    )
    for result in on_ranks(2, tmp_path, ended_early, trials.job(made, tmp_path)):
        assert result.row.status == Status.OK, result.row.message


@pytest.mark.parametrize(("devices", "ends"), [(None, "scoring"), (Devices("ddp", 2), "scoring"), (FSDP2, "the proof")])
def test_a_proof_that_fails_ends_the_trial_if_ranks_score_in_lockstep_and_else_scoring_decides(
    devices, ends, tiny, tmp_path, monkeypatch
):
    searches = []

    def fails(words):
        raise ValueError(words)

    def proof(harness, *_):
        searches.append(harness.searches)
        fails("the proof")

    monkeypatch.setattr(evaluating.scoring, "prove", proof)
    monkeypatch.setattr(evaluating, "_account_evaluation", lambda *_: fails("scoring"))
    base, made = loaded(tiny, "base", "fp32"), trials.trial(tiny, tmp_path, devices=devices)
    made = replace(made, evaluation=replace(made.evaluation, batch_size=None))
    parallel = SimpleNamespace(gathered=lambda own: [own, own])
    run = Run(SimpleNamespace(trial=made), Clock(), lambda *_: None, None, parallel=parallel)
    with pytest.raises(ValueError, match=ends):
        evaluating.evaluate(run, base, base.model, {"colour": [], "colour_text": []})
    assert {*searches} == {devices != FSDP2}, "one rank alone must not take smaller batches"


def test_memory_that_runs_out_on_one_of_several_ranks_is_no_finding(monkeypatch):
    """It would go on to exchanges in which the others are not."""

    def fails(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    alone = likelihood.Model(fails, fails, False, "float32", 4, torch.device("cpu"))
    texts = [likelihood.Text((1, 2, 3, n, n), 3, 0) for n in range(4, 8)]
    shared_prompts.prove(alone, texts)
    assert "memory ran out" in next(iter(alone.shares.values()))
    several = likelihood.Model(
        fails, fails, False, "float32", 4, torch.device("cpu"), agreement=Agreement(lambda own: [own, None])
    )
    with pytest.raises(torch.OutOfMemoryError):
        shared_prompts.prove(several, texts)
    uneven = list(enumerate(likelihood.Text((1, 2, *range(3, n)), 2) for n in (5, 9)))
    likelihood.prove(alone, uneven)
    assert alone.pads is False
    with pytest.raises(torch.OutOfMemoryError):
        likelihood.prove(several, uneven)
    for check, part in ((cached_steps.why_not, "_distances"), (cached_steps.why_not_beams, "_generated")):
        monkeypatch.setattr(cached_steps, part, fails)
        assert "memory ran out" in check(None, torch.ones(1, 4), "float32", 0, 8)
        with pytest.raises(torch.OutOfMemoryError):
            check(None, torch.ones(1, 4), "float32", 0, 8, several.agreement)
