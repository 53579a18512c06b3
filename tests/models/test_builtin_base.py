"""The base model that ships with peftbench: its files, training text, recipe and card."""

import re
import shutil
import subprocess
import sys
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from peftbench.errors import UserError
from peftbench.models import builtin, find
from peftbench.records import Example, Retention
from peftbench.tasks import SPLITS, TASKS
from peftbench.tasks.builtin.judge import CHOICES
from peftbench.tasks.builtin.vocabulary import EVENTS
from peftbench.tasks.general_text import texts
from peftbench.tasks.read import examples
from tools.nano import card, make, overlap, skills, unread
from tools.nano.grammar import documents

LONGEST_TOKENS = 64
LARGEST_BYTES = 8_000_000
MARKS = {"describe": "| food:", "compute": "/ total:", "judge": "| class:"}
"""Patterns that occur only in the formats of the tasks."""
FLOAT_NOISE = 0.021
"""Tolerance of a score: another CPU may decide two of a hundred near ties differently."""
PREFIX_ROWS = 3
"""Rows of the loss curve whose text is checked: 600 steps take seconds; a slow test checks all."""

each_task = pytest.mark.parametrize("task", TASKS)
each_base = pytest.mark.parametrize("base", builtin.BASES)


@pytest.fixture(scope="module")
def loaded():
    torch.set_num_threads(1)
    return {base: card.load_base(builtin.folder(base)) for base in builtin.BASES}


@pytest.fixture(scope="module")
def beginning(loaded):
    """The training documents of the first steps."""
    curves = {base: card.read_log(builtin.folder(base))["curve"][:PREFIX_ROWS] for base in builtin.BASES}
    return {base: list(card.text_read(loaded[base].tokenizer, curve)) for base, curve in curves.items()}


def printed(base):
    return (builtin.folder(base) / "README.md").read_text(encoding="utf-8")


def rows(text, header):
    """The rows of the card's table whose header begins with ``header``, by first column."""
    table = text[text.index(f"| {header} |") :].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {row[0]: row[1:] for row in cells}


# the files


@each_base
@each_task
def test_texts_of_tasks_take_few_tokens_and_decode_unchanged(base, task, loaded):
    tokenizer = loaded[base].tokenizer
    texts = [f"{e.prompt} {e.target}" for split in SPLITS for e in examples(card.task(task), split)]
    tokens = tokenizer(texts)["input_ids"]
    assert max(map(len, tokens)) + 1 <= LONGEST_TOKENS
    assert tokenizer.batch_decode(tokens) == texts
    assert tokenizer.unk_token_id is None
    assert tokenizer.eos_token == "</s>"
    assert tokenizer.pad_token == "<pad>"
    prompt, target = texts[0].rsplit(" ", 1)
    joined = tokenizer(prompt)["input_ids"] + tokenizer(" " + target)["input_ids"]
    assert joined == tokens[0], "the joining space belongs to the answer's first piece"


@each_base
def test_a_base_loads_offline_in_fp32_and_is_small(base):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(builtin.folder(base), local_files_only=True)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert 900_000 <= model.num_parameters() <= 1_100_000
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert linear
    assert all(m.in_features % 64 == 0 and m.out_features % 64 == 0 for m in linear)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.generation_config.eos_token_id == model.config.eos_token_id


@each_base
def test_the_files_of_a_base_are_complete_and_contain_no_path(base):
    folder = builtin.folder(base)
    names = {path.name for path in folder.iterdir()}
    needed = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md", make.LOG}
    assert needed | {"model.safetensors", builtin.held_out(base).name} == names
    assert (folder / "model.safetensors").stat().st_size <= LARGEST_BYTES
    for name in needed:
        text = (folder / name).read_text(encoding="utf-8")
        assert not re.search(r"/(home|tmp|work|root|usr)/", text)


@each_base
def test_the_log_belongs_to_the_weights_and_does_not_enter_a_trials_key(base, tmp_path):
    copy = shutil.copytree(builtin.folder(base), tmp_path / base)
    assert card.read_log(copy)["steps"] == make.STEPS
    before = find.base_fingerprint(copy)
    (copy / make.LOG).write_text((copy / make.LOG).read_text().replace("weights_sha256: ", "weights_sha256: 0"))
    assert find.base_fingerprint(copy) == before
    with pytest.raises(UserError, match=f"{make.LOG} belongs to other weights"):
        card.read_log(copy)


# the text


