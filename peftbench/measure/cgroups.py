"""The kernel's control groups, which limit memory in containers: the limit, and how many processes were killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OWN = Path("/proc/self/cgroup")
"""Where the kernel tells the groups of this process."""
GROUPS = Path("/sys/fs/cgroup")
"""Where it shows all groups."""
NO_LIMIT = 2**63


def memory_limit_bytes(own: Path = OWN, groups: Path = GROUPS) -> int:
    """Return the least memory limit of this process's groups and of the groups around them; ``NO_LIMIT`` if none."""
    limits = [NO_LIMIT]
    for folder, is_first_version in _folders(own, groups):
        with suppress(OSError, ValueError):  # "max" means no limit
            name = "memory.limit_in_bytes" if is_first_version else "memory.max"
            limits.append(int((folder / name).read_text()))
    return min(limits)


def out_of_memory_kills(own: Path = OWN, groups: Path = GROUPS) -> int | None:
    """Return how many processes of this process's own group the kernel has killed as memory ran out; None if unknown.

    Those that were killed because the whole machine had no memory left count too.
    """
    for folder, is_first_version in _folders(own, groups):
        with suppress(OSError):
            text = (folder / ("memory.oom_control" if is_first_version else "memory.events")).read_text()
            return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), None)
    return None


def _folders(own: Path, groups: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of this process's groups for memory, from the inside out, and whether they are of version 1."""
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):  # version 2 names no controller
            continue
        outermost = groups / controllers
        place = outermost / group.strip("/")  # within a container only those around it may be visible
        for folder in (place, *place.parents):
            yield folder, bool(controllers)
            if folder == outermost:
                break
