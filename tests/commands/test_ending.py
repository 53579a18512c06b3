"""What a run ends with: the table, the answer, the next command."""

from __future__ import annotations

import io

import pytest

from peftbench.commands import ending
from peftbench.report import table
from tests.support.answer_cases import folder, trials
from tests.support.results_factory import make_result, store

BASE = trials("base fp32", [0.3])
BEST = trials("full fp32", [0.9, 0.9, 0.9], peak_train_bytes=8 * 2**30)
SMALL = trials("lora r=8 fp32", [0.9, 0.9, 0.9], peak_train_bytes=3 * 2**30)


def shown(place, unfinished=False) -> str:
    out = io.StringIO()
    ending.show(place, unfinished, out)
    return out.getvalue()


def test_the_table_comes_first_then_the_answer_then_the_next_command(tmp_path):
    place = folder(tmp_path / "a b", BASE, BEST, SMALL)
    text = shown(place)
    assert table(place, "brief") in text
    assert max(map(len, text.splitlines()[:-1])) <= 100
    after = text[text.rindex("─") :].splitlines()
    answer = next(i for i, line in enumerate(after) if line.startswith("Take LoRA r=8: of the 2 cells"))
    assert answer > 3
    assert after[-1] == f"next: peftbench report '{place}'  (the page; --notes prints all notes)"
    assert "the same command again" not in text
    assert "next: the same command again runs what is not finished\n" in shown(place, unfinished=True)


def test_rows_that_cannot_stand_in_one_table_are_said_and_no_error(tmp_path):
    place = store(tmp_path / "r", make_result(protocol=1), make_result("full fp32", "full", protocol=2))
    assert shown(place).startswith(f"\nno table: {place}: ")
    assert "no table: " in ending.so_far(place, 1)


@pytest.mark.parametrize("fault", [ValueError("broken"), KeyError("x")])
def test_a_fault_in_the_table_so_far_ends_no_run(tmp_path, monkeypatch, fault):
    monkeypatch.delenv("PEFTBENCH_TRACEBACK", raising=False)

    def broken(*_: object) -> str:
        raise fault

    monkeypatch.setattr("peftbench.report.table", broken)
    text = ending.so_far(tmp_path, 1)
    assert text.startswith("every cell has its first seed; the table so far:")
    assert type(fault).__name__ in text


def test_trials_at_the_same_time_are_not_disturbed_by_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr("peftbench.report.table", lambda *_: pytest.fail("it takes a CPU from a trial"))
    assert ending.so_far(tmp_path / "r", 2).endswith(
        f"for the table so far: peftbench report {tmp_path}/r --format brief"
    )


def test_nothing_is_said_after_an_interrupt_before_anything_is_finished(tmp_path):
    assert ending.after_interrupt(tmp_path) == ""
    place = store(tmp_path / "r", make_result())
    assert f"peftbench report {place} --format brief" in ending.after_interrupt(place)
