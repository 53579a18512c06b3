"""Several results folders in one report: each has its own answer, and what does not compare is not compared."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from peftbench import report
from peftbench.commands.results import default_page
from peftbench.errors import UserError
from peftbench.report import folders, page_of_folders
from peftbench.report.collect import collect
from peftbench.report.derived.answer import answer
from peftbench.report.notes import answer as answer_notes
from peftbench.report.together import together
from tests.support.page_data import PageData
from tests.support.results_factory import make_result, store

REFERENCE = Path(__file__).parents[2] / "results" / "reference"


def results(folder, task="judge", base="nano", data="d" * 64, **row):
    """Store two cells with three seeds each."""
    settings = row.pop("settings", {}) | {"evaluate": [task], "base": {"source": base}}
    made = []
    for cell, rank, score in (("lora r=8 fp32", 8, 0.75), ("lora r=2 fp32", 2, 0.5)):
        for seed in range(3):
            one = make_result(cell, rank=rank, seed=seed, scores={task: score})
            facts = {"base": base, "data_sha256": data, "base_sha256": base * 8, "settings_json": json.dumps(settings)}
            made.append(dataclasses.replace(one, row=dataclasses.replace(one.row, **(facts | row))))
    return store(folder, *made, tasks=(task,))


def test_folders_with_the_same_data_may_be_read_side_by_side(tmp_path):
    parts = folders.read([results(tmp_path / "a"), results(tmp_path / "b")])
    first, second = folders.comparability(parts)
    assert "rows of different folders are never pooled" in first
    assert second.startswith("a and b have the same data, evaluation, device and protocol")
    assert folders.audit(parts) == {"names": ["a", "b"], "rows": []}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": "e" * 64}, "other data"),
        ({"task": "compute"}, "other tasks (judge in a, compute in b)"),
        ({"settings": {"evaluation": {"split": "validation"}}}, "other data or evaluation (evaluation.split)"),
        ({"device": "cuda"}, "other device"),
        ({"protocol": 1}, "other protocol"),
    ],
)
def test_what_does_not_compare_is_said_in_words(tmp_path, change, reason):
    one = results(tmp_path / "a", settings={"evaluation": {"split": "test"}})
    other = results(tmp_path / "b", **({"settings": {"evaluation": {"split": "test"}}} | change))
    parts = folders.read([one, other])
    assert folders.comparability(parts)[1:] == (f"a and b are not compared: {reason}.",)
    assert folders.audit(parts)["rows"]


def test_scores_of_several_base_models_stand_side_by_side_as_in_one_folder(tmp_path):
    parts = folders.read([results(tmp_path / "a"), results(tmp_path / "b", base="tiny")])
    assert folders.comparability(parts)[1].endswith("read side by side; their base models differ.")
    assert dict(folders.audit(parts)["rows"])["base.source"] == ["nano", "tiny"]


@pytest.mark.parametrize(("cut", "apart"), [(0, False), (1, True)])
def test_the_maximum_length_separates_scores_only_if_prompts_were_cut_to_it(tmp_path, cut, apart):
    made = []
    for name, length in (("a", 64), ("b", 96)):
        row = make_result().row
        scores = {task: score | {"truncated_prompts": cut} for task, score in json.loads(row.scores_json).items()}
        settings = {"evaluation": {"max_length": length}, "evaluate": ["judge"]}
        facts = {"scores_json": json.dumps(scores), "settings_json": json.dumps(settings)}
        made.append(store(tmp_path / name, make_result(**facts)))
    found = folders.differences(*folders.read(made))
    assert found == (("other data or evaluation (evaluation.max_length)",) if apart else ())


def test_folders_stand_together_where_scores_and_costs_compare(tmp_path):
    made = [
        results(tmp_path / "a"),
        results(tmp_path / "b", data="e" * 64),
        results(tmp_path / "c", base="tiny"),
        results(tmp_path / "d", threads=2),
        results(tmp_path / "e", data="e" * 64, task="compute"),
    ]
    found = together(folders.read(made))
    assert found["groups"] == [[0, 2, 3], [1], [4]]
    assert found["reasons"] == [
        "",
        "Kept separate from a: other data.",
        "Kept separate from a: other tasks (judge in a, compute in e), from b: other tasks (judge in b, compute in e).",
    ]
    assert found["apart"]["train_seconds"] == found["apart"]["decode_over_base"] == [0, 0, 0, 1, 0]
    assert found["apart"]["forgetting"] == [0, 0, 1, 0, 0]
    assert len({(style["light"], style["shape"]) for style in found["styles"]}) == 5


A100, T4 = {"name": "A100", "memory.total": "40 GiB"}, {"name": "T4", "memory.total": "15 GiB"}


@pytest.mark.parametrize(
    ("environment", "row", "times", "peaks"),
    [
        ({"cpu": "x", "gpus": [A100]}, {}, [0, 0], [0, 0]),
        ({"cpu": "x", "gpus": [T4]}, {}, [0, 1], [0, 1]),
        ({"cpu": "x", "gpus": [A100], "packages": {"torch": "3.0"}}, {}, [0, 1], [0, 0]),
        ({"cpu": "x", "gpus": [A100]}, {"workers": 4}, [0, 1], [0, 0]),
    ],
)
def test_times_and_peaks_of_other_machines_have_axes_of_their_own(tmp_path, environment, row, times, peaks):
    first = json.dumps({"cpu": "x", "gpus": [A100]})
    made = [
        results(tmp_path / "a", device="cuda", environment_json=first),
        results(tmp_path / "b", device="cuda", environment_json=json.dumps(environment), **row),
    ]
    found = together(folders.read(made))
    assert found["groups"] == [[0, 1]]
    assert found["apart"]["train_seconds"] == found["apart"]["decode_over_base"] == times
    assert found["apart"]["peak_train_bytes"] == peaks


def test_a_folder_that_fits_to_two_that_do_not_fit_is_with_the_first(tmp_path):
    unknown = results(tmp_path / "old")
    two = [results(tmp_path / name, settings={"evaluation": {"split": name}}) for name in ("test", "validation")]
    assert together(folders.read([unknown, *two]))["groups"] == [[0, 1], [2]]


def test_what_older_rows_do_not_have_is_unknown_and_not_different(tmp_path):
    parts = folders.read([results(tmp_path / "a"), results(tmp_path / "b", settings={"evaluation": {"new": 1}})])
    assert folders.differences(*parts) == ()


def test_a_training_setting_that_differs_is_in_the_audit_and_an_axis_is_not(tmp_path):
    one = results(tmp_path / "a", settings={"train": {"steps": 10}})
    other = results(tmp_path / "b", settings={"train": {"steps": 20}, "options": {"alpha": 3}}, threads=4)
    assert dict(folders.audit(folders.read([one, other]))["rows"])["train.steps"] == ["10", "20"]


def rates(folder, *rates, **options):
    """Store two cells with a learning rate each."""
    made = []
    for (cell, rank), rate in zip((("lora r=8 fp32", 8), ("lora r=2 fp32", 2)), rates, strict=True):
        one = make_result(cell, rank=rank)
        settings = {"training": {"learning_rate": rate}, "evaluate": ["judge"], "options": options}
        row = dataclasses.replace(one.row, settings_json=json.dumps(settings))
        made.append(dataclasses.replace(one, row=row))
    return store(folder, *made)


def test_settings_of_single_cells_that_differ_are_in_the_audit(tmp_path):
    first = rates(tmp_path / "a", 1e-3, 1e-4)
    for name, other in (("b", (2e-3, 5e-4)), ("c", (1e-4, 1e-3))):
        found = dict(folders.audit(folders.read([first, rates(tmp_path / name, *other)]))["rows"])
        texts = found["training.learning_rate"]
        assert "0.001 (lora r=8 fp32)" in texts[0]
        assert f"{other[0]} (lora r=8 fp32)" in texts[1]
    assert folders.audit(folders.read([first, rates(tmp_path / "same", 1e-3, 1e-4)]))["rows"] == []
    one, other = (rates(tmp_path / f"alpha{n}", 1e-3, 1e-4, alpha=n) for n in (1, 2))
    assert list(dict(folders.audit(folders.read([one, other]))["rows"])) == ["options.alpha"]


def test_many_pairs_are_counted(tmp_path):
    parts = folders.read([results(tmp_path / name, data=name * 64) for name in "abcde"])
    assert folders.comparability(parts)[-1].startswith("4 more pairs of folders")


def test_folders_of_the_same_name_are_called_by_more_of_their_path(tmp_path):
    parts = folders.read([results(tmp_path / "one" / "q"), results(tmp_path / "two" / "q")])
    assert [part.name for part in parts] == ["one/q", "two/q"]


def test_the_page_has_each_folder_and_what_is_true_of_all(tmp_path):
    parts = folders.read([results(tmp_path / "a"), results(tmp_path / "b", task="compute", base="tiny")])
    made = page_of_folders.make(parts, "x.files")
    assert made.files == {}
    found = PageData(made.text)
    assert not found.open
    shared = json.loads(made.text.partition('id="folders-data">')[2].partition("</script>")[0])
    assert [(one["name"], one["base"], one["trials"]) for one in shared["parts"]] == [
        ("a", "nano", "6 of 6"),
        ("b", "tiny", "6 of 6"),
    ]
    assert all(one["answer"] for one in shared["parts"])
    assert {"curves-0", "of-1-curves-0", "samples", "of-1-samples"} <= found.parts.keys()


def test_an_answer_that_could_not_be_computed_is_not_a_folder_without_tasks(tmp_path):
    (part,) = folders.read([results(tmp_path / "a")])
    core = {"suite": "s", "base": "b"}
    for scores in ([], [{"answer": None}], [{"answer": {"words": []}}]):
        row = page_of_folders._row(part, core | {"scores": scores})
        assert row["answer"] == "the answer could not be computed; the warnings of this folder say why"
    bare = dataclasses.replace(part, results=dataclasses.replace(part.results, tasks=()))
    assert page_of_folders._row(bare, core | {"scores": []})["answer"] == "no task is scored"


def test_tables_of_several_folders_have_the_answer_of_each(tmp_path):
    made = [results(tmp_path / "a"), results(tmp_path / "b", data="e" * 64)]
    text = report.tables_of(made, "brief")
    for folder in made:
        (sentence, *_) = answer_notes.lines(answer(collect(folder)))
        assert f"{folder.name}\n\n{sentence}" in text


def test_pages_of_folders_of_one_name_have_other_names_than_the_page_of_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = Path("a/run"), Path("b/run")
    assert default_page(one) == Path("reports/run.html")
    assert default_page(one, other) == Path("reports/a-run+b-run.html")


def test_a_page_that_is_too_large_has_files_for_every_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("peftbench.report.page.LARGEST", 0)
    parts = folders.read([results(tmp_path / "a"), results(tmp_path / "b")])
    made = page_of_folders.make(parts, "x.files")
    assert {"curves-0.js", "of-1-curves-0.js"} <= made.files.keys()
    assert made.files["of-1-samples.js"].startswith('peftbenchPart("of-1-samples",')


def test_the_command_writes_one_page_and_prints_each_table(command, tmp_path, monkeypatch):
    results(tmp_path / "a"), results(tmp_path / "b", data="e" * 64)
    monkeypatch.chdir(tmp_path)
    code, out, err = command("report", "a", "b")
    assert (code, err) == (0, "")
    assert out.startswith("a\n\n")
    assert "\nb\n\n" in out
    assert "a and b are not compared: other data." in out
    assert out.endswith("page: reports/a+b.html\n")
    assert (tmp_path / "reports" / "a+b.html").is_file()


@pytest.mark.parametrize(("format", "head"), [("text", "a\n\n"), ("md", "## a\n\n"), ("brief", "a\n\n")])
def test_tables_follow_on_each_other(command, tmp_path, format, head):
    results(tmp_path / "a"), results(tmp_path / "b")
    code, out, _ = command("report", str(tmp_path / "a"), str(tmp_path / "b"), "--format", format)
    assert code == 0
    assert out.startswith(head)
    assert "never pooled" in out
    written = tmp_path / "table"
    command("report", str(tmp_path / "a"), str(tmp_path / "b"), "--format", format, "-o", str(written))
    assert written.read_text() == out


@pytest.mark.parametrize("format", ["csv", "tex", "ranks"])
def test_a_format_of_one_table_is_refused(command, tmp_path, format):
    results(tmp_path / "a"), results(tmp_path / "b")
    code, out, err = command("report", str(tmp_path / "a"), str(tmp_path / "b"), "--format", format)
    assert (code, out) == (2, "")
    assert f"--format {format}: holds the table of one results folder, 2 are given; allowed with several: html" in err


def test_a_missing_folder_is_named(command, tmp_path):
    results(tmp_path / "quickstart")
    code, out, err = command("report", str(tmp_path / "quickstart"), str(tmp_path / "quickstrat"))
    assert (code, out) == (2, "")
    assert "did you mean" in err
    assert "quickstrat" in err


def test_an_empty_folder_is_named(command, tmp_path):
    results(tmp_path / "a")
    (tmp_path / "b" / "trials").mkdir(parents=True)
    code, _, err = command("report", str(tmp_path / "a"), str(tmp_path / "b"))
    assert (code, f"{tmp_path / 'b'} holds no results" in err) == (2, True)


def test_the_same_folder_twice_is_refused(command, tmp_path):
    folder = results(tmp_path / "a")
    (tmp_path / "link").symlink_to(folder)
    for other in (str(folder), f"{folder}/", str(tmp_path / "link")):
        code, out, err = command("report", str(folder), other)
        assert (code, out) == (2, "")
        assert "given twice" in err
    with pytest.raises(UserError, match="the same folder as"):
        folders.read([folder, tmp_path / "link"])


def test_a_page_may_not_stand_among_the_rows_of_any_folder(command, tmp_path):
    one, other = results(tmp_path / "a"), results(tmp_path / "b")
    code, _, err = command("report", str(one), str(other), "-o", str(other / "trials" / "page.html"))
    assert (code, "only results are stored there" in err) == (2, True)


def test_rows_of_an_older_schema_stand_beside_new_ones(tmp_path):
    parts = folders.read([REFERENCE / "quickstart", REFERENCE / "quickstart_avx2"])
    (reason,) = folders.comparability(parts)[1:]
    assert reason.startswith("quickstart and quickstart_avx2 are not compared: other protocol.")
    assert dict(folders.audit(parts)["rows"])["schema of the rows"] == ["2", "1"]


def test_the_reference_results_of_other_data_are_not_compared():
    parts = folders.read([REFERENCE / name for name in ("quickstart", "quickstart_again", "peft_zoo")])
    first, second, third = folders.comparability(parts)[1:]
    assert (
        "quickstart and quickstart_again are not compared: other data or evaluation (tasks.describe.test_seed" in first
    )
    assert "other tasks (describe, compute and judge in quickstart, compute and judge in peft_zoo)" in second
    assert "quickstart_again and peft_zoo" in third


def test_a_copy_of_a_folder_is_another_folder(tmp_path):
    shutil.copytree(results(tmp_path / "a"), tmp_path / "copy")
    parts = folders.read([tmp_path / "a", tmp_path / "copy"])
    assert folders.differences(*parts) == ()
