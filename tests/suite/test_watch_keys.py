"""``watch:`` of a suite: strict, recorded with the grid, and in no trial's key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftbench import suite
from peftbench.errors import UserError
from peftbench.records.watch import DEFAULT, KINDS, Watch, from_plain
from peftbench.results.store import record_grid, recorded_grid
from peftbench.suite import trial_key
from peftbench.suite.expand import expand

TEXT = "base: nano\ntasks: [judge]\nmethods: [lora]\n"


def loaded(place: Path, more: str = "", name: str = "night.yaml") -> suite.Suite:
    (place / name).write_text(TEXT + more)
    return suite.load(str(place / name))


def test_a_suite_says_what_is_judged_and_from_which_change_on(tmp_path: Path) -> None:
    assert loaded(tmp_path).watch is None
    found = loaded(tmp_path, "watch:\n  judge: [score, memory]\n  speed_percent: 10\n  merge_factor: 4.5\n").watch
    assert found == Watch(judge=("memory", "score"), speed_percent=10, merge_factor=4.5)
    assert loaded(tmp_path, "watch: {judge: speed}\n").watch == Watch(judge=("speed",))
    assert loaded(tmp_path, "watch: {}\n").watch == DEFAULT


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("{spead_percent: 3}", ("watch", "'spead_percent'", "did you mean 'speed_percent'?")),
        ("{judge: [scores]}", ("watch.judge", "'scores'", "did you mean 'score'?", "allowed: ")),
        ("{judge: []}", ("watch.judge", "an empty list")),
        ("{judge: speed, merge_factor: 0.5}", ("watch.merge_factor", "0.5", "at least 1")),
        ("{score_points: -1}", ("watch.score_points", "-1", "at least 0")),
        ("{speed_percent: much}", ("watch.speed_percent", "'much'")),
        ("[speed]", ("watch", "allowed: a mapping of settings")),
    ],
)
def test_what_watch_does_not_know_is_refused_with_the_nearest_name(
    tmp_path: Path, given: str, parts: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, f"watch: {given}\n")
    assert "night.yaml" in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_it_enters_no_trials_key(tmp_path: Path) -> None:
    keys = [
        [trial_key.key(trial, "b", "d") for trial in expand(loaded(tmp_path, more, f"{number}.yaml"), "cpu")]
        for number, more in enumerate(("", "watch: {judge: score, speed_percent: 20}\n"))
    ]
    assert keys[0] == keys[1]


def test_it_is_recorded_with_the_grid_and_read_back(tmp_path: Path) -> None:
    watch = Watch(judge=("size", "score"), size_percent=1.5)
    record_grid(tmp_path, ["a"], "peftbench run night", strict=False, watch=watch)
    found = recorded_grid(tmp_path)
    assert found is not None
    assert found.watch == watch
    record_grid(tmp_path, ["a"], "peftbench run night", watch=None)
    assert "watch" not in json.loads((tmp_path / "grid.json").read_text())
    assert from_plain({"judge": ["speed"], "of_a_later_version": 3}) == Watch(judge=("speed",))


@pytest.mark.parametrize("damaged", ["3", '{"judge": 3}', '{"speed_percent": "5"}', '{"merge_factor": true}'])
def test_a_damaged_record_of_it_is_bad_input(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "grid.json").write_text(f'{{"keys": [], "command": "", "watch": {damaged}}}')
    with pytest.raises(UserError, match="cannot be read"):
        recorded_grid(tmp_path)
    assert set(DEFAULT.judge) == set(KINDS)
