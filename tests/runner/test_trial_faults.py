"""Trials that run out of memory, hang and crash in C code, for real, in one grid."""

import pytest

from tools.validation.chaos import trial_faults


@pytest.mark.spawns
def test_each_fault_is_a_row_of_its_kind_and_the_same_command_goes_on(tmp_path):
    assert trial_faults.trial_faults(tmp_path, trial_faults.SHORT, trial_faults.FEW) == []


@pytest.mark.slow
@pytest.mark.spawns
def test_a_fault_in_every_phase_is_a_row_of_its_kind_and_the_same_command_goes_on(tmp_path):
    assert trial_faults.trial_faults(tmp_path) == []
