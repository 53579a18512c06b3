"""What a base's chat template cannot do is told by ``plan`` and ``run`` before the base is loaded, with its cause."""

from __future__ import annotations

import json

import pytest

from peftbench import cli
from peftbench.results import store
from peftbench.runner.executor import local
from tests.support import trials, weights

SUITE = """\
base: ./base
tasks:
  talk: {template: messages, train: talk.jsonl, test: talk.jsonl}
seeds: 1
threads: 1
train: {steps: 1, batch_size: 2}
evaluate: {inference: false, retention: false}
methods:
  lora: {rank: 2, learning_rate: 1e-3}
"""
ASK, ANSWER = {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}
REFUSES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
)


@pytest.fixture
def command(tiny, tmp_path, monkeypatch, capsys):
    """Return a function that runs a command on conversations of which one has two turns of the user in a row."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.yaml").write_text(SUITE)
    talks = [[ASK, ANSWER]] * 5 + [[ASK, ASK, ANSWER]]
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    weights.copy(tiny, tmp_path / "base")
    monkeypatch.setattr(local, "run", trials.in_this_process)

    def run(*words):
        capsys.readouterr()
        code = cli.main([*words])
        return code, " ".join("".join(capsys.readouterr()).split())

    return run


@pytest.mark.parametrize("system", ["", ", system: kind"])
def test_a_missing_chat_template_is_told_before_lengths_that_follow_from_it(system, command, tmp_path):
    (tmp_path / "suite.yaml").write_text(SUITE.replace("messages,", f"messages{system},"))
    for verb in ("plan", "run"):
        code, text = command(verb, "suite.yaml")
        assert code == 1, text
        assert "the base's tokenizer has no chat template; give `chat: false`" in text
        assert ("without `system`" in text) == bool(system)
        assert "max_new_tokens" not in text
    out = ["suite.yaml", "--set", "tasks.talk.chat=false", "--set", "tasks.talk.max_new_tokens=8"]
    assert system or command("plan", *out)[0] == 0


def test_a_length_that_the_suite_gives_is_still_checked(command):
    code, text = command("plan", "suite.yaml", "--set", "train.sequence_length=32")
    assert code == 2
    assert "max_new_tokens is 256; allowed: less than evaluate.max_length, which is 32" in text


def test_a_chat_template_that_refuses_some_example_is_told_before_the_base_is_loaded(command, tmp_path):
    weights.edit(tmp_path / "base" / "tokenizer_config.json", chat_template=REFUSES)
    reason = "tasks.talk: chat: the base's chat template refuses: roles must alternate"
    code, text = command("plan", "suite.yaml")
    assert (code, reason in text) == (1, True), text
    code, text = command("run", "suite.yaml")
    assert (code, reason in text) == (1, True), text
    row = store.read_trials(tmp_path / "results" / "suite").iloc[0]
    assert (row["status"], row["phase"]) == ("unsupported", "data")
    assert row["load_seconds"] != row["load_seconds"]  # null
