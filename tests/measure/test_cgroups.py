"""Control groups: the memory limit of a container, and whether the kernel killed a process of ours."""

import pytest

from peftbench.measure import cgroups


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/", {"memory.max": "5000"}, 5000),  # a container, version 2
        ("0::/", {"memory.max": "max"}, 2**63),
        ("0::/a/b", {"a/memory.max": "700", "a/b/memory.max": "900"}, 700),  # a parent's limit holds too
        ("9:cpu:/x\n4:memory:/x", {"cpu/x/memory.max": "1", "memory/x/memory.limit_in_bytes": "800"}, 800),  # version 1
        ("4:memory:/host/only", {"memory/memory.limit_in_bytes": "600"}, 600),  # a container that sees the host's name
        ("0::/", {}, 2**63),
    ],
)
def test_the_limit_of_a_container_is_its_control_groups(own, limits, expected, tmp_path):
    (tmp_path / "own").write_text(own)
    for name, text in limits.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text + "\n")
    assert cgroups.memory_limit_bytes(tmp_path / "own", tmp_path / "groups") == expected
    assert cgroups.memory_limit_bytes(tmp_path / "no such file", tmp_path / "groups") == 2**63


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a", {"a/memory.events": "low 0\noom 4\noom_kill 3\noom_group_kill 0\n"}, 3),
        ("4:memory:/x", {"memory/x/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"}, 2),
        ("4:memory:/x", {"memory/x/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"}, None),  # an old kernel
        ("0::/", {}, None),  # the root of version 2 has no such file
        ("4:cpu:/x", {"memory.events": "oom_kill 3\n"}, None),
    ],
)
def test_kills_of_the_own_group_are_counted(own, files, expected, tmp_path):
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    assert cgroups.out_of_memory_kills(tmp_path / "own", tmp_path / "groups") == expected
    assert cgroups.out_of_memory_kills(tmp_path / "no such file", tmp_path / "groups") is None
