"""A head for whole texts: what it reads, how it begins, and that it is stored apart and loads back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from peftbench.errors import Unsupported
from peftbench.methods import METHODS, lora_initialization, method_of
from peftbench.methods.support import why_unsupported
from peftbench.models import causality, files, head, load
from peftbench.models.precision import PRECISIONS
from peftbench.records import Head
from peftbench.records.resolve import resolve
from peftbench.runner.checks import liveness
from peftbench.tasks import read
from peftbench.training.encoded import encode_texts
from tests.support import encoders, tiny_base, trials
from tests.support.sample import sample

HEAD = Head(3, 0)
TRAINED = [name for name, method in METHODS.own.items() if method.trains]
IDS = torch.tensor([[2, 30, 31, 32, 33, 3], [2, 40, 41, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": MASK}
WITHOUT = {("deberta-v2", "prefix_tuning"), ("deberta-v2", "llama_adapter")}
"""Attention of its own, which takes no keys and values from outside."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("heads")
    return {"llama": tiny_base.make(folder / "llama")} | {n: encoders.make(folder / n, n) for n in encoders.FAMILIES}


def loaded(folder, precision="fp32", asked=HEAD, method="lora"):
    where = {"device": "cpu", "trust_remote_code": False, "head": asked}
    return load.load(folder, PRECISIONS[precision], METHODS[method].trains_base, True, **where).model


def attached(base, method, precision="fp32", rank=4):
    options = trials.EXAMPLES.get(method, {})
    record = method_of(method, options)
    if not METHODS[method].variants:
        options = {name: setting.default for name, setting in record.options.items()}
    if "alpha" in options:
        options["alpha"] = 2.0 * rank
    torch.manual_seed(0)
    tuned = resolve(record.attach)(base, rank if record.rank_meaning else None, options)
    head.trainable(tuned, getattr(torch, PRECISIONS[precision].trainable))
    load.cast_trainable(tuned, PRECISIONS[precision])
    return tuned


@torch.no_grad()
def logits(model, inputs=INPUTS, precision="fp32"):
    model.eval()
    with load.autocast(PRECISIONS[precision], "cpu"):
        return head.logits(model, inputs).float()


def alone(row):
    length = int(MASK[row].sum())
    return {name: value[row : row + 1, :length] for name, value in INPUTS.items()}


@pytest.mark.parametrize("name", ["llama", *encoders.FAMILIES])
def test_the_head_gives_what_transformers_gives_for_a_plain_model(name, bases):
    model = loaded(bases[name])
    model.config.pad_token_id = 0
    with torch.no_grad():
        assert torch.equal(logits(model), model(**INPUTS).logits)


@pytest.mark.parametrize("name", ["llama", *encoders.FAMILIES])
def test_the_head_begins_alike_for_a_seed_and_other_for_another_and_is_apart(name, bases):
    first, again, other = (loaded(bases[name], asked=Head(3, seed)) for seed in (0, 0, 1))
    named = dict(head.parameters(first))
    assert named
    assert not any(p.requires_grad for p in named.values())
    assert all(torch.equal(p, dict(head.parameters(again))[n]) for n, p in named.items())
    matrices = [n for n, p in named.items() if p.ndim > 1]
    assert all(not torch.equal(named[n], dict(head.parameters(other))[n]) for n in matrices)
    assert not {id(p) for p in named.values()} & {id(p) for p in load.matrices(first).values()}
    assert named[matrices[-1]].shape[0] == 3
    pooled = 2 if name != "llama" else 1
    assert len(matrices) == pooled, "an encoder's head has a hidden layer, which trains too"


def test_what_a_checkpoint_has_of_a_head_is_kept_but_for_the_layer_of_the_classes(bases, tmp_path):
    before = loaded(bases["roberta"], asked=Head(3, 7))
    before.save_pretrained(tmp_path)
    encoders.tokenizer().save_pretrained(tmp_path)
    for classes in (3, 5):  # with as many classes, and with others
        after = dict(loaded_parameters := head.parameters(loaded(tmp_path, asked=Head(classes, 0))))
        assert len(loaded_parameters) == 4
        assert torch.equal(after["classifier.dense.weight"], dict(head.parameters(before))["classifier.dense.weight"])
        assert after["classifier.out_proj.weight"].shape[0] == classes
    drawn = dict(head.parameters(loaded(tmp_path)))["classifier.out_proj.weight"]
    assert not torch.equal(drawn, dict(head.parameters(before))["classifier.out_proj.weight"])


