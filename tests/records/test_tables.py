"""Phases, memory categories and groups of columns: each table is complete, and rows are made of groups."""

from __future__ import annotations

import dataclasses
import pickle
import pkgutil
from importlib import import_module

import pytest

from peftbench.measure import ledger
from peftbench.records import Category, Phase, Status, TrialRow, columns
from peftbench.records.columns.group import ColumnGroup
from peftbench.records.columns.memory import MemoryColumns
from peftbench.records.columns.size import SizeColumns
from peftbench.records.columns.time import TimeColumns
from peftbench.records.phase import PARTS, UNTRACKED, UNTRACKED_BAR
from peftbench.report.styles import AREAS
from peftbench.runner import grid
from peftbench.runner.executor import local
from tests.support.results_factory import make_result

NAMES = {field.name for field in dataclasses.fields(TrialRow)}
DURATIONS = {
    "median_step_seconds",
    "earlier_processes_seconds",
    "reference_step_seconds",
    "first_token_seconds",
    "decoded_token_seconds",
    "merged_first_token_seconds",
    "merged_decoded_token_seconds",
    "load_adapter_seconds",
    "switch_adapter_seconds",
    "not_training_seconds",
}
"""Columns of single steps, tokens and operations, and of imported results: no share of a trial's wall time."""


def groups() -> set[type[ColumnGroup]]:
    for module in pkgutil.iter_modules(columns.__path__):
        import_module(f"{columns.__name__}.{module.name}")
    return set(ColumnGroup.__subclasses__())


def test_every_column_of_seconds_is_a_phases_or_a_part_of_one_or_a_total():
    phases = {phase.column for phase in Phase}
    parts = {part.column for part in PARTS}
    assert phases | parts | {UNTRACKED, "wall_seconds"} | DURATIONS == {n for n in NAMES if n.endswith("_seconds")}


def test_phases_and_untracked_time_add_up_to_the_wall_time():
    """Each phase has a time of its own, so that one that is forgotten or counted twice shows."""
    seconds = {phase.column: 2.0**power for power, phase in enumerate(Phase)}
    row = dataclasses.replace(make_result().row, **seconds)
    result = local.with_wall_time(dataclasses.replace(make_result(), row=row), 2.0 ** len(Phase))
    assert (result.row.wall_seconds, result.row.untracked_seconds) == (2.0 ** len(Phase), 1.0)
    own = sum(seconds[phase.column] for phase in Phase if phase.own_work)
    assert grid.overhead_seconds(result.row) == 2.0 ** len(Phase) - own
    assert grid.overhead_seconds(dataclasses.replace(row, status=Status.OOM)) is None


def test_every_memory_category_has_a_column_and_the_ledger_counts_all_of_them():
    assert {category.column for category in Category} < NAMES
    assert list(ledger.CategoryBytes().live) == list(Category)


def test_colours_are_of_the_palette_and_no_two_segments_of_a_bar_share_one():
    assert [category.color for category in Category] == list(AREAS)
    bars = dict.fromkeys((phase.bar, phase.color) for phase in Phase)
    assert [color for _, color in (*bars, UNTRACKED_BAR)] == list(AREAS[: len(bars) + 1])


@pytest.mark.parametrize("member", [*Phase, *Category])
def test_a_member_is_its_name_also_after_pickling(member):
    assert pickle.loads(pickle.dumps(member)) is member
    assert f"{member}" == member.value == type(member)(member.value)


def test_rows_are_made_of_all_groups_and_no_column_is_in_two():
    assert groups() == {base for base in TrialRow.__mro__ if base.__base__ is ColumnGroup}
    assert sum(len(dataclasses.fields(group)) for group in groups()) == len(NAMES)


def test_a_group_replaces_what_it_knows_and_leaves_the_rest():
    row = make_result().row.updated(SizeColumns(trainable_parameters=7), TimeColumns(load_seconds=0.0))
    row = row.updated(SizeColumns(stored_parameters=8), MemoryColumns())
    assert (row.trainable_parameters, row.stored_parameters, row.load_seconds) == (7, 8, 0.0)
    assert row.base_parameters == make_result().row.base_parameters
    assert row.settings_json == make_result().row.settings_json


def test_a_group_with_a_column_that_rows_do_not_have_is_refused_when_it_is_recorded():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Misspelt(ColumnGroup):
        peak_trian_bytes: int | None = None

    with pytest.raises(TypeError, match="peak_trian_bytes"):
        make_result().row.updated(Misspelt(peak_trian_bytes=1))
