"""Whole trials with a head for whole texts, on a tiny encoder and a tiny decoder: their rows, scores and failures."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import pytest
import transformers

from peftbench.methods import METHODS
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.planner import trainable_count
from peftbench.planner.predict import predict
from peftbench.planner.records import Pass
from peftbench.records import Base
from peftbench.runner.checks import liveness, probe
from peftbench.training.encoded import Encoded
from tests.support import encoders, tiny_base, trials
from tests.support.sample import sample

TRAINED = [name for name, method in METHODS.own.items() if method.trains and name != "qlora"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {"llama": tiny_base.make(folder / "llama"), "roberta": encoders.make(folder / "roberta", "roberta")}


def run(base, folder, method="lora", task=None, training=None, **changes):
    task = task or encoders.texts(folder)
    settings = {"data": (("texts", 1.0),), "steps": 4, "learning_rate": 1e-2, **(training or {})}
    fields = {name: changes.pop(name) for name in ("predicts", "adapter_folder") if name in changes}
    made = trials.trial(
        base, folder, method, tasks=(task,), evaluate=("texts",), inference=False, training=settings, **changes
    )
    return trials.run(made, folder, **fields)


@pytest.fixture(scope="module")
def kept(bases, tmp_path_factory):
    """A trial on the encoder whose adapter is kept, and the folder with its data and the adapter."""
    folder = tmp_path_factory.mktemp("kept")
    return run(bases["roberta"], folder, adapter_folder=str(folder / "kept")), folder


CASES = [(name, method) for name in ("llama", "roberta") for method in TRAINED]


@pytest.mark.parametrize(("name", "method"), sample(CASES, 5))
def test_every_method_trains_its_own_parameters_and_the_head_and_is_predicted(name, method, bases, tmp_path):
    row = (result := run(bases[name], tmp_path, method, predicts=True)).row
    assert (row.status, row.message) == ("ok", None)
    config = transformers.AutoConfig.from_pretrained(bases[name])
    made = trials.trial(bases[name], tmp_path, method, tasks=(encoders.texts(tmp_path),), evaluate=("texts",))
    assert row.trainable_parameters == trainable_count.trainable(made, config)
    assert row.head_parameters == (2 * 64 if name == "llama" else 32 * 32 + 32 + 2 * 32 + 2)
    assert row.trainable_parameters <= row.base_parameters
    assert (row.base_bits_per_weight, row.loaded_dtypes) == (32, "float32 1")
    assert row.predicted_train_bytes == row.peak_train_bytes
    assert row.moved_tensors == row.trainable_tensors
    assert row.largest_logit_change > 0
    assert (row.padding_influence, row.later_token_influence) == (0, None)
    assert row.loss_tokens == row.examples_seen == 16
    assert row.train_flops_per_token > 0
    assert (row.retention_seconds, row.prefill_tokens_per_second) == (None, None)
    (score,) = result.scores
    assert score.metrics.keys() == {"accuracy", "f1_macro", "matthews"}
    assert (score.examples, score.chance, score.majority) == (36, 0.5, 0.5)
    assert {example.prediction for example in result.examples} <= {"no", "yes"}
    assert len(json.loads(result.examples[0].choice_logprobs)) == 2


def test_the_probe_cuts_long_pairs_with_their_types():
    ids, types = (5,) * 90, (0,) * 40 + (1,) * 50
    batch = probe.batch([[Encoded(ids, 90, False, ("t", 0), label=1, types=types)]], trials.TRAINING, 0)
    assert batch.types.tolist() == [[0] * 40 + [1] * 24]


def test_bytes_of_the_base_are_predicted_without_the_head(bases, tmp_path):
    task = encoders.texts(tmp_path)
    made = trials.trial(bases["roberta"], tmp_path, "qlora", "nf4", tasks=(task,), evaluate=("texts",))
    where = {"device": "cpu", "trust_remote_code": False, "head": made.head}
    found = load.load(bases["roberta"], PRECISIONS["nf4"], False, True, **where)
    predicted = predict(made, bases["roberta"], [Pass(4, 16)])
    assert predicted.base_weights_bytes == found.weights_bytes
    assert predicted.base_parameters == found.parameters
    assert found.weights_bytes < 4 * found.parameters


def test_pairs_of_texts_with_a_number_to_learn_are_a_regression(bases, tmp_path):
    encoder = encoders.make(tmp_path / "bert", "bert")
    task = encoders.texts(tmp_path, pairs=True, kind="regression")
    result = run(encoder, tmp_path, "prompt_tuning", task, {"steps": 12, "validate_every": 6})
    assert (result.row.status, result.row.message) == ("ok", None)
    assert result.scores[0].metrics.keys() >= {"mean_squared_error"}
    assert result.scores[0].metric == "pearson"
    assert result.row.best_validation_loss is not None
    assert result.row.last_loss < result.row.first_loss


def test_equal_seeds_give_equal_numbers_and_every_method_sees_the_same_batches(bases, kept, tmp_path):
    first, _ = kept
    again, other = (run(bases["roberta"], tmp_path, seed=seed) for seed in (0, 1))
    assert [s.loss for s in first.steps] == [s.loss for s in again.steps] != [s.loss for s in other.steps]
    assert first.examples == again.examples
    prefix = run(bases["roberta"], tmp_path, "prefix_tuning")
    assert prefix.row.batches_sha256 == first.row.batches_sha256 != other.row.batches_sha256


def test_a_method_that_did_nothing_is_inert_although_the_head_has_learned(bases, tmp_path, monkeypatch):
    real = liveness.checksums

    def stalled(model, trainable):
        apart = liveness.head_names(model)
        return {name: value if name in apart else 0 for name, value in real(model, trainable).items()}

    monkeypatch.setattr(liveness, "checksums", stalled)
    row = run(bases["roberta"], tmp_path).row
    assert (row.status, row.message) == ("inert", "training changed no trainable tensor but those of the head")


def test_a_method_without_effect_is_inert_although_the_logits_changed(bases, tmp_path, monkeypatch):
    from peftbench.methods import peft_checkpoint

    monkeypatch.setattr(peft_checkpoint, "disabled", lambda model: contextlib.nullcontext())
    row = run(bases["roberta"], tmp_path).row
    assert (row.status, row.message) == ("inert", "the tuned model's logits equal the base model's")


def test_long_texts_lose_their_end_and_keep_the_special_tokens(bases, tmp_path):
    row = run(bases["roberta"], tmp_path, training={"sequence_length": 6}).row
    assert row.status == "ok"
    assert set(json.loads(row.data_seen_json)["texts"]["lost"]) == {"text_end"}
    assert row.truncated_examples > 0


def test_a_kept_adapter_says_how_to_load_it_and_what_it_gives(bases, kept):
    result, folder = kept
    assert result.row.status == "ok"
    card = (folder / "kept" / "README.md").read_text()
    assert "a logit for each class, in this order: no, yes" in card
    assert (folder / "kept" / "classification_head.safetensors").is_file()
    code = card.partition("```python\n")[2].partition("```")[0]
    names = {}
    exec(code.replace("BASE", str(bases["roberta"])).replace("ADAPTER", str(folder / "kept")), names)
    inputs = transformers.AutoTokenizer.from_pretrained(bases["roberta"])("the sky is good", return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    assert names["head"].logits(names["model"].eval(), inputs).shape == (1, 2)


def test_a_missing_weight_of_the_encoder_itself_is_still_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = encoders.make(tmp_path / "bert", "bert")
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    row = run(folder, tmp_path).row
    assert row.status == "error"
    assert "bert.encoder.layer.1.output.dense.weight" in row.message
    assert "classifier" not in row.message


def test_nothing_of_a_shape_with_a_head_is_scored(bases, tmp_path):
    shape = tmp_path / "shape"
    shape.mkdir()
    config = json.loads((bases["roberta"] / "config.json").read_text()) | {"vocab_size": 1100}  # for nano's tokenizer
    (shape / "config.json").write_text(json.dumps(config))
    made = trials.trial(shape, tmp_path, tasks=(encoders.texts(tmp_path),), evaluate=("texts",), inference=False)
    training = dataclasses.replace(made.training, data=(("texts", 1.0),), steps=2)
    made = dataclasses.replace(made, base=Base(str(shape), random_weights=True), training=training)
    result = trials.run(made, tmp_path)
    assert (result.row.status, result.row.message, result.scores) == ("ok", None, ())
    assert result.row.peak_evaluate_bytes > 0