@pytest.mark.parametrize("name", ["llama", *encoders.FAMILIES])
def test_only_models_with_two_types_of_tokens_are_told_which_text_of_a_pair_a_token_is_of(name, bases):
    model = loaded(bases[name])
    types = {"token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]])}
    plain, told = logits(model), logits(model, INPUTS | types)
    assert torch.equal(plain, told) == (name in ("llama", "roberta"))
    attached(model, "prompt_tuning")
    assert logits(model, INPUTS | types).shape == (2, 3)


CASES = [(name, method) for name in ("llama", *encoders.FAMILIES) for method in TRAINED if method != "qlora"]


@pytest.mark.parametrize(("name", "method"), sample(CASES, 3))
def test_a_text_keeps_its_logits_beside_others_whatever_precedes_it(name, method, bases):
    """Virtual tokens come before the first token, and padding after the last: neither is what the head reads."""
    base = loaded(bases[name], method=method)
    if (name, method) in WITHOUT:
        with pytest.raises(Unsupported, match="attention"):
            attached(base, method)
        return
    tuned = attached(base, method)
    with liveness.perturbed([p for p in tuned.parameters() if p.requires_grad]):
        together = logits(tuned)
        for row in (0, 1):
            assert torch.allclose(together[row], logits(tuned, alone(row))[0], atol=1e-5)
        assert causality.reads_padding(tuned, PRECISIONS["fp32"], "cpu") == 0
        first = {**INPUTS, "input_ids": IDS.clone()}
        first["input_ids"][0, 0] = 50  # an encoder's head reads the first token, a decoder the last
        assert not torch.allclose(logits(tuned, first)[0], together[0], atol=1e-4)
        if METHODS[method].switch_off:
            with resolve(method_of(method, trials.EXAMPLES.get(method, {})).switch_off)(tuned):
                off = logits(tuned)
            assert not torch.allclose(off, together, atol=1e-5), "the method does something"


@pytest.mark.parametrize(("name", "method"), sample([case for case in CASES if case not in WITHOUT], 4))
def test_head_and_method_train_are_saved_and_give_the_same_logits_on_a_fresh_base(name, method, bases, tmp_path):
    tuned = attached(loaded(bases[name], method=method), method)
    trained = [p for p in tuned.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for _ in range(2):
        tuned.train()
        head.logits(tuned, INPUTS).logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(p.requires_grad for _, p in head.parameters(tuned))
    own = load.trainable_parameters(tuned)
    assert own + head.count(tuned) == sum(p.numel() for p in trained)
    resolve(METHODS[method].save)(tuned, tmp_path)
    if METHODS[method].trains_base:
        tokenizer = tiny_base.tokenizer() if name == "llama" else encoders.tokenizer()
        tokenizer.save_pretrained(tmp_path)
        again = type(tuned).from_pretrained(tmp_path)
        head.place(again)
    else:
        head.save(tuned, tmp_path)
        base = loaded(bases[name], asked=Head(3, 99))
        head.load(base, tmp_path)
        again = resolve(METHODS[method].load)(base, tmp_path)
    assert torch.equal(logits(tuned), logits(again))


QUANTIZED = [
    (name, method, precision)
    for name in ("llama", "bert")
    for method in TRAINED
    for precision in ("bf16", "fp16", "bf16-true", "int8", "nf4")
    if why_unsupported(METHODS[method], precision, "cpu") is None
]


@pytest.mark.parametrize(("name", "method", "precision"), sample(QUANTIZED, 17))
def test_the_head_is_stored_unquantized_in_the_dtype_of_trainable_weights(name, method, precision, bases):
    base = loaded(bases[name], precision, method=method)
    wanted = getattr(torch, PRECISIONS[precision].trainable)
    assert {p.dtype for _, p in head.parameters(base)} == {wanted}
    tuned = attached(base, method, precision)
    found = logits(tuned, precision=precision)
    assert found.shape == (2, 3)
    assert bool(found.isfinite().all())


def test_lora_adapts_no_layer_of_the_head_and_says_so_if_asked_to(bases):
    base = loaded(bases["roberta"])
    options = {"target_modules": ["out_proj"], "alpha": 8.0, "dropout": 0.0}
    with pytest.raises(Unsupported, match="out_proj is the head, which trains as a whole"):
        resolve(METHODS["lora"].attach)(base, 4, options)
    tuned = attached(loaded(bases["roberta"]), "lora")
    assert not any("classifier" in name and "lora" in name for name, _ in tuned.named_parameters())


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "whisper", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "mamba"}, "no model of mamba with a head"),
        ({"model_type": "bert", "is_decoder": True}, "reads the first token, which sees no other one"),
    ],
)
def test_models_without_such_a_head_are_refused(config, told):
    with pytest.raises(Unsupported, match=told):
        causality.check_config(config, head=True)


