"""The peer's result files as people have them: renamed, copied, damaged, of another benchmark, of several months."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peftbench import cli, report
from peftbench.errors import UserError
from peftbench.results import store
from peftbench.results.imported import hf_method_comparison, writing

STEM = "lora--llama-3.2-3B-a"


def document(**changes: Any) -> dict[str, Any]:
    """Return a small result file; a name like ``train_info.status`` changes a value in it."""
    intervals = [
        {"step": 50 * i, "train loss": 1.0 / i, "train time": 5.0, "tokens / sec": 100.0, "valid accuracy": 0.5}
        for i in (1, 2)
    ]
    last = {"step": 100, "test accuracy": 660 / 1319, "train samples": 400, "train total tokens": 1000}
    made: dict[str, Any] = {
        "run_info": {
            "created_at": "2026-07-14T10:00:00+00:00",
            "experiment_name": STEM.replace("--", "/"),
            "error_msg": "",
            "peft_config": {"peft_type": "LORA", "r": 8},
            "train_config": {"model_id": "meta-llama/Llama-3.2-3B", "dtype": "bfloat16", "max_steps": 100},
        },
        "train_info": {
            "accelerator_memory_max": 2 * 10**10,
            "train_time": 14.0,
            "file_size": 1000,
            "num_trainable_params": 10,
            "status": "success",
            "metrics": [*intervals, last],
        },
        "meta_info": {
            "dataset_info": {"metamath": {"sha": "a"}, "gsm8k": {"sha": "b"}},
            "package_info": {"torch-version": "2.13.0"},
            "system_info": {"system": "Linux", "release": "6", "accelerator": "NVIDIA L40S"},
        },
    }
    for name, value in changes.items():
        *outer, inner = name.split(".")
        place = made
        for key in outer:
            place = place[key]
        place[inner] = value
    return made


def write(folder: Path, name: str = f"{STEM}.json", **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(document(**changes)))
    return folder / name


def row(path: Path) -> Any:
    (night,) = hf_method_comparison.read([path])
    (result,) = night.results
    return result.row


def test_a_key_is_made_of_the_files_content_alone(tmp_path):
    one = row(write(tmp_path / "a"))
    again = row(write(tmp_path / "b", "copy (1).json"))
    assert (again.key, again.cell, again.method) == (one.key, one.cell, one.method) == (one.key, "lora a", "lora")
    other = row(write(tmp_path / "c", **{"train_info.accelerator_memory_max": 3 * 10**10}))
    assert other.cell == one.cell
    assert other.key != one.key


def test_a_copy_counts_once_and_two_runs_of_an_experiment_are_no_night(tmp_path):
    first, copy = write(tmp_path / "a"), write(tmp_path / "b")
    (night,) = hf_method_comparison.read([first, copy])
    assert len(night.results) == 1
    later = write(tmp_path / "c", **{"run_info.created_at": "2026-08-01T00:00:00+00:00"})
    with pytest.raises(UserError, match=r"2 runs of one night are of the experiment 'lora a': give the files of each"):
        hf_method_comparison.read([first, later])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"run_info.created_at": "../../x"}, "the run's date is '../../x'"),
        ({"run_info.created_at": "2026-13-01T10:00:00"}, "the run's date is '2026-13-01T10:00:00'"),
        ({"train_info.metrics": []}, "status is success, but it has no test accuracy"),
        ({"train_info.accelerator_memory_max": "22 GB"}, "accelerator_memory_max is '22 GB', not a number from 0"),
        ({"train_info.num_trainable_params": -1}, "num_trainable_params is -1, not a number from 0"),
        ({"train_info.train_time": True}, "train_time is True, not a number"),
        ({"run_info.peft_config": {"r": [8]}}, r"r is \[8\], not a number"),
        ({"meta_info": None}, "NoneType"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_file(tmp_path, changes, says):
    path = write(tmp_path, **changes)
    with pytest.raises(UserError, match=says) as raised:
        hf_method_comparison.read([path])
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no JSON file"),
        ('{"run_info": {', "no JSON file"),
        ("[" * 100_000, "no JSON file"),
        ("[1]", "method_comparison"),
        ('{"run_info": {}, "train_info": {}}', "it lacks 'meta_info'"),
    ],
)
def test_another_file_is_named(tmp_path, text, says):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=says) as raised:
        hf_method_comparison.read([tmp_path])
    assert str(path) in str(raised.value)


def test_numbers_that_were_not_measured_are_null_and_a_loss_that_is_none_stays(tmp_path):
    made = document(**{"train_info.accelerator_memory_max": float("nan"), "train_info.train_time": float("inf")})
    made["train_info"]["metrics"][1]["train loss"] = float("nan")
    path = tmp_path / f"{STEM}.json"
    path.write_text(json.dumps(made))
    found = row(path)
    assert (found.peak_run_reserved_bytes, found.not_training_seconds, found.train_seconds) == (None, None, 10.0)
    (folder,) = writing.write(hf_method_comparison.read([path]), tmp_path / "out")
    assert store.read(folder).steps["loss"].isna().tolist() == [False, True]
    assert "lora a" in report.table(folder, "csv")


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_sum_of_times_of_which_one_is_unknown_is_unknown(tmp_path, value):
    made = document()
    first, second, *_ = made["train_info"]["metrics"]
    assert row(write(tmp_path / "whole")).train_seconds == first["train time"] + second["train time"]
    second["train time"] = value
    path = tmp_path / f"{STEM}.json"
    path.write_text(json.dumps(made))
    found = row(path)
    assert (found.train_seconds, found.not_training_seconds) == (None, None)


def test_an_adapter_that_is_left_in_16_bits_is_not_said_to_be_in_fp32(tmp_path):
    assert row(write(tmp_path / "a")).precision == "bf16"
    assert (
        row(write(tmp_path / "b", **{"run_info.train_config.autocast_adapter_dtype": False})).precision == "bf16-true"
    )


def test_a_folder_that_exists_leaves_no_night_half_imported(tmp_path, capsys):
    write(tmp_path / "july")
    write(tmp_path / "june", **{"run_info.created_at": "2026-06-01T00:00:00+00:00"})
    out = tmp_path / "out"
    given = ["import", "hf-method-comparison", str(tmp_path / "june"), str(tmp_path / "july"), "-o", str(out)]
    assert cli.main(["import", "hf-method-comparison", str(tmp_path / "july"), "-o", str(out)]) == 0
    assert cli.main(given) == 2
    assert "2026-07-14_july has results already" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["2026-07-14_july"]


def test_what_lies_beside_the_files_of_a_night_is_said_to_be_left_out(tmp_path, capsys):
    write(tmp_path / "july")
    (tmp_path / "july" / "older").mkdir()
    (tmp_path / "july" / "all.csv").write_text("x\n")
    (tmp_path / "july" / "README.md").write_text("")
    assert cli.main(["import", "hf-method-comparison", str(tmp_path / "july"), "-o", str(tmp_path / "out")]) == 0
    place = tmp_path / "out" / "2026-07-14_july"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{place}: 1 experiment, read from 1 file of {tmp_path / 'july'}"
    assert [line.partition(": ")[2].partition(":")[0] for line in lines[1:4]] == [
        "1 folder (older)",
        "1 table (all.csv)",
        "1 other file (README.md)",
    ]
    assert lines[-1] == f"next: peftbench report {place}"
    (tmp_path / "above").mkdir()
    (tmp_path / "above" / "july").mkdir()
    assert cli.main(["import", "hf-method-comparison", str(tmp_path / "above"), "-o", str(tmp_path / "out")]) == 2
    assert "1 folder (july): a folder is one night" in capsys.readouterr().err


def test_runs_of_a_table_count_once_and_two_of_an_experiment_are_refused(tmp_path):
    head, line = "file,date,test_accuracy,status", f"{STEM}.json,2026-07-14T13:26:19,{660 / 1319},success"
    table = tmp_path / "all.csv"
    table.write_text(f"{head}\n{line}\n{line}\n")
    (night,) = hf_method_comparison.read([table])
    assert len(night.results) == 1
    table.write_text(f"{head}\n{line}\n{line.replace('-14T', '-15T')}\n")
    with pytest.raises(UserError, match="2 runs of one night are of the experiment 'lora a'"):
        hf_method_comparison.read([table])
    table.write_text(f"{head}\n{STEM}.json,2026-07-14,,success\n")
    with pytest.raises(UserError, match="line 2: the status is success, but there is no test_accuracy"):
        hf_method_comparison.read([table])
    table.write_text(f"{head}\n")
    with pytest.raises(UserError, match="has a head and no rows"):
        hf_method_comparison.read([table])


def test_a_run_again_on_the_same_day_is_not_lost(tmp_path):
    table = tmp_path / "h.csv"
    rows = [("2026-07-14", 600), ("2026-07-15", 600), ("2026-07-16", 601)]
    lines = [f"c,{day},{STEM}.json,2026-07-13,{right / 1319}" for day, right in rows]
    table.write_text("commit,commit_date,file,created,acc\n" + "\n".join(lines) + "\n")
    nights = hf_method_comparison.read([table])
    assert [night.name for night in nights] == ["2026-07-14", "2026-07-16"], "the second night is the first's run"
