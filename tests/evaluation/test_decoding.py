"""Decoding is peftbench's own: nothing of a model's folder changes an answer, and an answer ends where it should."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from lm_eval.api.instance import Instance

from peftbench.errors import Unsupported
from peftbench.evaluation import answer_steps, decoding, generation, scoring
from peftbench.models.precision import PRECISIONS
from peftbench.records import Base, Example, Task
from tests.support import generation_subject, method_cells, tiny_base, trials
from tests.support.sample import sample

EVALUATION = trials.Evaluation(4, 48, "test")
TASK = Task("lines", "generation", max_new_tokens=12, stop=("\n",))
EXAMPLES = [Example(text, "x") for text in ("one two ?", "red green blue", "the sky is of", "yes no a b c d")]
GREEDY_KWARGS = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}

PUBLISHED = {
    "penalty and sampling": {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "repetition_penalty": 1.8,
    },
    "beams": {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
    "n-grams": {"no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 1},
    "suppressed": {"suppress_tokens": [*range(2, 60)], "begin_suppress_tokens": [*range(60, 320)]},
    "forced": {"forced_bos_token_id": 65, "forced_eos_token_id": 66},
    "lengths": {"min_length": 40, "min_new_tokens": 11, "max_length": 3, "max_new_tokens": 2},
    "bias": {"sequence_bias": [[[70], 50.0]], "bad_words_ids": [[71], [72], [73]]},
    "other ends": {"eos_token_id": [*range(2, 320, 2)], "pad_token_id": 7},
    "guidance": {"guidance_scale": 3.0, "renormalize_logits": True},
    "watermark": {"watermarking_config": {"bias": 8.0, "greenlist_ratio": 0.25, "hashing_key": 5}},
    "decay": {"exponential_decay_length_penalty": [1, 5.0]},
    "several": {"num_return_sequences": 3, "num_beams": 3},
    "as records": {"return_dict_in_generate": True, "output_scores": True, "output_logits": True},
    "another cache": {"cache_implementation": "static", "use_cache": False},
    "another search": {"penalty_alpha": 0.6, "top_k": 4},
    "time": {"max_time": 1e-9},
    "assisted": {"prompt_lookup_num_tokens": 3, "num_assistant_tokens": 5},
    "made up": {"peftbench_made_this_up": 1},
}
"""Members of a ``generation_config.json`` that change the text, its length, or the form of what comes back."""


def folder_with(tiny, folder, settings, legacy=False):
    """Return a copy of the tiny base with settings in its generation_config, or as in old models in its config."""
    made = shutil.copytree(tiny, folder)
    if legacy:
        (made / "generation_config.json").unlink()
    path = made / ("config.json" if legacy else "generation_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return made


def scored(folder, task=TASK, examples=EXAMPLES, **evaluation):
    base = method_cells.loaded(folder, "base", "fp32")
    harness = scoring.Harness(
        base.model, base.tokenizer, dataclasses.replace(EVALUATION, **evaluation), PRECISIONS["fp32"]
    )
    (score,), rows = scoring.evaluate(harness, [task], {task.name: examples})
    return score, [row.prediction for row in rows]


@pytest.fixture(scope="module")
def plain(tiny):
    return scored(tiny)


@pytest.mark.parametrize("name", sample(PUBLISHED, 3))
def test_a_folders_generation_config_changes_no_answer(tiny, tmp_path, plain, name):
    score, texts = scored(folder_with(tiny, tmp_path / "base", PUBLISHED[name]))
    assert texts == plain[1]
    assert score == plain[0], "nor a stored setting"
    assert len(set(texts)) > 1


@pytest.mark.parametrize("name", ["penalty and sampling", "beams", "n-grams", "lengths", "suppressed"])
def test_parameters_in_an_old_models_config_change_no_answer(tiny, tmp_path, plain, name):
    assert scored(folder_with(tiny, tmp_path / "base", PUBLISHED[name], legacy=True))[1] == plain[1]


def test_without_the_file_the_answers_are_the_same(tiny, tmp_path, plain):
    made = shutil.copytree(tiny, tmp_path / "base")
    (made / "generation_config.json").unlink()
    assert scored(made)[1] == plain[1]


@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "prefix_tuning", "adapter", "llama_adapter"])
def test_a_generation_config_changes_no_answer_under_any_method(tiny, tmp_path, method):
    made = folder_with(tiny, tmp_path / "base", PUBLISHED["penalty and sampling"] | {"num_beams": 3})
    texts = []
    for folder in (tiny, made):
        base, learner, _ = method_cells.attached(folder, method, "fp32", tmp_path)
        harness = scoring.Harness(learner.model, base.tokenizer, EVALUATION, PRECISIONS["fp32"])
        held = base.model.generation_config
        texts.append([row.prediction for row in scoring.evaluate(harness, [TASK], {"lines": EXAMPLES})[1]])
        assert base.model.generation_config is held, "a saved model keeps its own"
    assert texts[0] == texts[1]


def test_inference_is_measured_with_the_same_decoding(tiny, tmp_path):
    made = folder_with(tiny, tmp_path / "base", {"num_beams": 4, "repetition_penalty": 2.0, "do_sample": True})
    found = [
        generation.measure(generation_subject.subject(folder, tmp_path / folder.name))
        for folder in (shutil.copytree(tiny, tmp_path / "plain"), made)
        if (tmp_path / folder.name).mkdir(exist_ok=True) is None
    ]
    peaks = {each.peak_generate_bytes for each in found}
    assert len(peaks) == 1, "beams would hold several caches"
    for each in found:
        raw = json.loads(each.inference_json)
        assert raw["reasons"].keys() <= {"load", "switch", "merge"}
        assert (raw["decoding"]["num_beams"], raw["decoding"]["do_sample"]) == (1, False)


def test_every_parameter_is_in_the_score(plain):
    settings = plain[0].settings
    assert settings["decoding_from"] == "greedy"
    assert settings["decoding"] == {**decoding.GREEDY, "end_token_ids": [0, 1]}
    assert json.loads(json.dumps(settings)) == settings


def test_every_parameter_of_the_installed_transformers_is_set_or_known_to_be_harmless():
    from transformers import GenerationConfig

    given = {*decoding.GREEDY, "max_new_tokens", "eos_token_id", "pad_token_id", "use_cache"}
    elsewhere = {  # what is returned, how it is computed, and helpers that an empty configuration does not have
        *("max_length", "max_time", "use_mtp", "cache_implementation", "cache_config", "max_cache_len"),
        *("num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "output_logits"),
        *("return_dict_in_generate", "bos_token_id", "decoder_start_token_id", "compile_config", "disable_compile"),
        *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
        *("prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind"),
        *("target_lookbehind", "assistant_ensemble_weight", "speculation_type", "prefill_chunk_size", "low_memory"),
        *("continuous_batching_config", "transformers_version"),
    }
    names = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert names - given - elsewhere == set(), "a new parameter: add it to GREEDY if it decides tokens"


# the base's own


def test_a_suite_may_ask_for_the_bases_own_settings_and_the_row_says_so(tiny, tmp_path, plain):
    made = folder_with(tiny, tmp_path / "base", {"repetition_penalty": 5.0, "suppress_tokens": [5, 6]})
    score, texts = scored(made, generation="base")
    assert texts != plain[1]
    assert score.settings["decoding_from"] == "base"
    assert score.settings["decoding"]["repetition_penalty"] == 5.0
    assert score.settings["decoding"]["suppress_tokens"] == [5, 6]
    assert scored(tiny, generation="base")[1] == plain[1], "the tiny base asks for nothing"


def test_sampled_answers_are_the_same_in_every_run_and_batch(tiny, tmp_path, plain):
    made = folder_with(tiny, tmp_path / "base", {"do_sample": True, "temperature": 3.0, "top_k": 0})
    torch.manual_seed(1)
    first = scored(made, generation="base", examples=[*EXAMPLES, *EXAMPLES])[1]
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert scored(made, generation="base", examples=[*EXAMPLES, *EXAMPLES], batch_size=1)[1] == first
    assert first[:4] != plain[1]
    assert first[:4] != first[4:], "each answer has its own seed"
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_search_that_needs_code_from_the_hub_is_unsupported(tiny, tmp_path):
    made = folder_with(tiny, tmp_path / "base", {"penalty_alpha": 0.6, "top_k": 4})
    with pytest.raises(Unsupported, match=r"evaluate.generation: base: .*contrastive_search.*allowed: greedy"):
        scored(made, generation="base")


def test_the_bases_ends_are_ends_too_if_its_settings_are_asked_for(tiny, tmp_path):
    made = folder_with(tiny, tmp_path / "base", {"eos_token_id": [1, 66]})
    assert scored(made, generation="base")[0].settings["decoding"]["end_token_ids"] == [0, 1, 66]


def test_evaluate_generation_is_a_key_of_a_suite_and_enters_the_trials_key(tmp_path):
    from peftbench import suite
    from peftbench.suite.trial_key import key

    text = "base: nano\nmethods: [base]\ntasks: [compute]\nevaluate: {generation: GENERATION}\n"
    keys = set()
    for name in ("greedy", "base"):
        (tmp_path / "x.yaml").write_text(text.replace("GENERATION", name))
        (trial,) = suite.expand(suite.load(tmp_path / "x.yaml"), "cpu")
        assert trial.evaluation.generation == name
        keys.add(key(trial, "a", "b"))
    assert len(keys) == 2


def test_a_trial_on_a_base_with_penalties_has_the_scores_of_one_without(tiny, tmp_path):
    made = folder_with(tiny, tmp_path / "base", PUBLISHED["penalty and sampling"])
    scores = []
    for folder in (tiny, made):
        trial = trials.trial(folder, tmp_path, "lora", evaluate=("colour_text", "colour_line"))
        found = trials.run(dataclasses.replace(trial, base=Base(str(folder))), tmp_path)
        assert found.row.status == "ok"
        scores.append((found.scores, [row.prediction for row in found.examples], [step.loss for step in found.steps]))
    assert scores[0] == scores[1]


# where an answer ends


def spoken(tokenizer, ids, stops=("\n",), ends=None):
    known = decoding.end_tokens(tokenizer, stops) if ends is None else ends
    return decoding.read(tokenizer, ids, decoding.Decoding(decoding.GREEDY, (*stops, "</s>"), known, 9))


@pytest.fixture
def tokenizer():
    made = tiny_base.tokenizer()
    made.add_tokens(["<|im_end|>", "<stop>"], special_tokens=True)
    return made


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("red\nblue", ["\n"], "red"),
        ("\nred", ["\n"], ""),
        ("red", ["\n"], "red"),
        ("red END blue", ["END"], "red "),
        ("red ENDblue END", ["blue", " END"], "red"),
        ("one two three four", ["o three"], "one tw"),
        ("red</s>blue", [], "red"),
        ("red<|im_end|>blue", [], "red"),
        ("red<stop>blue", [], "redblue"),
        ("red<stop>blue", ["<stop>"], "red"),
        ("red<stop>\nblue\ngreen", ["<stop>\n"], "red"),
        ("red<stop>x\nblue", ["d<stop>x"], "re"),
        ("é\n", ["\n"], "é"),
    ],
)
def test_an_answer_ends_at_its_first_stop_text_or_end_token(tokenizer, text, stops, expected):
    ids = tokenizer.encode(text, add_special_tokens=False)
    found = spoken(tokenizer, ids, tuple(stops))
    assert found.text == expected
    assert found.ended == (expected not in (text, "redblue"))


def test_a_stop_text_is_found_however_its_tokens_spell_it(tokenizer):
    letters = [i for c in "red<end>blue" for i in tokenizer.encode(c, add_special_tokens=False)]
    assert spoken(tokenizer, letters, ("<end>",)).text == "red"
    criterion = answer_steps.Ended(tokenizer, ("<end>",), 2)
    ended = [bool(criterion(torch.tensor([[0, 0, *letters[:n]]]), None)) for n in range(1, 9)]
    assert ended == [False] * 7 + [True], "at its last letter, not before"
    prompt = tokenizer.encode("<end>", add_special_tokens=False)
    assert not answer_steps.Ended(tokenizer, ("<end>",), len(prompt))(torch.tensor([[*prompt, 5]]), None).any()


def test_each_sequence_of_a_batch_ends_on_its_own(tokenizer):
    red, stop, blue = (tokenizer.encode(t, add_special_tokens=False)[0] for t in (" red", "\n", " blue"))
    criterion = answer_steps.Ended(tokenizer, ("\n",), 0)
    assert criterion(torch.tensor([[red, stop], [red, blue]]), None).tolist() == [True, False]


def test_answers_that_reach_the_largest_number_of_tokens_are_counted(tiny):
    base = method_cells.loaded(tiny, "base", "fp32")
    harness = scoring.Harness(base.model, base.tokenizer, EVALUATION, PRECISIONS["fp32"])
    asked = [Instance("generate_until", {}, (e.prompt, dict(GREEDY_KWARGS)), 0) for e in EXAMPLES]
    texts = harness.generate_until(asked)
    assert harness.unended == 4 == len(texts)
    first = next(c for c in texts[0][1:] if c.isascii() and c.isalnum())
    stopped = [Instance("generate_until", {}, (r.args[0], GREEDY_KWARGS | {"until": [first]}), 0) for r in asked]
    assert harness.generate_until(stopped) == [text.partition(first)[0] for text in texts]
    assert harness.unended == sum(first not in text for text in texts)


@pytest.mark.parametrize("storage", ["bf16-true", "bf16"])
def test_a_head_in_16_bits_is_given_no_slices_of_the_prompts_which_a_cpu_would_multiply_by_a_copy_each(storage, tiny):
    base = method_cells.loaded(tiny, "base", storage)
    head, packed = base.model.get_output_embeddings(), []
    watch = head.register_forward_hook(lambda _, inputs, __: packed.append(inputs[0].is_contiguous()))
    harness = scoring.Harness(base.model, base.tokenizer, EVALUATION, PRECISIONS[storage])
    same = [Instance("generate_until", {}, ("one two ?", dict(GREEDY_KWARGS)), 0)] * 4
    harness.generate_until(same)  # finds out first whether the cache can be trusted
    packed.clear()
    harness.generate_until(same)
    watch.remove()
    assert len(packed) > 1
    assert all(packed)
    assert not head._forward_pre_hooks
    hidden = torch.randn(4, 7, head.in_features, dtype=torch.bfloat16)[:, -1:]
    weight = head.weight.detach().bfloat16()
    torch.testing.assert_close(*(torch.nn.functional.linear(x, weight) for x in (hidden, hidden.contiguous())))


def test_a_task_of_lm_eval_may_sample_or_use_beams(tiny):
    base = method_cells.loaded(tiny, "base", "fp32")
    harness = scoring.Harness(base.model, base.tokenizer, EVALUATION, PRECISIONS["fp32"])
    asked = {"until": ["Q:"], "max_gen_toks": 6, "temperature": 0.5, "do_sample": True, "num_beams": 2}
    found = harness.decoding_of(asked)
    assert found.parameters == {**decoding.GREEDY, "do_sample": True, "temperature": 0.5, "num_beams": 2}
    assert (found.stops, found.max_new_tokens, found.more, found.sampled) == (("Q:", "</s>"), 6, {}, True)
    assert not harness.decoding_of({"until": "\n", "temperature": 0.0}).sampled
    assert not harness.decoding_of({"until": "\n", "temperature": 0.9, "do_sample": False}).sampled


ASKED = {
    "contrastive search": {"penalty_alpha": 0.6, "top_k": 4},
    "group beam search": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "DoLa": {"dola_layers": "high"},
    "constrained beam search": {"force_words_ids": [[5]], "num_beams": 2},
    None: {"num_beams": 4, "do_sample": True, "penalty_alpha": 0.6},
}


@pytest.mark.parametrize("search", ASKED)
def test_a_plan_says_how_the_base_wants_answers_decoded(tiny, tmp_path, capsys, search):
    from peftbench import suite
    from peftbench.commands import plan

    folder_with(tiny, tmp_path / "own", ASKED[search])
    text = "base: ./own\nmethods: [base]\ntasks: [compute]\nevaluate: {generation: GENERATION, inference: false}\n"
    for generation_from in ("greedy", "base"):
        (tmp_path / "x.yaml").write_text(text.replace("GENERATION", generation_from))
        code = plan.plan(suite.load(tmp_path / "x.yaml"), plan.PlanOptions())
        said = " ".join(capsys.readouterr().out.split())
        refused = search is not None and generation_from == "base"
        assert code == refused
        assert (f"unsupported: evaluate.generation: base: its generation_config asks for {search}" in said) == refused
        assert ("answers are decoded as the base's generation_config asks" in said) == (generation_from == "base")
    if search:
        with pytest.raises(Unsupported, match=r"evaluate\.generation: base"):
            scored(tmp_path / "own", generation="base")
