"""What lm-eval writes becomes rows: scores with errors, examples with outcomes, and what it does not say is null."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from peftbench import cli, report
from peftbench.errors import UserError
from peftbench.report import collect
from peftbench.report.derived.significance import significance
from peftbench.results import store
from peftbench.results.imported import lm_eval, writing
from peftbench.results.watch.comparison import compare
from tests.support import lm_eval_output

GOLDEN = Path(__file__).parents[1] / "golden" / "lm_eval"
"""Made by ``python -m tests.support.lm_eval_output`` with lm-eval 0.4.13 and a real model of 260,032 parameters."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("lm_eval")
    return writing.write(lm_eval.read([GOLDEN / "whole", GOLDEN / "scores_alone"]), place)


@pytest.fixture(scope="module")
def whole(folders):
    return next(folder for folder in folders if folder.name.endswith("_whole"))


@pytest.fixture
def copied(tmp_path):
    return Path(shutil.copytree(GOLDEN / "whole", tmp_path / "whole"))


def of(folder: Path, pattern: str) -> Path:
    return sorted(folder.rglob(pattern))[0]


def test_scores_and_standard_errors_are_those_of_the_file(whole):
    rows = store.read_trials(whole).set_index("precision")
    assert set(rows["cell"]) == {"stories260K_hf fp32", "stories260K_hf bf16"}
    found = json.loads(of(GOLDEN / "whole", "results_*.json").read_bytes())
    row = rows.loc["fp32"]
    for task, metric in (("tiny_choice", "acc"), ("tiny_other", "acc"), ("tiny_sums", "exact_match")):
        kept = "strict-match" if task == "tiny_sums" else "none"
        assert row[f"score_{task}"] == found["results"][task][f"{metric},{kept}"]
        assert row[f"score_{task}_standard_error"] == found["results"][task][f"{metric}_stderr,{kept}"]
    scores = json.loads(row["scores_json"])
    assert scores["tiny_sums"]["metric"] == "exact_match,strict-match"
    assert scores["tiny_sums"]["format_failures"] == 4
    assert set(scores["tiny_sums"]["metrics"]) == {"exact_match,strict-match", "exact_match,loose"}
    assert scores["tiny_choice"]["settings"] | {"version": 1.5, "num_fewshot": 2} == scores["tiny_choice"]["settings"]
    assert (row["base_parameters"], row["device"]) == (260032, "cpu")
    unknown = ["train_seconds", "peak_train_bytes", "trainable_parameters", "learning_rate", "protocol", "memory_kind"]
    assert row[unknown].isna().all()


def test_a_group_is_kept_and_is_no_task_of_its_own(whole):
    trials = store.read_trials(whole)
    assert "score_tiny_group" not in trials
    group = json.loads(trials["scores_json"].iloc[0])["tiny_group"]
    assert group["settings"] == {"group_of": ["tiny_choice", "tiny_other"]}
    assert group["value"] == pytest.approx(
        (trials["score_tiny_choice"].iloc[0] + trials["score_tiny_other"].iloc[0]) / 2
    )


def test_examples_have_what_was_asked_answered_and_counted(whole):
    tables = store.read(whole)
    key = tables.trials.set_index("precision").loc["fp32", "key"]
    mine = tables.examples[tables.examples["key"] == key]
    choice = mine[mine["task"] == "tiny_choice"].sort_values("index")
    assert choice["index"].tolist() == list(range(8))
    assert set(choice["target"]) == {"happy", "sad"}
    assert choice["outcome"].tolist() == (choice["prediction"] == choice["target"]).astype(float).tolist()
    assert choice["prompt"].iloc[0].endswith("It was")
    assert len(json.loads(choice["choice_logprobs"].iloc[0])) == 2
    sums = mine[mine["task"] == "tiny_sums"]
    assert len(sums) == 4, "one filter's samples, not both"
    assert not sums["format_ok"].any()
    assert sums["prediction"].str.len().min() > 0
    text = mine[mine["task"] == "tiny_text"]
    assert text["outcome"].between(0, 1).all()


def test_a_perplexity_is_the_mean_probability_per_byte_and_kept_beside_it(whole):
    trials = store.read_trials(whole).set_index("precision")
    score = json.loads(trials.loc["fp32", "scores_json"])["tiny_text"]
    found = json.loads(of(GOLDEN / "whole", "results_*.json").read_bytes())["results"]["tiny_text"]
    assert score["metric"] == "probability_per_byte"
    assert score["metrics"]["word_perplexity"] == found["word_perplexity,none"]
    # texts of nearly equal length: the mean over texts is near the corpus' 2 to the power of minus bits per byte
    assert score["value"] == pytest.approx(2 ** -found["bits_per_byte,none"], rel=0.01)


def test_models_are_compared_by_the_same_examples(whole):
    found = significance(collect.collect(whole))
    assert not found.untested
    assert set(found.rankings) >= {"tiny_choice", "tiny_text"}
    text = report.table(whole, "text")
    assert "exact match (strict-match) (tiny_sums)" in " ".join(text.split())
    assert "for variation over test examples only" in text or "variation over test examples only" in text


