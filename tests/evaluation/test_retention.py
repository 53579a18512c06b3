"""Loss on held-out general text before and after training: correct for every method, paired by text; and its table."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from peftbench import suite
from peftbench.errors import UserError
from peftbench.evaluation import retention
from peftbench.methods import METHODS
from peftbench.models import builtin
from peftbench.models.load import cast_trainable
from peftbench.models.precision import PRECISIONS
from peftbench.models.tokenizer import load_tokenizer
from peftbench.records import Retention
from peftbench.records.resolve import resolve
from peftbench.report import render, table
from peftbench.report.collect import collect
from peftbench.report.derived.retention import retained
from peftbench.runner import prepare, trial
from peftbench.suite import trial_key
from peftbench.tasks import general_text
from peftbench.tasks.general_text import texts
from tests.support import trials
from tests.support.method_cells import loaded
from tests.support.page_data import PageData
from tests.support.results_factory import make_result, store

TEXTS = ["the sky is blue and the grass of the sea", "a rose", "a ñandú • 東京 is red", "one", "two three four " * 20]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "general.txt"
    path.write_text("\n\n".join(TEXTS), encoding="utf-8")
    return Retention(str(path))


def held_of(tiny, tmp_path, source, name="base", **changes):
    made = trials.trial(tiny, tmp_path, name, retention=source, **changes)
    return retention.held(made, source, load_tokenizer(tiny, False))


# the measurement


@pytest.mark.parametrize("name", [n for n in METHODS if n != "qlora"])
def test_the_loss_of_every_text_is_that_of_the_models_own_loss_on_it_alone(name, tiny, tmp_path, source):
    """Without padding and batches, with labels that the model itself (peft, with virtual tokens) aligns."""
    base = loaded(tiny, name, "fp32")
    made = trials.trial(tiny, tmp_path, name)
    torch.manual_seed(1)
    tuned = resolve(METHODS[name].attach)(base.model, made.rank, made.options)
    with torch.no_grad():
        for parameter in cast_trainable(tuned, PRECISIONS["fp32"]):
            parameter.add_(0.2 * torch.randn_like(parameter))
    held = held_of(tiny, tmp_path, source)
    tuned.train()
    found = held.nats(tuned)
    assert not tuned.training
    for text, nats in zip(TEXTS, found, strict=True):
        ids = torch.tensor([base.tokenizer(text.strip())["input_ids"][:48]])
        labels = ids.clone()
        labels[0, 0] = -100  # prompt tuning would predict it from its last virtual token; no other method can
        with torch.no_grad():
            alone = tuned(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, use_cache=False).loss
        expected = float(alone) * (ids.shape[1] - 1) if ids.shape[1] > 1 else 0.0
        assert nats == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_losses_do_not_depend_on_the_batch_size_and_are_in_file_order(tiny, tmp_path, source):
    model = loaded(tiny, "base", "fp32").model
    held = held_of(tiny, tmp_path, source)
    whole = held.nats(model)
    assert whole == pytest.approx(dataclasses.replace(held, batch_size=1).nats(model), rel=1e-5)
    assert [e.identity[1] for e in held.encoded] == [0, 1, 2, 3, 4]


def test_bytes_are_those_of_the_predicted_tokens(tiny, tmp_path, source):
    tokenizer, held = load_tokenizer(tiny, False), held_of(tiny, tmp_path, source)
    kept = [tokenizer.decode(tokenizer(text.strip())["input_ids"][1:48]) for text in TEXTS]
    assert held.bytes == sum(len(text.encode()) for text in kept)
    assert held.encoded[-1].truncated
    assert len(held.encoded[-1].ids) == 48


def test_a_text_without_two_tokens_is_refused(tiny, tmp_path, source):
    (tmp_path / "general.txt").write_text("a")
    with pytest.raises(UserError, match="no text of two tokens"):
        held_of(tiny, tmp_path, source)


def run(made, tmp_path):
    return trial.run(trials.job(made, tmp_path), 0.0, lambda _: None, lambda *_: None)


def test_a_trial_records_both_losses_and_nothing_else_changes(tiny, tmp_path, source):
    rows = {name: run(trials.trial(tiny, tmp_path, name, retention=source), tmp_path).row for name in ("base", "lora")}
    plain = run(trials.trial(tiny, tmp_path, "lora"), tmp_path)
    base, lora = rows["base"], rows["lora"]
    assert (base.status, lora.status, base.retention_loss_after) == ("ok", "ok", None)
    assert base.retention_loss_before == lora.retention_loss_before
    assert lora.retention_loss_after != lora.retention_loss_before
    raw = json.loads(lora.retention_json)
    assert sum(raw["after"]) / sum(raw["tokens"]) == pytest.approx(lora.retention_loss_after, abs=1e-5)
    assert (lora.retention_texts, lora.retention_tokens) == (5, sum(raw["tokens"]))
    assert lora.retention_seconds > 0
    moving = (
        "seconds",
        "retention",
        "settings_json",
        "host_",
        "started_at",
        "finished_at",
        "load_average",
        "_per_second",
    )
    for field in dataclasses.fields(plain.row):
        if not any(part in field.name for part in moving):
            assert getattr(plain.row, field.name) == getattr(lora, field.name), field.name
    assert (plain.row.retention_seconds, plain.row.retention_json) == (None, None)


def test_a_diverged_trial_keeps_the_loss_before(tiny, tmp_path, source):
    made = trials.trial(tiny, tmp_path, "full", retention=source, training={"learning_rate": 1e30, "clip_norm": None})
    row = run(made, tmp_path).row
    assert row.status == "diverged"
    assert row.retention_loss_before > 0
    assert row.retention_loss_after is None


# the text


def test_texts_of_plain_files_and_of_records(tmp_path):
    plain = tmp_path / "a.txt"
    plain.write_text("one\n\n\n\n two\nlines \n\nthree\n")
    assert texts(Retention(str(plain))) == ["one", "two\nlines", "three"]
    assert texts(Retention(str(plain), separator="\n", limit=2)) == ["two", "lines"], "a draw, in order"
    records = tmp_path / "a.jsonl"
    records.write_text('{"body": "one"}\n{"body": ""}\n{"body": null}\n{"body": "None"}\n{"body": "two"}\n')
    assert texts(Retention(str(records), field="body")) == ["one", "None", "two"], "a null is no text, the word is one"
    with pytest.raises(UserError, match="the example has the fields: body"):
        texts(Retention(str(records)))
    with pytest.raises(UserError, match=r"evaluate\.retention: .*gone\.txt cannot be read as text: No such file"):
        texts(Retention(str(tmp_path / "gone.txt")))
    plain.write_text(" \n\n ")
    with pytest.raises(UserError, match="holds no text"):
        texts(Retention(str(plain)))


def test_nanos_held_out_text_is_not_in_its_training_text(tiny):
    """``test_builtin_base`` compares it with a part of the training text, and a slow test with all of it."""
    from itertools import islice

    from tools.nano.grammar import documents

    found = texts(Retention(str(builtin.held_out("nano")), limit=None))
    assert len(found) == len(set(found)) == 128
    assert set(found) <= set(islice(documents("nano held out"), 1000))


# the suite


def expanded(tmp_path, more="", base="nano"):
    tasks = "{t: {kind: choice, train: a.csv, test: a.csv, columns: [x, y], prompt: p, target: q, choices: [q, r]}}"
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    (tmp_path / "s.yaml").write_text(f"base: {base}\ntasks: {tasks}\nseeds: 1\nmethods: {{base: , lora: }}\n{more}")
    return suite.expand(suite.load(tmp_path / "s.yaml"), "cpu")


def test_a_suite_names_a_text_and_nano_has_its_own(tmp_path):
    assert {t.retention for t in expanded(tmp_path)} == {Retention(str(builtin.held_out("nano")))}
    off = expanded(tmp_path, "evaluate: {retention: false}\n")
    assert {t.retention for t in off} == {None}
    own = expanded(tmp_path, "evaluate: {retention: {file: b.txt, limit: 3, separator: '\\n'}}\n", "gpt2")
    assert own[0].retention == Retention(str(tmp_path / "b.txt"), separator="\\n", limit=3)
    assert {t.retention for t in expanded(tmp_path, base="gpt2")} == {None}
    assert {t.retention for t in expanded(tmp_path, base="{shape: llama-7b}")} == {None}
    for one, other in zip(expanded(tmp_path), off, strict=True):
        left, right = trial_key.settings(one), trial_key.settings(other)
        assert left.pop("retention")["file"] == builtin.held_out("nano").name
        assert right.pop("retention") is None
        assert left == right


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{limit: 3}", r"s\.yaml:5: evaluate\.retention: allowed: exactly one of file"),
        ("{file: b.txt, dataset: org/x}", r"allowed: exactly one of file"),
        ("{file: b.txt, split: train}", r"retention\.split: allowed only with the key 'dataset'"),
        ("{file: b.txt, limits: 3}", "unknown key 'limits'; .*did you mean 'limit'"),
        ("yes", "a mapping with file, field, separator and limit, or false"),
    ],
)
def test_wrong_retention_settings_are_reported(given, told, tmp_path):
    with pytest.raises(UserError, match=told):
        expanded(tmp_path, f"evaluate: {{retention: {given}}}\n")


def test_texts_of_a_dataset_that_is_a_folder_and_of_one_that_is_on_the_hub(tmp_path):
    (tmp_path / "general").mkdir()
    (tmp_path / "general" / "validation.jsonl").write_text('{"body": "one"}\n{"body": ""}\n{"body": "two"}\n')
    (found, *_) = expanded(tmp_path, "evaluate: {retention: {dataset: ./general, split: validation, field: body}}\n")
    assert texts(found.retention) == ["one", "two"]
    away = expanded(tmp_path, "evaluate: {retention: {dataset: org/x, config: raw}}\n")
    assert any("dataset 'org/x': no such folder here" in note for note in prepare.check(away))
    with pytest.raises(UserError, match=r"evaluate.retention.*dataset 'org/x', config 'raw', split 'test'"):
        prepare.prepare(away, tmp_path / "r", 1, "peftbench run")


def test_the_text_is_read_once_for_all_trials(tmp_path, monkeypatch):
    read: list[Retention] = []
    monkeypatch.setattr(
        general_text, "read", lambda source: read.append(source) or general_text.GeneralText(("a text",), ())
    )
    made = expanded(tmp_path) * 9
    prepare.check(made)
    assert len(read) == 1


def test_random_weights_have_no_retention(tmp_path):
    with pytest.raises(UserError, match="the loss of random weights"):
        expanded(tmp_path, "evaluate: {retention: {file: b.txt}}\n", "{shape: llama-7b}")


def test_a_missing_text_is_reported_before_anything_runs(tmp_path):
    made = expanded(tmp_path, "evaluate: {retention: {file: b.txt}}\n")
    for refuse in (lambda: prepare.check(made), lambda: prepare.prepare(made, tmp_path / "r", 1, "peftbench run")):
        with pytest.raises(UserError, match=r"b\.txt cannot be read as text"):
            refuse()


# the report


def stored(folder, seeds=3, texts_=40, gain=0.2, sha=("h", "h")):
    """A base model, and a LoRA whose loss rises by ``gain`` nats per token, more on some texts and for some seeds."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 30, texts_)
    before = tokens * rng.uniform(0.5, 2, texts_)
    own = rng.normal(0, 0.1, texts_)

    def columns(nats, key):
        raw = {"tokens": tokens.tolist(), "before": before.tolist()}
        more = {} if nats is None else {"after": nats.tolist()}
        return {"retention_json": json.dumps(raw | more), "retention_sha256": key, "retention_bytes": 4 * tokens.sum()}

    after = [before + tokens * (gain + own + rng.normal(0, 0.03)) for _ in range(seeds)]
    results = [make_result("base fp32", "base", rank=None, seed=None, **columns(None, sha[0]))]
    results += [make_result(seed=seed, **columns(nats, sha[1])) for seed, nats in enumerate(after)]
    return store(folder, *results), tokens, before, np.asarray(after)


