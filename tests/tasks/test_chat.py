"""Tasks formatted by the base model's chat template: the same token ids in training and in evaluation."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from tokenizers import processors

from peftbench import suite
from peftbench.errors import Unsupported
from peftbench.records import Base, Evaluation, Example, Task
from peftbench.runner import prepare
from peftbench.tasks import chat, lm_eval_export
from peftbench.training import batches
from tests.support import tiny_base, trials

TURNS = "{% for m in messages %}<{{ m.role }}>\n{{ m.content | trim }}{{ eos_token }}\n{% endfor %}"
TEMPLATES = {
    "plain": TURNS,
    "with a beginning": "{{ bos_token }}" + TURNS,
    "without an end": TURNS.replace("{{ eos_token }}", "<end>"),
    "thinking": TURNS.replace("{{ m.content", "{% if m.role == 'assistant' %}<think>\n\n{% endif %}{{ m.content"),
}
EXAMPLES = [
    Example("the colour of sky ?", "blue", ("blue", "red"), content="sky"),
    Example("the colour of grass ?\n", "red", ("blue", "red")),
]


@pytest.fixture(params=TEMPLATES)
def template(request) -> str:
    return TEMPLATES[request.param]


@pytest.fixture(params=[False, True], ids=["", "tokenizer adds <s>"])
def tokenizer(request, template):
    made = tiny_base.tokenizer()
    if request.param:
        made.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    made.chat_template, made.pad_token = template, made.eos_token
    return made


@pytest.fixture(scope="module")
def model(tiny):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny)


@pytest.mark.parametrize("kind", ["choice", "generation"])
def test_training_and_evaluation_read_the_same_token_ids(model, tokenizer, kind):
    from peftbench.evaluation.scoring import Harness
    from peftbench.models.precision import PRECISIONS

    task = Task("mine", kind, choices=("blue", "red"), chat=True, system="Be kind.")
    examples = chat.apply(task, EXAMPLES, tokenizer)
    trained = batches.encode(tokenizer, [(("mine", i), e) for i, e in enumerate(examples)], 512, "completion")
    scored = Harness(model, tokenizer, Evaluation(4, 128, "test"), PRECISIONS["fp32"])
    built = lm_eval_export.build(task, examples)
    built.build_all_requests()
    for e, seen in zip(examples, trained, strict=True):
        ids = list(seen.ids)
        assert ids[-1] == tokenizer.eos_token_id
        assert ids.count(tokenizer.bos_token_id) <= 1, "a second beginning-of-text token"
        (asked,) = [
            r.args for r in built.instances if r.args[0] == e.prompt and (kind == "generation" or r.args[1] == e.target)
        ]
        if kind == "generation":
            found = scored.tok_batch_encode([asked[0]])[0][0].tolist()
            assert ids[: seen.loss_from] == found
        else:
            found = [part for each in scored._encode_pair(*asked) for part in each]
            assert ids[: len(found)] == found
        answer = tokenizer.decode(ids[seen.loss_from :])
        assert answer.startswith(e.target)


def test_the_text_around_an_answer_is_the_templates(tokenizer, template):
    task = Task("mine", "generation", chat=True, system="Be kind.")
    first, second = chat.apply(task, EXAMPLES, tokenizer)
    whole = tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": EXAMPLES[0].prompt},
            {"role": "assistant", "content": "blue"},
        ],
        tokenize=False,
    )
    assert whole.startswith(first.prompt + first.join + first.target + first.end)
    assert first.prompt.count("sky") == second.prompt.count("grass") == 1
    assert (first.target, first.choices, first.content) == ("blue", ("blue", "red"), "sky")
    if "<end>" in template:
        assert first.end == "<end>\n"
    else:
        assert first.end == tokenizer.eos_token


def test_a_task_without_chat_is_unchanged(tokenizer):
    assert chat.apply(Task("mine", "choice"), EXAMPLES, tokenizer) == EXAMPLES


@pytest.mark.parametrize(
    ("template", "system", "message"),
    [
        (None, None, r"tasks.mine.chat: the base's tokenizer has no chat template"),
        (
            "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
            "{{ m.content }}{% endfor %}",
            "Be kind.",
            r"tasks.mine: system and chat: the base's chat template refuses: no system here",
        ),
        ("{{ messages[0].content + 1 }}", None, r"tasks.mine: chat: the base's chat template refuses: .*str"),
        ("{{ messages[0].content }}", None, r"tasks.mine.chat: .* leaves out the assistant's answer"),
    ],
)
def test_a_base_that_cannot_chat_is_unsupported_and_names_the_key(template, system, message):
    made = tiny_base.tokenizer()
    made.chat_template = template
    with pytest.raises(Unsupported, match=message):
        chat.apply(Task("mine", "choice", chat=True, system=system), EXAMPLES, made)


DATED = (
    "{{ strftime_now('%Y-%m-%d') }}",
    '{{ strftime_now( "%Y-%m-%d" ) }}',
    "{{ date_string }}",
    "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}",
)


@pytest.mark.parametrize("date", DATED)
def test_a_template_that_writes_the_date_has_the_same_one_every_day(date):
    made = tiny_base.tokenizer()
    made.chat_template = date + TURNS
    (first, *_) = chat.apply(Task("mine", "choice", chat=True), EXAMPLES, made)
    assert first.prompt.startswith(("2024-07-26", "26 Jul 2024"))


@pytest.mark.parametrize(
    "date",
    [
        "{% set f = '%Y' %}{{ strftime_now(f) }}",
        "{{ strftime_now('%Y' ~ '-%m') }}",
        "{{ strftime_now(format='%Y') }}",
        r"{{ strftime_now('%d\n%b') }}",
    ],
)
def test_a_template_whose_date_cannot_be_fixed_is_unsupported(date):
    made = tiny_base.tokenizer()
    made.chat_template = date + TURNS
    with pytest.raises(Unsupported, match=r"tasks.mine.chat: .* writes today's date"):
        chat.apply(Task("mine", "choice", chat=True), EXAMPLES, made)


def test_several_templates_without_a_default_are_unsupported():
    made = tiny_base.tokenizer()
    made.chat_template = {"one": TURNS, "other": TURNS}
    with pytest.raises(Unsupported, match=r"tasks.mine.chat: .*multiple chat templates"):
        chat.apply(Task("mine", "choice", chat=True), EXAMPLES, made)


def test_chat_and_system_are_keys_of_a_task(tmp_path):
    text = "base: nano\nmethods: [lora]\ntasks:\n  mine: {template: alpaca, train: a.json, test: a.json, MORE}\n"
    (tmp_path / "x.yaml").write_text(text.replace("MORE", "chat: true, system: Be kind."))
    (task,) = suite.load(tmp_path / "x.yaml").tasks
    assert (task.chat, task.system) == (True, "Be kind.")


def test_a_trial_on_a_base_without_chat_template_ends_as_unsupported(tiny, tmp_path):
    import time
    from dataclasses import replace

    from peftbench.runner import trial

    made = trials.trial(tiny, tmp_path)
    made = replace(made, tasks=tuple(replace(task, chat=True) for task in made.tasks))
    row = trial.run(trials.job(made, tmp_path), time.perf_counter(), lambda _: None, lambda *_: None).row
    assert row.status == "unsupported"
    assert row.message.startswith("tasks.colour.chat: ")


def test_a_plan_reports_that_a_base_has_no_chat_template(tiny, tmp_path):
    trial = trials.trial(tiny, tmp_path)
    talking = replace(trial, tasks=tuple(replace(task, chat=True) for task in trial.tasks))
    assert prepare.impossible([trial]) == {}
    assert "the base's tokenizer has no chat template" in prepare.impossible([talking])[trial.cell]
    able = shutil.copytree(tiny, tmp_path / "able")
    (able / "chat_template.jinja").write_text(TURNS)
    assert prepare.impossible([replace(talking, base=Base(str(able)))]) == {}


def test_plan_says_that_a_template_refuses_the_messages_of_a_task(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "base")
    refuses = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    made = tiny_base.tokenizer()
    made.chat_template = refuses + TURNS.removeprefix("{% for m in messages %}")
    made.save_pretrained(folder)
    found = trials.trial(folder, tmp_path / "data")
    assert not prepare.impossible([found])
    asking = tuple(replace(task, chat=True) for task in found.tasks)
    assert not prepare.impossible([replace(found, tasks=asking)])
    asking = tuple(replace(task, system="Be kind.") for task in asking)
    (reason,) = prepare.impossible([replace(found, tasks=asking)]).values()
    assert reason == "tasks.colour: system and chat: the base's chat template refuses: no system here"
