"""Trials that train on every answer of a conversation, packed or not, and one whose chat template cannot."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from peftbench.records import Task
from tests.support import chat_templates, trials, weights

CHATML = chat_templates.TEMPLATES["chatml"]
NO_HISTORY = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def conversations(folder):
    talks = []
    for n in range(8):
        turns = (("user", f"sky{n} ?"), ("assistant", "blue"), ("user", "sea ?"), ("assistant", "blue too"))
        talks.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    path = folder / "talks.jsonl"
    path.write_text("\n".join(map(json.dumps, talks)))
    shared = {
        "messages": "messages",
        "chat": True,
        "prompt": "x",
        "target": "{{ answer }}",
        "max_new_tokens": 2,
        "limit": 2,
    }
    return Task("colour", "generation", files={"train": str(path), "test": str(path)}, **shared)


@pytest.fixture
def run(tiny, tmp_path):
    def of(template, train_on, **training):
        base = shutil.copytree(tiny, tmp_path / f"base {len(list(tmp_path.iterdir()))}")
        weights.edit(base / "tokenizer_config.json", chat_template=template)
        task = dataclasses.replace(conversations(tmp_path), train_on=train_on)
        training = {"data": (("colour", 1.0),), "sequence_length": 128, "steps": 2, **training}
        made = trials.trial(base, tmp_path, "lora", tasks=(task,), evaluate=("colour",), training=training)
        made = dataclasses.replace(made, evaluation=trials.Evaluation(4, 128, "test"), inference=False)
        return trials.run(made, tmp_path).row

    return of


def test_more_tokens_are_learned_and_the_same_answers_are_scored(run):
    last, every = run(CHATML, "last_answer"), run(CHATML, "every_answer")
    packed = run(CHATML, "every_answer", packing=True)
    assert [row.status for row in (last, every, packed)] == ["ok"] * 3, every.message
    assert last.nonpadding_tokens == every.nonpadding_tokens == packed.nonpadding_tokens
    assert last.loss_tokens < every.loss_tokens == packed.loss_tokens < every.nonpadding_tokens
    assert last.batches_sha256 != every.batches_sha256 == packed.batches_sha256
    scores = [json.loads(row.scores_json)["colour"] for row in (last, every)]
    assert [score["examples"] for score in scores] == [2, 2]


def test_a_template_that_rewrites_the_history_is_a_row_with_its_reason(run):
    row = run(NO_HISTORY, "every_answer")
    assert row.status == "unsupported"
    assert "writes an answer otherwise once messages follow it" in row.message
