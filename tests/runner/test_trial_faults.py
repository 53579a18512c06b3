"""Faults made to happen for real: trials that fail, folders that are shared or full, a clock that jumps, kills."""

import random

import pytest

from tools.validation.chaos import grids, trial_faults
from tools.validation.chaos.scenes import SCENES
from tools.validation.chaos.storm import Storm


@pytest.mark.spawns
def test_each_fault_is_a_row_of_its_kind_and_the_same_command_goes_on(tmp_path):
    assert trial_faults.trial_faults(tmp_path, trial_faults.SHORT, trial_faults.FEW) == []


@pytest.mark.slow
@pytest.mark.spawns
@pytest.mark.parametrize("name", SCENES)
def test_in_every_scene_each_trial_has_one_final_row_and_the_same_command_goes_on(name, tmp_path):
    assert SCENES[name](tmp_path) == []


@pytest.mark.slow
@pytest.mark.spawns
def test_a_few_kills_lose_double_and_leave_nothing(tmp_path):
    grids.prepare(tmp_path, 3, 1)
    tally = Storm(tmp_path, 10, random.Random(0)).run()
    assert tally.kills.total() >= 10
    assert not any(tally.faults().values()), tally.faults()
