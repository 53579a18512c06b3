"""``constraints.txt`` pins everything that ``pyproject.toml`` names, except what only users install."""

from __future__ import annotations

import re
import tomllib

from tests.support.documents import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
UNTESTED = {"gs", "nvml"}  # extras for a cloud and a GPU that tests do not have


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[]", requirement)[0]).lower()


def test_every_requirement_of_every_group_has_a_pin() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pinned = [name_of(line) for line in lines]
    assert len(set(pinned)) == len(pinned) > 150
    named = [*PROJECT["project"]["dependencies"]]
    for extra, requirements in PROJECT["project"]["optional-dependencies"].items():
        named += [] if extra in UNTESTED else requirements
    for requirements in PROJECT["dependency-groups"].values():
        named += requirements
    assert [each for each in named if name_of(each) not in pinned] == []


def test_every_tracker_is_in_the_group_that_make_exports_installs() -> None:
    """What an extra gives a user is what the tests of ``make exports`` have, with the same least version."""
    groups = {"wandb": "export", "trackio": "export", "mlflow": "export", "s3": "s3"}
    for extra, group in groups.items():
        missing = set(PROJECT["project"]["optional-dependencies"][extra]) - set(PROJECT["dependency-groups"][group])
        assert not missing, extra
