"""Which device a suite runs on, found out without torch."""

from __future__ import annotations

import pytest

from peftbench.errors import UserError
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


@pytest.mark.parametrize(
    ("nodes", "visible", "expected"),
    [
        (("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"), None, 2),
        (("nvidia0", "nvidia1", "nvidiactl"), "1", 1),
        (("dxg",), None, None),  # WSL 2: a GPU that no file counts
        (("nvhost-gpu",), None, None),  # a Jetson board
    ],
)
def test_gpus_are_counted_where_each_has_a_file(nodes, visible, expected, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for name in nodes:
        (tmp_path / name).touch()
    assert device.count("cuda", tmp_path) == expected


@pytest.mark.parametrize(("here", "asked"), [(None, 1), (None, 8), (0, 1), (2, 2)])
def test_devices_that_may_be_there_are_not_refused(here, asked, monkeypatch):
    monkeypatch.setattr(device, "count", lambda kind: here)
    device.check_count("cuda", asked)


def test_more_gpus_than_there_are_known_to_be_are_refused(monkeypatch):
    monkeypatch.setattr(device, "count", lambda kind: 2)
    with pytest.raises(
        UserError, match=r"devices\.count: given 4; allowed: at most 2 here, as this machine has 2 GPUs"
    ):
        device.check_count("cuda", 4)
