"""Another engine: its process and protocol, what it is asked for, what it does not serve, what each failure says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from peftbench.errors import Unsupported, UserError
from peftbench.evaluation import scoring
from peftbench.evaluation.engine import client
from peftbench.evaluation.engine.harness import EngineHarness
from peftbench.evaluation.likelihood import Text
from peftbench.evaluation.lm_eval_model import Harness
from peftbench.methods import METHODS, deployed_forms, engines, method_of
from peftbench.models.precision import PRECISIONS
from peftbench.records import Evaluation, Example, Task
from peftbench.runner.executor import lifeline
from peftbench.runner.preflight import engines as preflight
from tests.support import engines as stand_ins
from tests.support import method_cells, trials
from tests.support.trials import run

NAME = client.PYTHON["vllm"]
VLLM = ("vllm_adapter", "vllm_merged")


@pytest.fixture(autouse=True)
def no_engine(monkeypatch):
    monkeypatch.delenv(NAME, raising=False)


def asked(folder: Path) -> client.Asked:
    return client.Asked(folder, None, None, (), "float32", 50, "cpu", None, 1, False)


def found(result, form: str) -> dict:
    return json.loads(result.row.deployed_json)["forms"][form]


@pytest.fixture(scope="module")
def scored(tiny, tmp_path_factory):
    """A trial whose forms an engine in this process scored, what it was asked, and what the trained model was."""
    place, made, ours = tmp_path_factory.mktemp("engine"), [], {"texts": [], "prompts": []}
    whole, batch = Harness.log_probabilities, Harness.tok_batch_encode

    def start(_, what, scratch):
        made.append(stand_ins.Plain(what))
        return made[-1]

    def score(harness, texts):
        ours["texts"] += [(text.ids[: text.start], text.ids[text.start :]) for text in texts] if not made else []
        return whole(harness, texts)

    def encode(harness, strings, **how):
        ids, mask = batch(harness, strings, **how)
        ours["prompts"] += ids.tolist() if how and not made else []  # one without a limit is not decoded
        return ids, mask

    tried = trials.trial(tiny, place, deployed=(*VLLM, "vllm_as_lora_4"), evaluate=EVALUATED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(NAME, sys.executable)
        patch.setattr(client, "start", start)
        patch.setattr(Harness, "log_probabilities", score)
        patch.setattr(Harness, "tok_batch_encode", encode)
        result = run(tried, place)
    return result, made, ours


EVALUATED = ("colour", "colour_text", "colour_line")


def test_the_engine_scores_what_is_scored_here(scored):
    result, *_ = scored
    ours = {score.task: score.value for score in result.scores}
    for name in (*VLLM, "vllm_as_lora_4"):
        form = found(result, name)
        assert form["status"] == "ok", form
        assert form["beside"]["largest_logprob_difference"] < 1e-3
        assert form["beside"]["logprobs"] == 3 * 8 + 3 * 8  # three choices of eight examples, and eight targets a task
        assert form["beside"]["texts"] == form["beside"]["equal_texts"] == 2 * 8
        assert {task: each["score"] for task, each in form["tasks"].items()} == ours
        assert form["tasks"]["colour"]["nats"] == pytest.approx(
            json.loads(result.row.deployed_json)["scored"]["tasks"]["colour"]["nats"], abs=1e-3
        )
        assert form["loaded_bytes"] is form["largest_logit_difference"] is None


def test_the_row_says_which_engine_scored_and_with_which_torch(scored):
    result, *_ = scored
    engine = {"engine": "vllm", **stand_ins.VERSIONS}
    assert found(result, "vllm_merged")["engine"] == engine
    assert json.loads(result.row.environment_json)["engine"] == engine
    assert os.sep not in json.dumps(engine)


def test_it_is_handed_the_tokens_that_are_scored_here(scored, tiny):
    _, made, ours = scored
    adapter, merged, converted = made
    assert adapter.pairs == merged.pairs == converted.pairs
    assert adapter.prompts == merged.prompts
    assert adapter.asked.adapter is not None
    assert merged.asked.adapter is None
    assert adapter.asked.folder == tiny
    assert (adapter.asked.rank, converted.asked.rank) == (4, 4)
    assert set(adapter.asked.modules) >= {"q_proj", "down_proj"}
    assert ours["texts"] == adapter.pairs[-len(ours["texts"]) :]
    assert len(ours["texts"]) == 3 * 8
    assert set(map(tuple, ours["prompts"])) == set(map(tuple, adapter.prompts))
    assert len(adapter.prompts) == 2 * 8


def test_long_texts_are_scored_in_the_windows_in_which_they_are_here(tiny):
    loaded, precision = method_cells.loaded(tiny, "base", "fp32"), PRECISIONS["fp32"]
    evaluation, task = Evaluation(4, 16, "test"), Task("text", "language_modelling")
    examples = {"text": [Example("", "the colour of the sky is blue " * 9), Example("", "grass"), Example("", "red")]}
    engine = stand_ins.Plain(asked(tiny))
    served = EngineHarness(engine, tiny, 18, loaded.tokenizer, evaluation, precision)
    plain = Harness(loaded.model, loaded.tokenizer, evaluation, precision)
    (ours,), rows = scoring.evaluate(plain, [task], examples)
    (theirs,), others = scoring.evaluate(served, [task], examples)
    assert theirs.value == pytest.approx(ours.value, rel=1e-5)
    for one, other in zip(rows, others, strict=True):
        assert json.loads(other.choice_logprobs) == pytest.approx(json.loads(one.choice_logprobs), rel=1e-5)
    assert max(len(context) + len(text) for context, text in engine.pairs) == 17
    given = [(("a", "b"), [5, 6], [7, 8]), (None, [5], [9])]  # as lm-eval's own tasks ask
    expected = [answer[0] for answer in plain._loglikelihood_tokens(given)]
    assert [answer[0] for answer in served._loglikelihood_tokens(given)] == pytest.approx(expected, rel=1e-5)


def test_a_text_that_is_too_long_is_cut_as_here_and_one_without_room_for_a_decoded_token_is_refused():
    harness = object.__new__(EngineHarness)
    harness._max_length, harness.longest, asked_for = 5, 7, []
    harness.engine = SimpleNamespace(name="vllm", score=lambda pairs: asked_for.extend(pairs) or [(-1.0, True)])
    long = Text(tuple(range(1, 11)), 8)
    assert harness.log_probabilities([long]) == [(-1.0, True)]
    assert asked_for == [((5, 6, 7, 8), (9, 10))]
    harness.longest = 6
    with pytest.raises(Unsupported, match="with it one has 7 tokens, more than the base model's 6 positions"):
        harness.log_probabilities([long])


def test_the_protocol_carries_tokens_and_answers(tmp_path, monkeypatch):
    monkeypatch.setenv(NAME, str(stand_ins.interpreter(tmp_path, "answers")))
    with client.start("vllm", asked(tmp_path), tmp_path) as engine:
        assert engine.versions == stand_ins.VERSIONS
        assert engine.score([((1, 2), (3, 4)), ((5,), (5,))]) == [(-2.0, False), (-1.0, True)]
        assert engine.generate([[1, 2, 3]], 4, [0], ["\n"]) == [[3, 2, 1]]
        assert engine.process.poll() is None
    assert engine.process.poll() == 0


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("ends", "vllm: its process ended before it answered, with code 3: no space is left for the cache"),
        ("is killed", "vllm: its process ended before it answered, killed, as by the kernel when memory runs out"),
        ("lacks vllm", f"vllm cannot be imported by the Python that {NAME} names: ModuleNotFoundError: No module"),
        ("fails", "vllm: RuntimeError: out of something in"),
        ("babbles", "vllm: its process did not answer in the protocol: 'INFO: hello"),
    ],
)
def test_a_process_that_fails_says_how(what, words, tmp_path, monkeypatch):
    monkeypatch.setenv(NAME, str(stand_ins.interpreter(tmp_path, what)))
    with pytest.raises(client.EngineFailed) as error:
        client.start("vllm", asked(tmp_path), tmp_path)
    assert words in str(error.value)


def test_a_refusal_of_the_engine_is_unsupported_and_a_missing_answer_a_failure(tmp_path, monkeypatch):
    monkeypatch.setenv(NAME, str(stand_ins.interpreter(tmp_path / "a", "refuses")))
    with pytest.raises(Unsupported, match=r"^vllm: XForCausalLM does not support LoRA yet\. more$"):
        client.start("vllm", asked(tmp_path), tmp_path)
    monkeypatch.setenv(NAME, str(stand_ins.interpreter(tmp_path / "b", "misses one")))
    with (
        client.start("vllm", asked(tmp_path), tmp_path) as engine,
        pytest.raises(client.EngineFailed, match="answered 1 of 2 requests"),
    ):
        engine.score([((1,), (2,)), ((1,), (3,))])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, f"{NAME} is not set"),
        ("/nowhere/python", "names no program that can be run"),
        ("ends", "no space is left"),
    ],
)
def test_a_failure_is_the_forms_and_the_trial_keeps_its_scores(given, words, tiny, tmp_path, monkeypatch):
    if given:
        path = stand_ins.interpreter(tmp_path / "bin", given) if given in stand_ins.INTERPRETERS else given
        monkeypatch.setenv(NAME, str(path))
    result = run(trials.trial(tiny, tmp_path, deployed=("vllm_merged", "merged")), tmp_path)
    assert result.row.status == "ok"
    assert len(result.scores) == 2
    form = found(result, "vllm_merged")
    assert form["status"] == "error"
    assert words in form["message"]
    assert "tasks" not in form
    assert str(tmp_path) not in result.row.deployed_json
    assert found(result, "merged")["status"] == "ok"
    assert "engine" not in json.loads(result.row.environment_json)


def test_a_text_that_leaves_no_place_for_one_more_token_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv(NAME, sys.executable)
    monkeypatch.setattr(client, "start", lambda _, what, __: stand_ins.Plain(what))
    monkeypatch.setattr("peftbench.methods.context_length.remaining", lambda *_: 6)
    made = trials.trial(tiny, tmp_path, deployed=("vllm_merged",))
    monkeypatch.setattr("peftbench.methods.context_length.check", lambda *_: None)
    form = found(run(made, tmp_path), "vllm_merged")
    assert form["status"] == "unsupported"
    assert "more than the base model's 6 positions; give a smaller evaluate.max_length" in form["message"]


@pytest.mark.parametrize("name", [n for n, method in METHODS.own.items() if method.trains and n != "peft"])
def test_what_vllm_does_not_serve_is_refused_with_a_way_out(name, tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, name, METHODS[name].default_precision, deployed=VLLM)
    absent = deployed_forms.missing(made)
    known = {"lora": set(), "full": {"vllm_adapter"}, "qlora": {"vllm_adapter"}}
    assert set(absent) == known.get(name, set(VLLM))
    if "vllm_adapter" in absent:
        assert "give vllm_merged" in absent["vllm_adapter"] or "only peftbench's own scores" in absent["vllm_adapter"]


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("lora", {"dora": True}, "vllm has no DoRA"),
        ("lora", {"rank_pattern": {"q_proj": 2}}, "ranks and alphas of single modules"),
        ("lora", {"experts": "shared"}, "target_parameters"),
        ("peft", {"peft_type": "LOHA", "r": 4}, "give vllm_merged or vllm_as_lora_8"),
        ("peft", {"peft_type": "LORA", "r": 4, "modules_to_save": ["lm_head"]}, "modules_to_save"),
        ("peft", {"peft_type": "LORA", "r": 4, "init_lora_weights": "pissa"}, None),
        ("lora", {"initialization": "pissa"}, None),
        ("lora", {"rslora": True}, None),
    ],
)
def test_a_lora_that_vllm_would_compute_otherwise_is_refused(method, options, words):
    reason = deployed_forms.why_not(method_of(method, options), options, PRECISIONS["fp32"], "vllm_adapter")
    assert reason is None if words is None else words in str(reason)


def test_quantized_bases_are_served_merged():
    lora = METHODS["lora"]
    for form in ("vllm_adapter", "vllm_as_lora_8"):
        reason = deployed_forms.why_not(lora, {}, PRECISIONS["nf4"], form)
        assert "give vllm_merged, or for the quantized weights in 16 bits vllm_merged_dequantized" in str(reason)
    assert deployed_forms.why_not(lora, {}, PRECISIONS["nf4"], "vllm_merged_dequantized") is None
    assert "not quantized" in str(deployed_forms.why_not(lora, {}, PRECISIONS["bf16"], "vllm_merged_dequantized"))


def test_an_adapter_of_the_head_is_refused_when_it_is_saved():
    assert "vllm-project/vllm#51594" in str(engines.why_not_modules(["q_proj", "lm_head"]))
    assert engines.why_not_modules(["q_proj", "down_proj"]) is None


def test_the_saved_configuration_decides_too(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv(NAME, sys.executable)
    seen = []
    monkeypatch.setattr(engines, "why_not_lora", lambda config: seen.append(config) or "of a new field")
    made = trials.trial(tiny, tmp_path, deployed=("vllm_as_lora_2",))
    form = found(run(made, tmp_path), "vllm_as_lora_2")
    assert (form["status"], form["message"]) == ("unsupported", "of a new field")
    assert (seen[-1]["r"], seen[-1]["peft_type"]) == (2, "LORA")


def test_a_field_that_is_not_known_is_refused():
    assert "a LoRA with new_field is not known to be the same in vllm" in str(engines.why_not_lora({"new_field": 3}))
    assert engines.why_not_lora({"new_field": None, "r": 4, "bias": "none"}) is None


def test_only_greedy_decoding_is_asked_for(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, deployed=("merged", "vllm_merged"))
    beams = replace(made, tasks=tuple(replace(task, num_beams=2) for task in made.tasks))
    assert deployed_forms.missing(beams) == {
        "vllm_merged": "another engine is asked for greedy decoding alone; task 'colour' has num_beams"
    }
    sampled = replace(made, evaluation=replace(made.evaluation, generation="base"))
    assert "evaluate.generation is base" in deployed_forms.missing(sampled)["vllm_merged"]


def test_a_run_says_before_it_begins_that_the_engine_is_not_there(tiny, tmp_path, monkeypatch):
    made = [trials.trial(tiny, tmp_path, deployed=("vllm_merged",))]
    with pytest.raises(UserError, match=f"forms that vllm scores: {NAME} is not set; set it to the Python of"):
        preflight.check(made)
    monkeypatch.setenv(NAME, sys.executable)
    with pytest.raises(UserError, match=f"the Python that {NAME} names has no vllm$"):
        preflight.check(made)
    monkeypatch.setenv(NAME, str(stand_ins.interpreter(tmp_path, "ends")))
    with pytest.raises(UserError, match="is no Python: it ended with code 3"):
        preflight.check(made)
    preflight.check([trials.trial(tiny, tmp_path, "prefix_tuning", deployed=("vllm_merged",))])
    preflight.check([trials.trial(tiny, tmp_path, deployed=("merged",))])


def test_the_engines_script_imports_nothing_of_peftbench():
    text = client._SCRIPT.read_text()
    assert "import peftbench" not in text
    assert "from peftbench" not in text


def printed(engine: client.Engine) -> list[dict]:
    """What the stand-in for vllm has printed as JSON."""
    return [json.loads(line) for line in engine.printed.read_text().splitlines() if line.startswith('{"')]


def test_the_script_hands_tokens_to_lm_evals_backend_and_keeps_what_is_printed_apart(tmp_path, monkeypatch):
    monkeypatch.setenv(NAME, str(stand_ins.environment(tmp_path)))
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    with client.start("vllm", asked(tmp_path / "model"), tmp_path) as engine:
        assert engine.versions["vllm"] == "0.1+stub"
        assert engine.versions["torch"] == "2.0+stub"
        assert engine.versions["lm_eval"] == "0.4.stub"
        assert engine.score([((1,), (2, 3)), ((4,), (4,))]) == [(-5.0, False), (-4.0, True)]
        assert engine.generate([[1, 2, 3]], 4, [0, 7], ["\n"]) == [[3, 2, 1]]
    given, how = printed(engine)
    assert (given["pretrained"], given["max_model_len"]) == (str(tmp_path / "model"), 50)
    assert "lora_local_path" not in given
    assert (given["environment"]["VLLM_CPU_KVCACHE_SPACE"], given["environment"]["OMP_NUM_THREADS"]) == ("3", "1")
    assert "PYTHONPATH" not in given["environment"]
    assert (how["temperature"], how["max_tokens"], how["stop"], how["stop_token_ids"]) == (0.0, 4, ["\n"], [0, 7])


def test_the_script_loads_an_adapter_at_a_rank_that_vllm_has_on_its_modules_alone(tmp_path, monkeypatch):
    monkeypatch.setenv(NAME, str(stand_ins.environment(tmp_path)))
    lora = replace(asked(tmp_path), adapter=tmp_path / "lora", rank=20, modules=("q_proj", "v_proj"))
    with client.start("vllm", lora, tmp_path) as engine:
        given = printed(engine)[0]
    assert (given["lora_local_path"], given["max_lora_rank"]) == (str(tmp_path / "lora"), 32)
    assert given["lora_target_modules"] == ["q_proj", "v_proj"]
    with pytest.raises(Unsupported, match="an adapter of rank 600 is not supported: vllm allows at most 512"):
        client.start("vllm", replace(lora, rank=600), tmp_path)


def test_a_python_without_vllm_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv(NAME, sys.executable)
    with pytest.raises(client.EngineFailed, match=r"vllm cannot be imported by .*: No module named 'vllm'"):
        client.start("vllm", asked(tmp_path), tmp_path)


def test_the_engine_dies_with_the_trial_that_started_it(tmp_path, monkeypatch):
    monkeypatch.setenv(NAME, str(stand_ins.environment(tmp_path)))
    code = f"""
from pathlib import Path
from peftbench.evaluation import scoring
from peftbench.evaluation.engine import client
from peftbench.evaluation.engine.harness import EngineHarness
place = Path({str(tmp_path)!r})
asked = client.Asked(place, None, None, (), "float32", 50, "cpu", None, 1, False)
engine = client.start("vllm", asked, place)
print(engine.process.pid, flush=True)
engine.score([((99,), (1,))])
"""
    trial = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    engine = int(trial.stdout.readline())
    assert lifeline.alive(engine)
    trial.kill()
    trial.wait()
    trial.stdout.close()
    for _ in range(200):
        if not lifeline.alive(engine):
            break
        time.sleep(0.05)
    assert not lifeline.alive(engine)