def test_forgetting_is_the_difference_of_mean_losses_with_an_interval_over_seeds_and_texts(tmp_path):
    folder, tokens, before, after = stored(tmp_path / "results")
    base, lora = retained(collect(folder))
    assert (base.change, base.loss_after) == (None, None)
    assert lora.change.value == pytest.approx((after.mean(0) - before).sum() / tokens.sum())
    assert lora.loss_after - lora.loss_before == pytest.approx(lora.change.value)
    assert lora.change.low < 0.2 < lora.change.high
    assert lora.change.scope == "new seeds and new examples"
    assert base.bits_per_byte(base.loss_before) == pytest.approx(base.loss_before / 4 / math.log(2))
    one = retained(collect(stored(tmp_path / "one", seeds=1)[0]))[1].change
    ratio = after[0] - before
    rate = ratio.sum() / tokens.sum()
    error = math.sqrt(((ratio - rate * tokens) ** 2).sum() / (len(tokens) - 1) * len(tokens)) / tokens.sum()
    assert one.standard_error == pytest.approx(error), "of one seed, the ratio's own over the texts"


def test_its_interval_has_the_stated_coverage():
    """Twenty unequal texts, three seeds, 400 times; intervals over seeds or texts alone cover too rarely."""
    from peftbench.report.derived.retention import Retained

    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        tokens = rng.integers(5, 40, 40).astype(float)
        before = tokens * rng.uniform(0.5, 2, 40)
        shift = 0.1 + rng.normal(0, 0.1, 40) + rng.normal(0, 0.015, (3, 1))
        found = Retained(None, tokens, before, before + tokens * shift).change
        covered += found.low <= 0.1 <= found.high
    assert 0.925 <= covered / 400 <= 0.985


