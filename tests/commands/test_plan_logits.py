"""``plan`` says where logits are made, and for how many tokens their memory is predicted."""

from __future__ import annotations

import json

import pytest

from peftbench import cli

SUITE = """
base: nano
tasks: [judge]
seeds: 1
methods: {lora: {rank: 2}}
train: {steps: 2, batch_size: 2, sequence_length: 32, logits: LOGITS}
"""


@pytest.fixture
def write(tmp_path):
    def written(logits: str) -> str:
        path = tmp_path / "s.yaml"
        path.write_text(SUITE.replace("LOGITS", logits))
        return str(path)

    return written


def test_where_logits_are_made_is_an_axis_with_its_name_and_a_value_in_json(write, capsys):
    assert cli.main(["plan", write("[all, chunked]"), "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [(c["cell"], c["train"]["logits"]) for c in cells] == [
        ("lora r=2 logits=all fp32", "all"),
        ("lora r=2 logits=chunked fp32", "chunked"),
    ]


def test_a_forecast_says_how_many_tokens_are_taken_to_be_in_the_loss(write, capsys):
    assert cli.main(["plan", write("loss_bearing"), "--memory"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "With logits: loss_bearing, logits are made for the tokens in the loss alone." in said
    assert "here they are all but its first token, the most there can be" in said


def test_another_word_is_refused_with_the_ones_that_exist(write, capsys):
    assert cli.main(["plan", write("chunky")]) == 2
    assert (
        "train.logits: unknown logits 'chunky'; did you mean 'chunked'? allowed: all, chunked, liger, loss_bearing"
        in capsys.readouterr().err
    )
