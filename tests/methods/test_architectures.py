"""The committed matrix of methods and families equals the outcome of running it, and finds what is wrong."""

from __future__ import annotations

import pytest

from tests.support import architectures, families, tiny_base, trials
from tests.support.sample import sample
from tools.validation import matrix, matrix_bits, matrix_cell, matrix_plan

SAMPLE = [
    ("gemma3n_text", "prompt_tuning"),  # embeddings of its own in every layer
    ("falcon_mamba", "full"),  # no attention
    ("qwen3_next", "adapter"),  # linear attention, experts
    ("gpt_oss", "qlora"),  # fused experts, sinks
    ("bert", "llama_adapter"),  # an encoder as decoder
]
SLOW = [
    ("deepseek_v3", "prefix_tuning"),  # keys and values in one latent cache
    ("recurrent_gemma", "lora"),  # recurrent and attention layers
    ("llama4", "lora"),  # a tower, shared experts
]
SLOW += [
    (family, name)
    for family in ("gemma4", "zamba2", "mpt", "minimax", "xglm", "moshi", "dbrx", "whisper", "blt", "nemotron_h")
    for name in matrix.NAMES
]
CELLS = [*SAMPLE, *(pytest.param(*cell, marks=pytest.mark.slow) for cell in SLOW)]
NF4 = [("falcon", "llama_adapter"), ("mixtral", "adapter"), ("opt", "prefix_tuning")]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A function that returns the folder of a family's tiny base model, made once."""
    made = {}

    def base(family):
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            families.make(made[family], family)
        return made[family]

    return base


def test_the_stored_cells_are_all_families_by_all_methods():
    found = matrix.stored()
    assert len(matrix.NAMES) == 7
    assert sorted([*found["cells"], *found["unmade"], *matrix.missing()]) == sorted(families.names())
    for family, row in found["cells"].items():
        assert list(row) == [f"{name} {storage}" for name, storage in matrix.cells(family)]
    assert list(found["measures"]) == list(architectures.CONFIGS)
    assert found["image_text"] == families.refused_image_text()


def test_every_stored_cell_that_is_not_ok_has_a_reason():
    ends = [c for row in matrix.stored()["cells"].values() for c in row.values()]
    assert {c["status"] for c in ends} <= set(matrix.STATUSES)
    assert all((c["reason"] is None) == (c["status"] == "ok") for c in ends)


def test_no_stored_cell_ended_in_an_error_or_wrong():
    assert (matrix.missing(), matrix.failed()) == ([], [])


def test_every_cell_that_is_not_ok_refers_to_a_reason_in_the_document():
    numbers = [line.partition(".")[0] for line in matrix.reasons().splitlines()]
    for table in (matrix.table(), matrix.four_bit()):
        shown = [cell.strip() for line in table.splitlines()[2:] for cell in line.split("|")[2:-1]]
        marks = {f"{mark} [{number}]" for number in numbers for mark in ("no", "**error**", "**wrong**")}
        assert {cell for cell in shown if cell != "ok"} <= marks


@pytest.mark.parametrize(("family", "name"), sample(CELLS, 2))
def test_a_cell_ends_as_stored(family, name, bases, tmp_path):
    if family in matrix.missing():
        pytest.skip(f"{family} has not been run: python -m tools.validation.matrix --missing")
    storage = matrix_cell.storage(name)
    ended = matrix_cell.run(bases(family), name, tmp_path, storage)
    expected = matrix.stored()["cells"][family][f"{name} {storage}"]
    assert (ended.status, ended.reason) == (expected["status"], expected["reason"])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), NF4)
def test_a_cell_in_4_bits_ends_as_stored(family, name, bases, tmp_path):
    if family in matrix.missing():
        pytest.skip(f"{family} has not been run: python -m tools.validation.matrix --missing")
    ended = matrix_cell.run(bases(family), name, tmp_path, "nf4")
    assert ended.status == matrix.status(family, name, "nf4")


@pytest.mark.parametrize("family", ["mixtral", *(pytest.param(f, marks=pytest.mark.slow) for f in ("falcon", "gpt2"))])
def test_a_family_measures_as_stored(family):
    assert matrix_bits.measured(family) == pytest.approx(matrix.stored()["measures"][family])