def test_the_table_is_in_text_markdown_and_page(tmp_path):
    folder = stored(tmp_path / "results")[0]
    for format in ("text", "md"):
        text = " ".join(table(folder, format).split())
        assert "Retention: loss on held-out general text (40 texts, " in text
        assert "Intervals: 95 % for new seeds and new texts." in text
        assert "do not compare" not in text
    row = next(line for line in table(folder, "md").splitlines() if line.startswith("| LoRA") and "+0." in line)
    assert row.count("|") == 7
    shown = PageData(render(folder, tmp_path / "page.html").read_text()).column("forgetting")
    assert {name for name, value in shown.items() if value is not None} == {"lora r=8 fp32"}


def test_significance_and_different_texts_are_reported(tmp_path):
    text = " ".join(table(stored(tmp_path / "results", gain=0.0, sha=("h", "g"))[0], "text").split())
    assert "Forgetting not significantly different from zero: LoRA r=8." in text
    assert "Cells were evaluated on different general texts" in text


def test_results_without_retention_have_no_such_table(tmp_path):
    folder = store(tmp_path / "results", make_result())
    assert "Retention:" not in table(folder, "text")
    shown = PageData(render(folder, tmp_path / "page.html").read_text()).core["columns"]
    assert [c for c in shown if c["name"] == "forgetting" and any(v is not None for v in c["values"])] == []
