"""Files of lm-eval as people have them: of several dates and commits, of models of one name, damaged or incomplete."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from peftbench import report
from peftbench.errors import UserError
from peftbench.report import answer
from peftbench.report.collect import collect
from peftbench.results import store
from peftbench.results.answer.decision import Question
from peftbench.results.imported import lm_eval, writing
from tests.results.test_imported_lm_eval import GOLDEN, of


@pytest.fixture
def one(tmp_path):
    """A folder with a single run and its samples."""
    folder = tmp_path / "one"
    source = of(GOLDEN / "whole", "results_*00.198275.json")
    folder.mkdir()
    for path in source.parent.glob("*00.198275*"):
        shutil.copy(path, folder)
    return folder


def results_of(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = of(folder, "results_*.json")
    return path, json.loads(path.read_bytes())


def add(folder: Path, stamp: str, **changes: Any) -> None:
    """Write another results file beside the first, without samples."""
    path, found = results_of(folder)
    found = {**found, **changes}
    path.with_name(f"results_{stamp}.json").write_text(json.dumps(found))


def cells_and_keys(folder: Path) -> tuple[list[str], list[str]]:
    (night,) = lm_eval.read([folder])
    return [r.row.cell for r in night.results], [r.row.key for r in night.results]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"git_hash": "abcdef0"}, "commit=abcdef0"),
        ({"date": 1796000000.0}, "date=2026-11-30T00:53:20"),
        ({"n-shot": {"tiny_choice": 5, "tiny_other": 0, "tiny_sums": 0, "tiny_text": 0}}, "tiny_choice_shots=5"),
        ({"lm_eval_version": "0.4.9"}, "lm_eval=0.4.9"),
        ({"results": {"tiny_choice": {"acc,none": 0.25}}}, "file="),
    ],
    ids=["commit", "date", "shots", "version", "scores"],
)
def test_two_runs_of_a_model_are_two_rows_with_names_that_differ(one, tmp_path, changes, word):
    add(one, "2026-11-30T00-00-00.000001", **changes)
    names, keys = cells_and_keys(one)
    assert len(set(names)) == len(set(keys)) == 2
    assert any(word in name for name in names), names
    (folder,) = writing.write(lm_eval.read([one]), tmp_path / "out")
    assert len(collect(folder).cells) == len(store.read_trials(folder)) == 2
    assert all(name in " ".join(report.table(folder, "csv").split()) for name in names)


def test_the_same_files_give_the_same_keys_wherever_they_are_and_copies_count_once(one, tmp_path):
    moved = Path(shutil.copytree(one, tmp_path / "elsewhere" / "deeper"))
    (name,), (key,) = cells_and_keys(one)
    assert cells_and_keys(moved) == ([name], [key])
    shutil.copytree(one, one / "backup")
    assert cells_and_keys(one) == ([name], [key])


def test_a_copy_without_samples_does_not_take_the_place_of_the_one_that_has_them(one):
    for place in ("a_copy", "z_copy"):  # before and behind the other in the order of their names
        (one.parent / place).mkdir()
        shutil.copy(of(one, "results_*.json"), one.parent / place)
    (night,) = lm_eval.read([one.parent])
    assert [len(result.examples) for result in night.results] == [24]


def test_a_name_says_each_thing_once_and_of_a_tokenizer_no_folder(one):
    path, found = results_of(one)
    for given, name in (
        ({"model": "gpt-x", "num_concurrent": 4}, "gpt-x num_concurrent=4 fp32"),
        ({"pretrained": "org/a", "tokenizer": "/home/me/mine"}, "a tokenizer=mine fp32"),
        ({"pretrained": "org/a", "tokenizer": "org/a"}, "a fp32"),
    ):
        found["config"]["model_args"] = given
        path.write_text(json.dumps(found))
        assert cells_and_keys(one)[0] == [name]


def test_models_of_one_name_in_different_folders_are_told_apart(one):
    path, found = results_of(one)
    for place in ("a/checkpoint-500", "b/checkpoint-500", "b/checkpoint-900"):
        found["config"]["model_args"] = {"pretrained": "org/base", "peft": f"/home/me/runs/{place}"}
        path.with_name(f"results_{place.replace('/', '-')}.json").write_text(json.dumps(found))
    path.unlink()
    names, _ = cells_and_keys(one)
    assert names == [
        "org/base + a/checkpoint-500 fp32",
        "org/base + b/checkpoint-500 fp32",
        "base + checkpoint-900 fp32",
    ]


def test_no_path_of_a_machine_is_in_a_name(one):
    path, found = results_of(one)
    found["config"]["use_cache"] = "/home/me/cache"
    found["config"]["model_args"] = "pretrained=C:\\models\\mine"
    path.with_name("results_2.json").write_text(json.dumps(found))
    found["config"]["use_cache"] = "/home/me/other"
    path.with_name("results_3.json").write_text(json.dumps(found))
    path.unlink()
    names, _ = cells_and_keys(one)
    assert all(name.startswith("mine fp32 file=") for name in names)


def test_a_results_file_that_output_path_names_has_its_samples(one):
    path, _ = results_of(one)
    path.rename(path.with_name(path.name.replace("results_", "mine_")))
    for given in (one, of(one, "mine_*.json")):
        (night,) = lm_eval.read([given])
        assert len(night.results[0].examples) == 24


@pytest.mark.parametrize(
    ("name", "value", "score"),
    [
        ("bleu", 0.7, None),
        ("rouge1_max", 0.4, None),
        ("brier_score", 0.3, None),
        ("mcc", -0.2, -0.2),
        ("pass@1", 0.5, 0.5),
    ],
)
def test_a_score_is_never_a_number_of_unknown_unit_or_direction(one, name, value, score):
    path, found = results_of(one)
    found |= {"results": {"t": {f"{name},none": value}}, "configs": {"t": {"output_type": "generate_until"}}}
    path.write_text(json.dumps({**found, "groups": {}, "higher_is_better": {}}))
    (night,) = lm_eval.read([path])
    assert [each.value for each in night.results[0].scores] == ([] if score is None else [score])
    assert json.loads(night.results[0].row.scores_json)["t"]["metrics"] == {
        f"{name},none" if score is None else name: value
    }


def test_the_f1_of_squad_is_of_a_hundred(one):
    path, found = results_of(one)
    found |= {"results": {"t": {"exact,none": 0.0, "f1,none": 0.9}}, "configs": {"t": {}}, "groups": {}}
    path.write_text(json.dumps(found))
    assert lm_eval.read([path])[0].unscored == ("t",)


def changed(path: Path, change: Any) -> None:
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(f"{json.dumps(each)}\n" for each in change(samples)))


@pytest.mark.parametrize(
    ("task", "change", "says"),
    [
        ("tiny_sums", lambda s: [x for x in s if x["filter"] == "loose"], "no samples of filter 'strict-match'"),
        ("tiny_choice", lambda s: [*s[:-1], s[0]], "has the document 0 more than once"),
        ("tiny_choice", lambda s: [], "0 samples of filter 'none', but the results are of 8"),
        ("tiny_choice", lambda s: [{**x, "acc": 0.0} for x in s], "the mean acc of its samples is 0, that of the"),
        ("tiny_choice", lambda s: [{**x, "acc": float("nan")} for x in s], "the mean acc of its samples is nan"),
        ("tiny_choice", lambda s: [{k: v for k, v in x.items() if k != "filtered_resps"} for x in s], "KeyError"),
    ],
)
def test_samples_that_are_not_those_of_the_score_are_refused_by_the_name_of_their_file(one, task, change, says):
    path = of(one, f"samples_{task}*")
    changed(path, change)
    with pytest.raises(UserError, match=says) as raised:
        lm_eval.read([one])
    assert str(path) in str(raised.value)


def test_samples_in_another_order_with_blank_lines_are_the_same(one):
    (before,) = lm_eval.read([one])
    for path in one.glob("samples_*"):
        changed(path, lambda samples: samples[::-1])
        path.write_text(path.read_text() + "\n\n")
    (after,) = lm_eval.read([one])
    assert after == before


def test_a_file_of_samples_that_is_no_text_is_named(one):
    path = of(one, "samples_tiny_choice*")
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match="cannot be read") as raised:
        lm_eval.read([one])
    assert str(path) in str(raised.value)


def test_a_score_that_is_no_mean_of_outcomes_has_no_examples(one):
    path, found = results_of(one)
    found["results"]["tiny_choice"]["acc,none"] = 0.9
    found["configs"]["tiny_choice"]["metric_list"][0]["aggregation"] = "median"
    path.write_text(json.dumps(found))
    (result,) = lm_eval.read([one])[0].results
    assert {score.task: score.value for score in result.scores}["tiny_choice"] == 0.9
    assert not [each for each in result.examples if each.task == "tiny_choice"]


def test_older_files_say_the_direction_in_the_task_and_the_number_of_examples_beside_the_score(one):
    path, found = results_of(one)
    for name in ("higher_is_better", "n-samples"):
        del found[name]
    found["configs"]["tiny_choice"]["metric_list"][0]["higher_is_better"] = False
    path.write_text(json.dumps(found))
    (result,) = lm_eval.read([path])[0].results
    scores = {score.task: score for score in result.scores}
    assert (scores["tiny_choice"].metric, scores["tiny_choice"].examples) == ("acc_norm", 8)


def test_a_results_file_that_is_wrong_is_named_and_not_its_samples(one):
    path, found = results_of(one)
    path.write_text(json.dumps({**found, "higher_is_better": {"tiny_choice": "yes"}}))
    with pytest.raises(UserError) as raised:
        lm_eval.read([one])
    assert str(raised.value).startswith(f"{path} is no result of lm-eval")
    path.write_text(json.dumps({**found, "higher_is_better": None}))
    assert lm_eval.read([one])[0].results[0].scores, "as in older files, which do not say it"


def test_what_a_model_wrote_is_no_html_of_the_page(one, tmp_path):
    def evil(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**each, "resps": [["<script>alert(1)</script>"]]} for each in samples]

    changed(of(one, "samples_tiny_sums*"), evil)
    path, found = results_of(one)
    found["config"]["model_args"]["pretrained"] = "</script><img src=x onerror=alert(2)>"
    path.write_text(json.dumps(found))
    (folder,) = writing.write(lm_eval.read([one]), tmp_path / "out")
    page, _ = report.publish(folder, tmp_path / "page.html", "html")
    text = page.read_text()
    assert "<script>alert(1)" not in text
    assert "<img src=x" not in text


def test_no_advice_is_given_that_would_be_for_runs_of_our_own(one, tmp_path):
    (folder,) = writing.write(lm_eval.read([one]), tmp_path / "out")
    said = " ".join(answer.text(collect(folder), Question()).split()) + report.table(folder, "brief")
    assert "tiny_sums: every cell scores 0, so nothing is compared." in said
    assert "No answer: no cell has more than one finished seed" in said
    assert "more steps" not in said
    assert "seeds are needed" not in said
