"""The committed matrix of methods, families and precisions equals the outcome of running it."""

from __future__ import annotations

import pytest

from tests.support import architectures, tiny_base
from tools.validation import matrix

SAMPLE = [
    ("mixtral", "lora", "nf4"),
    ("falcon", "qlora", "nf4"),
    ("gemma3", "prefix_tuning", "fp32"),
    ("gpt2", "lora", "nf4"),
    ("bloom", "full", "fp32"),
    ("opt", "llama_adapter", "nf4"),
    ("glm4", "adapter", "fp32"),
    ("phi", "prompt_tuning", "nf4"),
    ("qwen3", "full", "nf4"),
]
ALL = [(f, name, storage) for f in architectures.CONFIGS for storage in matrix.STORAGES for name in matrix.NAMES]
CELLS = SAMPLE + [pytest.param(*cell, marks=pytest.mark.slow) for cell in ALL if cell not in SAMPLE]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A function that returns the folder of a family's base model, made once."""
    made = {}

    def base(family):
        if family not in made:
            made[family] = architectures.make(tmp_path_factory.mktemp(family), family)
        return made[family]

    return base


def test_the_stored_cells_are_all_families_by_all_methods_in_both_precisions():
    assert len(matrix.NAMES) == 7
    assert len(ALL) == 13 * 7 * 2
    cells = matrix.stored()["cells"]
    assert [(f, name, s) for f, row in cells.items() for s in row for name in row[s]] == ALL
    assert list(matrix.stored()["measures"]) == list(architectures.CONFIGS)


def test_no_stored_cell_failed_and_unsupported_ones_have_a_reason():
    ends = [c for row in matrix.stored()["cells"].values() for each in row.values() for c in each.values()]
    assert {c["status"] for c in ends} == {"ok", "unsupported"}
    assert all((c["reason"] is None) == (c["status"] == "ok") for c in ends)


@pytest.mark.parametrize(("family", "name", "storage"), CELLS)
def test_a_cell_ends_as_stored(family, name, storage, bases, tmp_path):
    ended = matrix.outcome(bases(family), name, storage, tmp_path)
    assert vars(ended) == matrix.stored()["cells"][family][storage][name]


@pytest.mark.parametrize("family", ["mixtral", *(pytest.param(f, marks=pytest.mark.slow) for f in ("falcon", "gpt2"))])
def test_a_family_measures_as_stored(family, bases):
    assert matrix.measures(bases(family)) == pytest.approx(matrix.stored()["measures"][family])


@pytest.mark.parametrize("name", matrix.NAMES)
def test_a_tokenizer_without_bos_and_padding_works_with_every_method(name, tmp_path):
    storage = "nf4" if name == "qlora" else "fp32"
    home = architectures.make(tmp_path / "base", "gpt2", bos_token_id=None, pad_token_id=None)
    bare = tiny_base.tokenizer()
    bare.bos_token = None
    bare.save_pretrained(home)
    assert matrix.outcome(home, name, storage, tmp_path) == matrix.Outcome("ok")


def _nothing(*_):
    return None


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("peftbench.methods.peft_checkpoint.load", "loaded again, logits differ"),
        ("peftbench.training.loop.train", "training did not change 42 tensors"),
        ("peftbench.evaluation.scoring.run_harness", "answers depend on the batch size"),
        ("peftbench.methods.lora.get_peft_model", "AttributeError"),
    ],
)
def test_a_failed_check_is_a_failed_cell(broken, told, bases, tmp_path, monkeypatch):
    answers = iter("ab")
    stand_ins = {
        "load": lambda base, _: base,
        "run_harness": lambda *_: ([{"resps": [[next(answers)]]}], {}),
    }
    monkeypatch.setattr(broken, stand_ins.get(broken.rpartition(".")[2], _nothing))
    ended = matrix.outcome(bases("llama"), "lora", "fp32", tmp_path)
    assert ended.status == "failed"
    assert told in ended.reason


def test_a_changed_frozen_weight_is_a_failed_cell(bases, tmp_path, monkeypatch):
    from peftbench.training import loop

    def moving(learner, *given):
        next(p for p in learner.model.parameters() if not p.requires_grad).data.add_(1)
        return whole(learner, *given)

    whole = loop.train
    monkeypatch.setattr(loop, "train", moving)
    ended = matrix.outcome(bases("llama"), "lora", "fp32", tmp_path)
    assert ended.status == "failed"
    assert ended.reason.startswith("Broken: training changed frozen 1 tensors")
