"""vllm itself scores what is scored here: run with ``--run-slow`` where ``PEFTBENCH_VLLM_PYTHON`` names its Python."""

from __future__ import annotations

import json
import os

import pytest

from peftbench.evaluation.engine import client
from peftbench.models import builtin
from tests.support import trials
from tests.support.trials import run

NAME = client.PYTHON["vllm"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get(NAME), reason=f"{NAME} names no Python with vllm and lm_eval"),
]
FORMS = ("vllm_adapter", "vllm_merged")


def test_log_probabilities_differ_by_rounding_and_texts_are_the_same(tmp_path):
    made = trials.trial(
        builtin.folder("nano"), tmp_path, deployed=FORMS, evaluate=("colour", "colour_text", "colour_line")
    )
    result = run(made, tmp_path)
    ours = {score.task: score.value for score in result.scores}
    for name in FORMS:
        form = json.loads(result.row.deployed_json)["forms"][name]
        assert form["status"] == "ok", form
        assert form["beside"]["largest_logprob_difference"] < 1e-3  # nats, of up to six tokens in fp32
        assert form["beside"]["equal_texts"] == form["beside"]["texts"] == 16
        assert {task: each["score"] for task, each in form["tasks"].items()} == ours
        assert form["engine"]["vllm"]
        assert form["engine"]["torch"]


def test_a_model_that_vllm_cannot_load_says_so(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing_known", "architectures": ["Nothing"]}')
    asked = client.Asked(tmp_path, None, None, (), "float32", 50, "cpu", None, 1, False)
    with pytest.raises(client.EngineFailed, match=r"^vllm: \w+: .*nothing_known"):
        client.start("vllm", asked, tmp_path)
