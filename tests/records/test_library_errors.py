"""What a library raises in attach or in the first step is a refusal in its words; our faults stay errors."""

from __future__ import annotations

import pytest
import torch

from peftbench.errors import Unsupported
from peftbench.methods import lora
from peftbench.planner import trainable_count
from peftbench.records import failures
from peftbench.runner import tuning
from peftbench.training import loop
from tests.support import trials

TOLD = "lora: transformers raised ValueError: this cannot be done"


def foreign(module, code="raise ValueError('this cannot be done')"):
    """Return a function that belongs to another module."""
    space = {"__name__": module, "torch": torch}
    exec(f"def call(*args, **given):\n    {code}", space)
    return space["call"]


@pytest.fixture
def translated(monkeypatch):
    """Translate the errors of libraries, as outside of our tests."""
    monkeypatch.delenv(failures.SURFACE)


def test_an_error_of_a_library_while_attaching_is_unsupported_in_its_words(tiny, tmp_path, translated, monkeypatch):
    monkeypatch.setattr(lora, "get_peft_model", foreign("transformers.models.fake"))
    row = trials.run(trials.trial(tiny, tmp_path), tmp_path).row
    assert (row.status, row.phase, row.message) == ("unsupported", "attach", TOLD)


def test_in_our_tests_it_stays_an_error(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(lora, "get_peft_model", foreign("transformers.models.fake"))
    row = trials.run(trials.trial(tiny, tmp_path), tmp_path).row
    assert (row.status, row.phase, row.reason) == ("error", "attach", "ValueError: this cannot be done")


@pytest.mark.parametrize("module", ["peftbench.methods.lora", "tests.anything"])
def test_a_fault_of_ours_stays_an_error(module, tiny, tmp_path, translated, monkeypatch):
    monkeypatch.setattr(lora, "get_peft_model", foreign(module))
    row = trials.run(trials.trial(tiny, tmp_path), tmp_path).row
    assert (row.status, row.reason) == ("error", "ValueError: this cannot be done")


def test_a_failure_inside_torch_belongs_to_whoever_called_it(translated):
    for module, expected in (("transformers.x", Unsupported), ("peftbench.x", type(None))):
        with pytest.raises(RuntimeError) as caught:
            foreign(module, "torch.nn.Linear(2, 3)(torch.ones(5))")()
        assert type(failures.refusal(caught.value, "lora")) is expected


def test_arguments_that_a_model_refuses_are_its_own(translated):
    with pytest.raises(TypeError) as caught:
        torch.nn.Linear(2, 3)(x=1)
    assert "torch raised TypeError" in str(failures.refusal(caught.value, "lora"))


def test_what_autograd_raises_in_a_backward_pass_is_the_models(translated):
    with pytest.raises(RuntimeError) as caught:
        torch.ones(1).sum().backward()
    assert "torch raised RuntimeError: element 0 of tensors" in str(failures.refusal(caught.value, "lora"))


def test_the_package_of_an_outside_method_is_not_a_library(translated):
    with pytest.raises(ValueError, match="this cannot be done") as caught:
        foreign("steering.method")()
    assert failures.refusal(caught.value, "steering", "steering") is None
    assert "steering raised" in str(failures.refusal(caught.value, "lora", "peftbench"))


def test_memory_that_runs_out_in_a_library_stays_oom(tiny, tmp_path, translated, monkeypatch):
    code = "raise torch.OutOfMemoryError('CUDA out of memory')"
    monkeypatch.setattr(lora, "get_peft_model", foreign("transformers.models.fake", code))
    row = trials.run(trials.trial(tiny, tmp_path), tmp_path).row
    assert (row.status, row.phase) == ("oom", "attach")


@pytest.mark.parametrize(("fails_at", "status"), [(0, "unsupported"), (1, "error")])
def test_only_the_first_step_is_a_refusal(fails_at, status, tiny, tmp_path, translated, monkeypatch):
    own, fail = loop.step, foreign("transformers.models.fake")

    def step(learner, batches, rate, done=None):
        return fail() if done == fails_at else own(learner, batches, rate, done)

    monkeypatch.setattr(loop, "step", step)
    row = trials.run(trials.trial(tiny, tmp_path), tmp_path).row
    assert (row.status, row.phase) == (status, "train")
    assert "this cannot be done" in row.message


def test_the_proofs_before_training_are_part_of_it(tiny, tmp_path, translated, monkeypatch):
    monkeypatch.setattr(tuning.first_step, "check", foreign("transformers.models.fake"))
    row = trials.run(trials.trial(tiny, tmp_path), tmp_path).row
    assert (row.status, row.phase, row.message) == ("unsupported", "check", TOLD)


def test_matched_ranks_and_plans_report_it_too(tiny, tmp_path, translated, monkeypatch):
    from transformers import AutoConfig

    monkeypatch.setattr(lora, "get_peft_model", foreign("transformers.models.fake"))
    with pytest.raises(Unsupported, match=TOLD):
        trainable_count.trainable(trials.trial(tiny, tmp_path), AutoConfig.from_pretrained(tiny))