def test_scores_without_samples_have_no_examples_and_a_perplexity_no_score(folders, whole):
    alone = next(folder for folder in folders if folder.name.endswith("_alone"))
    (night,) = lm_eval.read([GOLDEN / "scores_alone"])
    assert (night.tasks, night.unscored) == (("tiny_choice",), ("tiny_text",))
    tables = store.read(alone)
    assert not len(tables.examples)
    assert "word_perplexity,none" in json.loads(tables.trials["scores_json"].iloc[0])["tiny_text"]["metrics"]
    assert json.loads(tables.trials["settings_json"].iloc[0])["evaluation"]["limit"] == 3.0
    assert not compare(whole, alone).of("regressed"), "three examples of eight are no regression"


def test_the_command_says_which_tasks_have_no_score(tmp_path, capsys):
    assert cli.main(["import", "lm-eval", str(GOLDEN / "scores_alone"), "-o", str(tmp_path)]) == 0
    assert "tiny_text has no score" in capsys.readouterr().out


def test_a_file_of_samples_that_is_not_whole_is_refused(copied):
    path = of(copied, "samples_tiny_choice*")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:5]))
    with pytest.raises(UserError, match=r"5 samples of filter 'none', but the results are of 8: the file is not whole"):
        lm_eval.read([copied])
    path.write_text("\n".join([*lines[:7], lines[7][:40]]))
    with pytest.raises(UserError, match="line 8 is no sample of lm-eval"):
        lm_eval.read([copied])


def test_a_metric_that_is_better_when_lower_is_no_score(copied):
    for path in copied.rglob("results_*.json"):
        found = json.loads(path.read_bytes())
        found["higher_is_better"]["tiny_choice"]["acc"] = False
        path.write_text(json.dumps(found))
    (night,) = lm_eval.read([copied])
    score = next(score for score in night.results[0].scores if score.task == "tiny_choice")
    assert score.metric == "acc_norm"


def test_runs_of_one_model_task_by_task_are_one_row(copied):
    first, second = sorted(copied.rglob("results_*.json"))
    whole = json.loads(first.read_bytes())
    for path, kept in ((first, "tiny_choice"), (second, "tiny_sums")):
        found = json.loads(json.dumps(whole)) | {"groups": {}}
        found["results"] = {kept: whole["results"][kept]}
        path.write_text(json.dumps(found))
    (night,) = lm_eval.read([copied])
    (result,) = night.results
    assert {score.task for score in result.scores} == {"tiny_choice", "tiny_sums"}


def test_runs_that_differ_in_a_setting_have_names_that_say_so(copied):
    first, second = sorted(copied.rglob("results_*.json"))
    found = json.loads(first.read_bytes())
    found["config"]["fewshot_seed"] = 7
    second.write_text(json.dumps(found))
    (night,) = lm_eval.read([copied])
    assert [r.row.cell for r in night.results] == [f"stories260K_hf fp32 fewshot_seed={seed}" for seed in (1234, 7)]


def test_older_files_have_the_models_arguments_as_text(copied):
    path = sorted(copied.rglob("results_*.json"))[0]
    found = json.loads(path.read_bytes())
    found["config"]["model_args"] = "pretrained=org/base-7b,peft=me/adapter,dtype=bfloat16,revision=v2"
    del found["config"]["model_dtype"]
    path.write_text(json.dumps(found))
    (night,) = lm_eval.read([path])
    row = night.results[0].row
    assert (row.base, row.cell, row.precision) == ("base-7b", "base-7b + adapter revision=v2 bf16", "bf16")
    assert row.base_parameters is None, "the adapter's are among them"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "is no result of lm-eval: it is no JSON file"),
        ('{"results": {}}', "it has no object 'configs'"),
        ("[1]", "it is no JSON object"),
        ("[" * 100_000, "it is no JSON file"),
        ('{"results": {}, "configs": {}, "config": {}}', "its 'date' is None, not a number of seconds"),
        ('{"results": {}, "configs": {}, "config": {}, "date": NaN}', "which is no time between 1970 and 9999"),
        ('{"results": {}, "configs": {}, "config": {}, "date": 1e300}', "which is no time between 1970 and 9999"),
        ('{"results": {}, "configs": {}, "config": {"model_args": 3}, "date": 1}', "its 'model_args' are 3"),
        ('{"results": {"a": 3}, "configs": {"a": {}}, "config": {}, "date": 1}', "is no result of lm-eval"),
    ],
)
def test_another_file_is_named(tmp_path, text, says):
    path = tmp_path / "results_x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=says) as raised:
        lm_eval.read([path])
    assert str(path) in str(raised.value)


def test_a_folder_without_results_says_what_writes_them(tmp_path):
    with pytest.raises(UserError, match=r"no results of lm-eval in it .*--output_path"):
        lm_eval.read([tmp_path])


@pytest.mark.slow
def test_what_the_installed_lm_eval_writes_can_be_read(tmp_path, real_data):
    model = real_data / "models" / "stories260K_hf"
    if not model.is_dir():
        pytest.skip("no real model on this machine (set PEFTBENCH_SHARED_DATA)")
    lm_eval_output.prepare(tmp_path)
    lm_eval_output.run(tmp_path, model, "out", "--log_samples")
    (night,) = lm_eval.read([tmp_path / "out"])
    (result,) = night.results
    assert {score.task for score in result.scores} == {"tiny_choice", "tiny_other", "tiny_sums", "tiny_text"}
    assert len(result.examples) == 8 + 8 + 4 + 4
