"""Why a process ended, as far as the kernel's count of kills can say."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from peftbench.runner.executor import deaths


def test_a_kill_by_the_kernel_explains_one_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deaths, "_explained", 0)
    killed = SimpleNamespace(exitcode=-signal.SIGKILL)
    ends = []
    for counted, before in ((1, 0), (1, 0), (3, 0), (3, 0), (4, 3), (4, 4)):
        monkeypatch.setattr(deaths, "kernel_oom_kills", lambda counted=counted: counted)
        ends.append(deaths.cause(killed, before, os.getpid(), None)[0].value)
    assert ends == ["oom", "killed", "oom", "oom", "oom", "killed"]