def test_the_grammar_and_the_overlap_load_without_torch():
    code = "import sys; import tools.nano.grammar, tools.nano.overlap"
    code += "; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def text(beginning):
    """What each base model has seen first, and what its tokenizer was made from."""
    tokenizer = tuple(islice(documents("nano tokenizer"), 20_000))
    return {base: "\0".join((*seen, *tokenizer)) for base, seen in beginning.items()}


@pytest.mark.slow
@each_base
@each_task
def test_the_training_text_contains_no_prompt_and_no_format_of_a_task(base, task, beginning, text):
    assert len(beginning[base]) == 200 * PREFIX_ROWS * make.DOCUMENTS
    assert len(set(beginning[base])) > 10_000
    found = card.scored_examples(task)
    assert MARKS[task] in found[0].prompt
    assert MARKS[task] not in text[base]
    assert not any(e.prompt in text[base] for e in found)
    if TASKS[task].kind == "generation":
        assert not any(reference in text[base] for e in found for reference in e.references)


def events_told(texts):
    """The texts with an event of judge, and those of them with the name of one of its classes."""
    events = re.compile("|".join(event for found in EVENTS.values() for event in found))
    colours = re.compile(rf"\b(?:{'|'.join(CHOICES)})\b")
    told = [text for text in texts if events.search(text)]
    return told, [text for text in told if colours.search(text)]


@pytest.mark.slow
@each_base
def test_no_document_contains_both_an_event_and_a_class_of_judge(base, beginning):
    told, with_class = events_told(beginning[base])
    assert len(told) > 1000
    assert with_class == []
    assert events_told(["Ada won a race -> yellow"])[1]


@each_base
def test_the_held_out_text_for_retention_is_not_in_the_training_text(base, beginning, loaded):
    found = texts(Retention(str(builtin.held_out(base)), limit=None))
    assert len(found) == unread.TEXTS
    assert set(found).isdisjoint(beginning[base])
    tokens = loaded[base].tokenizer(found)["input_ids"]
    assert all(len(ids) in unread.TOKENS for ids in tokens)
    kept = unread.unread(loaded[base].tokenizer, set(beginning[base]))
    assert kept[0] == found[0], "the recipe: the first that are held out"
    assert unread.unread(loaded[base].tokenizer, {found[0]})[0] != found[0]


@each_base
def test_a_log_with_another_token_count_is_refused(base, loaded):
    with pytest.raises(UserError, match=r"by step 2 the log counts 7 tokens; the recipe now gives \d"):
        list(card.text_read(loaded[base].tokenizer, [{"step": 2, "tokens_read": 7}]))


def test_overlap_counts_shared_ngrams_and_strings():
    example = Example(prompt="a: one two | go:", target="three four")
    read = ["one two | go", "so: three", "four three four", "one two | go"]
    found = overlap.measure({"t": [example]}, read)["t"]
    assert overlap.words("a: one, two\nthree") == ["a", ":", "one", ",", "two", "three"]
    # nine words: of eight 2-grams these five occur: (one two) (two |) (| go) (: three) (three four)
    assert found.shares == {2: 5 / 8, 4: 1 / 6, 6: 0.0, 8: 0.0}
    counts = (found.examples, found.prompts, found.longest_fields, found.targets, found.distinct_targets)
    assert counts == (1, 0, 1, 1, 1)
    assert overlap.measure({"t": [example]}, ["so a: one two | go: it"])["t"].prompts == 1
    assert overlap.measure({"t": [example]}, ["a: one two |", " go:"])["t"].prompts == 0


# the recipe


def make_quickly(monkeypatch, folder, seed):
    small = {"SEED": seed, "COPYING_STEPS": 1, "TOKENIZER_DOCUMENTS": 3000, "HELD_OUT_BATCHES": 1}
    for name, value in small.items():
        monkeypatch.setattr(make, name, value)
    make.make(folder, 3, "a command")
    return card.read_log(folder)


@pytest.mark.slow
def test_the_recipe_is_reproducible_bit_for_bit_and_depends_on_the_seed(monkeypatch, tmp_path, capsys):
    first = make_quickly(monkeypatch, tmp_path / "first", 0)
    again = make_quickly(monkeypatch, tmp_path / "again", 0)
    other = make_quickly(monkeypatch, tmp_path / "other", 1)
    assert find.base_fingerprint(tmp_path / "first") == find.base_fingerprint(tmp_path / "again")
    assert {**first, "seconds": 0} == {**again, "seconds": 0}
    assert first["curve"] != other["curve"]
    assert first["weights_sha256"] != other["weights_sha256"]
    assert set(first) == set(card.read_log(builtin.folder("nano")))
    assert capsys.readouterr().out.count("step 3 loss") == 3


