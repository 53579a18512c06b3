"""One reader for times that are given on the command line and in Python."""

from __future__ import annotations

import pytest

from peftbench.errors import UserError
from peftbench.records import durations, units


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("2h", 7200),
        ("90min", 5400),
        ("1h30m", 5400),
        ("1 hour 30 minutes", 5400),
        ("1.5 h", 5400),
        (" .5d ", 43200),
        ("1d2h3m4s", 93784),
        ("45s", 45),
        ("8M", 480),
        (90, 90),
        (1.5, 1.5),
    ],
)
def test_times_are_read_as_people_write_them(given, seconds):
    assert durations.read(given, "--time") == seconds


@pytest.mark.parametrize(
    "given",
    [
        *("", "2", "soon", "2h and more", "0h", "-2h", "30m1h", "1h1h", "2 months", "1e3s", "²h", "9" * 400 + "h"),
        *(0, float("nan"), float("inf"), []),
    ],
)
def test_what_is_no_time_is_refused(given):
    with pytest.raises(UserError, match=r"--time: given .*; allowed: a time above 0 like 90s, 30min, 2h or 1h30m"):
        durations.read(given, "--time")


def test_a_time_without_end_is_written_and_does_not_fail():
    assert (units.seconds(float("inf")), units.seconds(float("nan"))) == ("∞ s", units.MISSING)
