"""Rows that were stored before some facts had columns of their own read as if they had had them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from peftbench.results import learning_rate_search
from peftbench.results.store import SEARCH, read, read_trials, write
from peftbench.suite.learning_rate_search import candidate_name
from tests.support.results_factory import make_result


def test_the_settings_in_a_name_are_read_out_of_it(tmp_path: Path) -> None:
    names = {"lora r=8 fp32": "", "lora r=8 alpha=4 lr=0.01 fp32": "alpha=4 lr=0.01"}
    for name in names:
        write(tmp_path, make_result(name))
    write(tmp_path, make_result("peft VERA r=64 fp32", "peft", rank=64))
    write(tmp_path, make_result("base fp32", "base", rank=None, seed=None))
    found = read_trials(tmp_path).set_index("cell")["named_settings"]
    assert found.to_dict() == names | {"peft VERA r=64 fp32": "VERA", "base fp32": ""}


@pytest.mark.parametrize("cell", ["full fp32", "lora r=2 alpha=4 bf16-true", "lora r=2 lr=searched int8"])
@pytest.mark.parametrize("rate", [1e-4, 0.003, 1.0, 2e-05])
def test_a_candidate_belongs_to_the_cell_in_its_name(tmp_path: Path, cell: str, rate: float) -> None:
    method, precision = cell.split()[0], cell.split()[-1]
    name = candidate_name(cell, precision, rate)
    write(tmp_path / SEARCH, make_result(name, method, precision, seed=1000, learning_rate=rate))
    assert list(read_trials(tmp_path / SEARCH)["candidate_of"]) == [cell]
    assert list(learning_rate_search.searches(tmp_path)) == [cell]


def test_only_a_searchs_rows_are_candidates(tmp_path: Path) -> None:
    write(tmp_path, make_result("lora r=8 lr=0.01 fp32", learning_rate=0.01))
    assert read_trials(tmp_path)["candidate_of"].isna().all()


def test_a_grid_in_a_folder_called_search_has_no_candidates_if_its_rows_say_so(tmp_path: Path, monkeypatch) -> None:
    made = make_result("lora r=8 lr=0.01 fp32", learning_rate=0.01)
    row = dataclasses.replace(made.row, named_settings="lr=0.01")
    write(tmp_path / SEARCH, dataclasses.replace(made, row=row))
    monkeypatch.chdir(tmp_path / SEARCH)
    assert read_trials(Path("."))["candidate_of"].isna().all()


def test_reason_and_log_are_read_out_of_the_message(tmp_path: Path) -> None:
    messages = {
        "error": "ValueError: broken; log: logs/abc.log",
        "unsupported": "full does not exist in nf4, because quantized weights have no gradient",
        "oom": "the kernel killed the process, because memory ran out",
        "ok": None,
    }
    for seed, (status, message) in enumerate(messages.items()):
        write(tmp_path, make_result(seed=seed, status=status, message=message))
    found = read(tmp_path).trials.set_index("status")
    reasons = {
        "error": "ValueError: broken",
        "unsupported": "quantized weights have no gradient",
        "oom": messages["oom"],
    }
    assert found["reason"].dropna().to_dict() == reasons
    assert found["log_file"].dropna().to_dict() == {"error": "logs/abc.log"}
    assert found["message"].dropna().to_dict() == {k: v for k, v in messages.items() if v}


def test_an_unsupported_row_without_because_has_its_whole_message_as_reason(tmp_path: Path) -> None:
    write(tmp_path, make_result(status="unsupported", message="tf32 does not exist on cpu (only on cuda)"))
    assert list(read_trials(tmp_path)["reason"]) == ["tf32 does not exist on cpu (only on cuda)"]


def test_columns_that_a_row_has_are_not_read_out_of_text(tmp_path: Path) -> None:
    facts = {"named_settings": "alpha=4", "candidate_of": "lora fp32", "reason": "why", "log_file": "logs/x.log"}
    made = make_result("lora r=8 lr=0.003 fp32", status="error", message="other; log: logs/y.log", **facts)
    write(tmp_path / SEARCH, made)
    row = read_trials(tmp_path / SEARCH).iloc[0]
    assert {name: row[name] for name in facts} == facts
