"""Kill running grids at random moments, make trials fail, and check that nothing is lost, doubled or left over.

    python -m tools.validation.chaos --kills 200 [--seed 0] [--seeds 8] [--workers 2] [--write]

The trial, the process server and the runner get SIGKILL, the runner SIGTERM, SIGHUP and Ctrl-C too, once and twice.
The same command continues each grid to its end; its rows are compared bit for bit with those of an undisturbed run.
Exit code 1 if any count that should be 0 is not.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tools.validation.chaos import figures, grids
from tools.validation.chaos.scenes import SCENES
from tools.validation.chaos.storm import Storm


def main() -> int:
    """Run the storm; return 1 if a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="kills after which it ends (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and targets")
    parser.add_argument("--seeds", type=int, default=8, help="seeds of each grid: it has four trials for each, and one")
    parser.add_argument("--workers", type=int, default=1, help="trials at the same time")
    parser.add_argument("--only", choices=sorted(SCENES), help="make this fault happen, and no random kills")
    parser.add_argument("--no-scenes", action="store_true", help="random kills alone")
    parser.add_argument("--spare-trials", action="store_true", help="shoot at the runner and the server only")
    parser.add_argument("--write", action="store_true", help=f"renew {figures.DOCUMENT.name}")
    asked = parser.parse_args()
    sys.path.insert(0, str(grids.REPOSITORY))
    wrong = _scenes(asked.only) if asked.only or not asked.no_scenes else []
    if asked.only:
        return 1 if wrong else 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        grids.prepare(Path(name), asked.seeds, asked.workers)
        tally = Storm(Path(name), asked.kills, random.Random(asked.seed), asked.spare_trials).run()
    for line in figures.lines(tally):
        print(line)
    if asked.write:
        figures.write(tally, asked.seed)
    return 1 if wrong or any(tally.faults().values()) else 0


def _scenes(only: str | None) -> list[str]:
    """Play the scenes, print what is wrong, and return it."""
    wrong = []
    for name, scene in SCENES.items() if only is None else [(only, SCENES[only])]:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            found = scene(Path(folder))
        print(f"{name}: {'; '.join(found) or 'as it should be'}", flush=True)
        wrong += found
    return wrong


if __name__ == "__main__":
    sys.exit(main())
