"""Token lengths without torch are those that training sees."""

from dataclasses import replace

import pytest

from peftbench.errors import Unsupported
from peftbench.models import builtin
from peftbench.models.load import load_tokenizer
from peftbench.records import Example, Task
from peftbench.training import token_lengths
from peftbench.training.encoded import encode
from tests.support import weights

TASK = Task(name="t", kind="exact_match")
EXAMPLES = [Example(f"compute {'1 + ' * n}2 =", str(n)) for n in range(50)]


@pytest.mark.parametrize("which", ["nano", "tiny"])
def test_the_lengths_are_those_of_the_training_examples(which, tiny):
    folder = builtin.folder("nano") if which == "nano" else tiny
    found = token_lengths.lengths(TASK, EXAMPLES, folder, False)
    encoded = encode(load_tokenizer(folder, False), [(("t", i), e) for i, e in enumerate(EXAMPLES)], 999, "completion")
    assert sorted(found.wholes) == sorted(len(e.ids) for e in encoded)
    assert sorted(found.prompts) == sorted(e.loss_from for e in encoded)
    assert found.examples == 50


def test_large_data_is_sampled_by_number_and_by_characters(monkeypatch):
    monkeypatch.setattr(token_lengths, "SAMPLE", 10)
    found = token_lengths.lengths(TASK, EXAMPLES, builtin.folder("nano"), False)
    assert (len(found.wholes), found.examples) == (10, 50)
    assert found == token_lengths.lengths(TASK, EXAMPLES, builtin.folder("nano"), False)
    monkeypatch.setattr(token_lengths, "CHARACTERS", 1)
    assert len(token_lengths.lengths(TASK, EXAMPLES, builtin.folder("nano"), False).wholes) == 1


def test_a_broken_tokenizer_is_unsupported(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Unsupported, match=r"tokenizer\.json cannot be read"):
        token_lengths.lengths(TASK, EXAMPLES, tmp_path, False)


@pytest.mark.spawns
def test_a_chat_template_is_applied_in_a_process_of_its_own(tiny, tmp_path):
    folder = weights.copy(tiny, tmp_path / "base")
    weights.edit(folder / "tokenizer_config.json", chat_template="{% for m in messages %}[{{ m.content }}]{% endfor %}")
    plain = token_lengths.lengths(TASK, EXAMPLES[:3], folder, False)
    found = token_lengths.lengths(replace(TASK, chat=True), EXAMPLES[:3], folder, False)
    assert all(more > less for more, less in zip(found.prompts, plain.prompts, strict=True))
