"""States of training as folders: what several processes decide about them together, and which of them are kept."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from peftbench.measure.clock import Clock
from peftbench.runner import resuming, training_states
from peftbench.training import saved_state


def rank_0(folder, told):
    """Return a run as rank 0 of two has it; ``told`` gives what the other one gathers, from rank 0's own."""
    parallel = SimpleNamespace(rank=0, count=2, gathered=lambda own: [own, told(own)], first=lambda own: own)
    return SimpleNamespace(job=SimpleNamespace(scratch=str(folder), key="a", environment_json="{}"), parallel=parallel)


def test_of_states_that_are_not_used_the_last_is_kept_until_the_trial_is_done(tmp_path):
    place = tmp_path / training_states.FOLDER
    for name in ("a.9", "ab.11"):
        (place / name).mkdir(parents=True)
    training_states.set_aside(tmp_path, "a")
    assert training_states.newest(tmp_path, "a") is None
    (place / "a.3").mkdir()
    training_states.set_aside(tmp_path, "a")
    assert sorted(path.name for path in place.iterdir()) == ["a.3.aside", "ab.11"]
    training_states.sweep(tmp_path, {"b"})
    assert (place / "a.3.aside").is_dir()
    training_states.sweep(tmp_path, {"a"})
    assert [path.name for path in place.iterdir()] == ["ab.11"]
    (place / "a.3.aside").mkdir()
    training_states.discard(tmp_path, "a")
    assert [path.name for path in place.iterdir()] == ["ab.11"]


def test_a_state_whose_parts_are_of_different_steps_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(resuming, "_environment", lambda run: {"cpu": "x"})
    own = SimpleNamespace(more={"environment": {"cpu": "x"}}, steps=2, check=lambda learner: None)
    monkeypatch.setattr(saved_state, "read", lambda folder: own)
    assert resuming._found(rank_0(tmp_path, lambda mine: mine), None, tmp_path) is own
    with pytest.raises(saved_state.Unusable, match="its parts are of different steps"):
        resuming._found(rank_0(tmp_path, lambda mine: (None, 3)), None, tmp_path)
    with pytest.raises(saved_state.Unusable, match="rank 1: parts of it are missing"):
        resuming._found(rank_0(tmp_path, lambda mine: ("rank 1: parts of it are missing", None)), None, tmp_path)


@pytest.mark.parametrize("refused", [None, "rank 1: no space left on device"])
def test_a_state_of_which_the_disk_refuses_the_part_of_another_rank_does_not_exist(refused, tmp_path, monkeypatch):
    place = tmp_path / training_states.FOLDER
    (place / "a.1").mkdir(parents=True)
    monkeypatch.setattr(resuming.Keeper, "_write", lambda self, folder, course: folder.mkdir(parents=True))
    run = rank_0(tmp_path, lambda own: refused if own is None else own)
    keeper = resuming.Keeper(run, None, 0.0)
    if refused is None:
        keeper._save(SimpleNamespace(rows=[1, 2]))
    else:
        with pytest.raises(OSError, match=refused):
            keeper._save(SimpleNamespace(rows=[1, 2]))
    assert [path.name for path in place.iterdir()] == ["a.2" if refused is None else "a.1"], "and no unfinished one"


@pytest.mark.parametrize(("every", "first_says"), [(1e9, True), (0.0, False)])
def test_all_ranks_save_when_the_first_one_does_whatever_their_own_clocks_say(every, first_says, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(resuming.Keeper, "_save", lambda self, course: saved.append(course))
    run = rank_0(tmp_path, lambda own: own)
    run.clock, run.parallel.same = Clock(), lambda own: float(first_says)
    resuming.Keeper(run, None, every)("course")
    assert saved == ["course"] * first_says
