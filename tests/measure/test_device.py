"""Which device a suite runs on, found out without torch."""

from __future__ import annotations

import pytest

from peftbench.measure import device


@pytest.mark.parametrize("node", ["nvidiactl", "dxg", "nvhost-gpu"])
def test_a_gpu_is_seen_wherever_linux_shows_it(node, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nodes = [str(tmp_path / name) for name in ("nvidiactl", "dxg", "nvhost-gpu")]
    assert not device.has_nvidia(nodes)
    (tmp_path / node).touch()
    assert device.has_nvidia(nodes)
    assert {name.rpartition("/")[2] for name in device.NODES} >= {"nvidiactl", "dxg", "nvhost-gpu"}


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_hidden_gpu_is_none(hidden, tmp_path, monkeypatch):
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not device.has_nvidia([str(tmp_path / "nvidiactl")])
