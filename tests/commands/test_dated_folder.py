"""Each night of a grid has a folder of its own: ``{date}`` in ``--results``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from peftbench import cli
from peftbench.commands.dated_folder import results_folder
from peftbench.errors import UserError

EVENING = datetime(2026, 11, 28, 23, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("nights/{date}", "nights/2026-11-28"),
        (Path("nights") / "{date}-gpu", "nights/2026-11-28-gpu"),
        ("results/mine", "results/mine"),
        ("results/a}b{c", "results/a}b{c"),
    ],
)
def test_the_date_is_filled_in(given, expected):
    assert results_folder(given, EVENING) == Path(expected)


@pytest.mark.parametrize("given", [None, ""])
def test_no_folder_is_the_suites_own(given):
    assert results_folder(given) is None


def test_the_clock_is_read_in_utc():
    before = datetime.now(UTC).strftime("%Y-%m-%d")
    made = str(results_folder("{date}"))
    assert before <= made <= datetime.now(UTC).strftime("%Y-%m-%d")


@pytest.mark.parametrize("name", ["{day}", "{Date}", "{}", "{date:%d}"])
def test_any_other_name_in_braces_is_refused(name):
    with pytest.raises(UserError, match=r"stands for nothing; allowed: \{date\}"):
        results_folder(f"nights/{name}")


def test_the_command_refuses_it_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "quickstart", "--results", "nights/{night}"]) == cli.BAD_INPUT
    assert "{night} stands for nothing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