@pytest.mark.slow
@pytest.mark.parametrize("family", families.names())
def test_a_family_is_tiny_or_its_reason_is_stored(family, bases):
    reason = matrix.stored()["unmade"].get(family)
    if reason is None:
        assert sum(path.stat().st_size for path in bases(family).glob("*.safetensors")) < 4 * families.MOST_PARAMETERS
    else:
        assert matrix.make(family, bases).reason == reason


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("lora", "full"))) for name in matrix.NAMES]
)
def test_a_tokenizer_without_bos_and_padding_works_with_every_method(name, tmp_path):
    storage = matrix_cell.storage(name)
    home = architectures.make(tmp_path / "base", "gpt2", bos_token_id=None, pad_token_id=None)
    bare = tiny_base.tokenizer()
    bare.bos_token = None
    bare.save_pretrained(home)
    result = trials.run(trials.trial(home, tmp_path, name, storage, training={"steps": 2}), tmp_path)
    assert result.row.status == "ok"


def _nothing(*_, **__):
    return None


@pytest.mark.parametrize(
    ("broken", "told"),
    sample(
        [
            ("peftbench.methods.peft_checkpoint.load", "loaded again, logits differ"),
            ("peftbench.planner.budget.check", "the predicted memory peak is 0.50 of the measured one"),
            ("peftbench.evaluation.scoring.run_harness", "cannot unpack non-iterable NoneType"),
            ("peftbench.methods.lora.get_peft_model", "AttributeError"),
        ],
        2,
    ),
)
def test_a_failed_proof_is_a_wrong_cell(broken, told, bases, tmp_path, monkeypatch):
    whole = _whole(broken)
    stand_ins = {"load": lambda base, _: base, "check": lambda *given: whole(*given) // 2}
    monkeypatch.setattr(broken, stand_ins.get(broken.rpartition(".")[2], _nothing))
    ended = matrix_cell.run(bases("llama"), "lora", tmp_path, "fp32")
    assert ended.status in ("wrong", "error")
    assert told in ended.reason


def _whole(path):
    from importlib import import_module

    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def test_virtual_tokens_that_do_not_act_as_tokens_are_found(bases, tmp_path, monkeypatch):
    from peftbench.methods import prompt_tuning

    def scaled(*given):
        model = whole(*given)
        model.prompt_encoder["default"].register_forward_hook(lambda _, __, out: 2 * out)
        return model

    whole = prompt_tuning.attach
    monkeypatch.setattr(prompt_tuning, "attach", scaled)
    ended = matrix_cell.run(bases("llama"), "prompt_tuning", tmp_path, "fp32")
    assert ended.status == "wrong"
    assert "virtual tokens equal to real ones give logits that differ" in ended.reason


def test_a_cell_that_hangs_or_dies_is_an_error(tmp_path):
    import os
    import time

    busy = matrix_cell.forked(lambda: sum(iter(int, 1)), tmp_path / "log", seconds=1)
    asleep = matrix_cell.forked(lambda: time.sleep(60), tmp_path / "log", seconds=0.1)
    assert busy == matrix_cell.Outcome("error", "did not end within 1 s of computing")
    assert asleep == matrix_cell.Outcome("error", "did not end within 0.1 s of computing")
    dead = matrix_cell.forked(lambda: os._exit(3), tmp_path / "log")
    assert dead.status == "error"
    assert "the process ended" in dead.reason


def test_what_plan_says_of_a_cell_is_compared_with_how_it_ended():
    row = {
        "a": {"status": "unsupported", "reason": "x"},
        "b": {"status": "unsupported", "reason": "x"},
        "c": {"status": "unsupported", "reason": "x"},
        "d": {"status": "ok", "reason": None},
        "e": {"status": "ok", "reason": None},
    }
    said = {"a": "x", "b": "y", "c": None, "d": "x", "e": None}
    found = {"a": "named", "b": "other words", "c": "not named", "d": "false"}
    assert matrix_plan.judged(row, said) == found