def test_the_recipes_tokenizer_is_the_shipped_one(loaded):
    made, shipped = make.make_tokenizer().backend_tokenizer, loaded["nano"].tokenizer.backend_tokenizer
    assert made.to_str() == shipped.to_str()


# the card


@each_base
def test_the_card_agrees_with_the_log_and_the_current_tasks(base):
    text, log = printed(base), card.read_log(builtin.folder(base))
    assert "license: apache-2.0" in text
    assert f"python -m tools.nano.make {base}" in text
    for part in (card.recipe_facts(log), card.curve_table(log), log["weights_sha256"][:16]):
        assert part in text, f"renew the card: python -m tools.nano.card {base}"
    assert f"tasks `{card.tasks_fingerprint()}`" in text, "the tasks changed: renew the card"
    assert list(rows(text, "task | metric")) == list(rows(text, "task | 2-grams, %")) == list(TASKS)
    assert list(rows(text, "last word of")) == [skill[0] for skill in skills.SKILLS]
    assert all(row[4] == "0 of 500" for row in rows(text, "task | 2-grams, %").values())


@each_base
def test_the_cards_perplexity_agrees_with_the_model_and_the_log(base, loaded):
    logged = card.read_log(builtin.folder(base))["curve"][-1]["held_out_loss"]
    loss = make.held_out_loss(loaded[base].model.eval(), make.held_out(loaded[base].tokenizer))
    assert loss == pytest.approx(logged, abs=card.SAME_LOSS)
    assert card.held_out_fact(loss, logged) in printed(base)
    assert "but the training log has 2.000" in card.held_out_fact(loss, 2.0)


@each_base
def test_the_cards_zero_shot_scores_are_measured(base, loaded):
    said = rows(printed(base), "task | metric")
    for score in card.zero_shot(loaded[base]):
        metric, value, chance, majority, others = said[score.task]
        assert metric == f"`{score.metric}`"
        assert float(value.split()[0]) == pytest.approx(score.value, abs=FLOAT_NOISE)
        assert (chance, majority) == (card._share(score.chance), card._share(score.majority))
        named = dict(re.findall(r"`(\w+)` ([\d.]+)", others))
        assert set(named) == set(score.metrics) - {score.metric}
        assert all(float(named[name]) == pytest.approx(score.metrics[name], abs=FLOAT_NOISE) for name in named)


@each_base
def test_the_cards_skills_are_measured(base, loaded):
    said = rows(printed(base), "last word of")
    model, tokenizer = loaded[base].model.eval(), loaded[base].tokenizer
    for skill in skills.SKILLS:
        share = skills.share_right(model, tokenizer, skill)
        assert float(said[skill[0]][0]) / 100 == pytest.approx(share, abs=FLOAT_NOISE), skill[0]


@pytest.mark.parametrize(("shift", "right"), [(-1, 1.0), (0, 0.0)])
def test_a_skill_scores_only_the_last_word(shift, right, loaded):
    def model(input_ids, use_cache):
        return SimpleNamespace(logits=torch.nn.functional.one_hot(input_ids.roll(shift, 1), 1024))

    two_changes = next(skill for skill in skills.SKILLS if skill[3] == 2)
    assert skills.share_right(model, loaded["nano"].tokenizer, two_changes) == right


@pytest.mark.slow
@each_base
def test_the_cards_overlap_is_that_of_the_whole_training_text(base, loaded):
    log = card.read_log(builtin.folder(base))
    read = list(card.text_read(loaded[base].tokenizer, log["curve"]))
    assert len(read) == log["steps"] * make.DOCUMENTS
    assert events_told(read)[1] == []
    unread_texts = unread.unread(loaded[base].tokenizer, set(read))
    assert unread_texts == texts(Retention(str(builtin.held_out(base)), limit=None))
    found = overlap.measure({name: card.scored_examples(name) for name in TASKS}, read)
    assert card.overlap_table(found) in printed(base)
    tokenizer = loaded[base].tokenizer
    counted = card.count_read(tokenizer, make.held_out(tokenizer), set(read))
    assert card.held_out_read_fact(counted) in printed(base)
    whole, said = "\0".join(read), rows(printed(base), "last word of")
    assert all(said[s[0]][1] == f"{100 * skills.share_read(whole, s):.0f}" for s in skills.SKILLS)