def test_an_encoder_is_refused_for_tokens_with_the_way_to_use_it(bases):
    config = files.read_mapping(bases["bert"] / "config.json")
    with pytest.raises(Unsupported, match="kind: classification gives it a head"):
        causality.check_config(config)
    with pytest.raises(Unsupported, match="kind: classification gives it a head"):
        causality.check_config(files.read_mapping(bases["deberta-v2"] / "config.json"))
    causality.check_config(config, head=True)


def test_a_model_that_reads_padding_is_refused(bases):
    model = loaded(bases["bert"])
    layer = head.base_of(model).bert.encoder.layer[0]
    layer.register_forward_hook(lambda _, __, out: out + out.mean(1, keepdim=True))
    with pytest.raises(Unsupported, match="reads padding"):
        causality.check_padding(model, PRECISIONS["fp32"], "cpu")


def test_virtual_tokens_before_layers_that_share_weights_are_not_what_the_head_reads(tmp_path):
    """ALBERT runs a layer several times, so the tokens may be dropped only behind the last time."""
    model = loaded(encoders.make(tmp_path, "albert", embedding_size=16), method="prompt_tuning")
    tuned = attached(model, "prompt_tuning")
    seen, given = [], []
    model.albert.encoder.albert_layer_groups[0].register_forward_hook(lambda _, __, out: seen.append(out))
    model.albert.pooler.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    logits(tuned, INPUTS | {"token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]])})
    assert [out.shape[1] for out in seen] == [6 + 4] * 3
    assert torch.equal(given[0], seen[-1][:, 4])


def test_an_encoder_whose_layers_are_not_known_takes_no_virtual_tokens(bases, monkeypatch):
    monkeypatch.setattr(head, "_topmost", lambda _: None)
    model = loaded(bases["bert"], method="prompt_tuning")
    with pytest.raises(Unsupported, match="reads the first token, which would be a virtual one"):
        attached(model, "prompt_tuning")


@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_pefts_own_prompt_tuning_is_told_which_text_of_a_pair_a_token_is_of(precision, bases):
    model = loaded(bases["bert"], precision)
    tuned = resolve(METHODS["peft"].attach)(model, 4, {"peft_type": "PROMPT_TUNING"})
    types = {"token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]])}
    first, again, plain = (logits(tuned, given, precision) for given in (INPUTS | types, INPUTS | types, INPUTS))
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)


@pytest.mark.parametrize("start", ["eva", "lora_ga", "corda"])
@pytest.mark.parametrize(("name", "precision"), [("bert", "fp32"), ("roberta", "bf16")])
def test_a_start_from_data_reads_pairs_as_training_does(start, name, precision, bases, tmp_path, monkeypatch):
    task = encoders.texts(tmp_path, pairs=True, choices=("no", "yes", "maybe"))
    model = loaded(bases[name], precision)
    origin = model.peftbench_origin
    examples = [((task.name, i), e) for i, e in enumerate(read.examples(task, "train")[:8])]
    step = encode_texts(origin.tokenizer, examples, 48, task)
    assert any(1 in e.types for e in step)
    model.peftbench_origin = dataclasses.replace(origin, step_examples=[step])
    seen = []
    real = head.logits
    monkeypatch.setattr(head, "logits", lambda model, inputs: (seen.append(inputs), real(model, inputs))[1])
    options = {"peft_type": "LORA", "init_lora_weights": start, "target_modules": ["query", "value"]}
    resolve(METHODS["peft"].attach)(model, 2, options | ({"lora_ga_config": {}} if start == "lora_ga" else {}))
    assert seen
    assert all("token_type_ids" in inputs for inputs in seen)


def test_loftq_reads_the_weights_of_an_encoder_that_predicts_no_tokens(tmp_path):
    folder = encoders.make(tmp_path, "distilbert", dim=32, hidden_dim=64, n_layers=2, n_heads=4)
    plain, model = loaded(folder), loaded(folder, "nf4")
    options = {name: setting.default for name, setting in METHODS["lora"].options.items()}
    tuned = resolve(METHODS["lora"].attach)(model, 8, options | {"alpha": 16.0, "initialization": "loftq"})
    name = "distilbert.transformer.layer.0.ffn.lin1"
    layer, wanted = tuned.get_base_model().get_submodule(name), plain.get_submodule(name).weight
    quantized = lora_initialization._dequantized(layer.get_base_layer())
    started = quantized + layer.get_delta_weight("default")
    assert float((started - wanted).norm()) < 0.9 * float((quantized - wanted).norm())


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_cartridge_is_keys_and_values_before_a_text(name, bases):
    tuned = resolve(METHODS["peft"].attach)(loaded(bases[name]), 4, {"peft_type": "CARTRIDGE"})
    with liveness.perturbed([p for p in tuned.parameters() if p.requires_grad]):
        together = logits(tuned)
        assert torch.allclose(together[1], logits(tuned, alone(1))[0], atol=1e-5)
        with resolve(METHODS["peft"].switch_off)(tuned):
            assert not torch.allclose(logits(tuned), together, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("full", {"modules": ["classifier"]}, "is the head, which trains as a whole"),
        ("peft", {"peft_type": "LORA", "target_modules": ["query", "classifier"]}, "'classifier' is the head"),
        ("peft", {"peft_type": "LORA", "alora_invocation_tokens": [30]}, "with a head nothing would be adapted"),
    ],
)
def test_what_a_setting_cannot_do_with_a_head_is_said(method, options, words, bases):
    with pytest.raises(Unsupported, match=words):
        resolve(METHODS[method].attach)(loaded(bases["bert"], method=method), 4, options)


def test_eva_is_refused_where_a_layer_reads_positions_as_well(bases, tmp_path):
    task, model = encoders.texts(tmp_path, choices=("no", "yes", "maybe")), loaded(bases["deberta-v2"])
    examples = [((task.name, i), e) for i, e in enumerate(read.examples(task, "train")[:8])]
    step = encode_texts(model.peftbench_origin.tokenizer, examples, 48, task)
    model.peftbench_origin = dataclasses.replace(model.peftbench_origin, step_examples=[step])
    options = {"peft_type": "LORA", "init_lora_weights": "eva", "target_modules": "all-linear"}
    with pytest.raises(Unsupported, match="reads something else than the tokens of a text"):
        resolve(METHODS["peft"].attach)(model, 2, options)


def test_a_head_over_the_mean_of_all_tokens_takes_no_virtual_ones(tmp_path):
    folder = encoders.make(tmp_path, "modernbert", classifier_pooling="mean")
    with pytest.raises(Unsupported, match="reads the mean over all tokens"):
        attached(loaded(folder, method="prompt_tuning"), "prompt_tuning")
    tuned = attached(loaded(folder, method="prefix_tuning"), "prefix_tuning")
    assert torch.allclose(logits(tuned)[1], logits(tuned, alone(1))[0], atol=1e-5)
