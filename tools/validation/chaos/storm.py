"""The storm: grids are run, shot at, continued by the same command and compared with an undisturbed run."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tools.validation.chaos import evidence, grids, processes, shots

_LAST_TRIALS = 8
"""With fewer trials left, a grid is let run to its end, so that there are many grids and not one that never ends."""


@dataclass
class Tally:
    """Counts of a storm. Every count but kills, rounds, commands and grids should be 0."""

    kills: Counter[str] = field(default_factory=Counter)
    """By kind of shot."""
    commands: int = 0
    grids: int = 0
    """Grids that were completed and compared with the undisturbed run."""
    trials: int = 0
    """Trials in them."""
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
    """Commands that ended with a traceback, or with another exit code than their signal's."""

    def faults(self) -> dict[str, list[str]]:
        """Return what should be empty, by name."""
        names = ("lost", "doubled", "changed", "orphans", "left_over", "endings")
        return {name: getattr(self, name) for name in names}


@dataclass
class Storm:
    """A storm in one working folder."""

    work: Path
    kills: int
    """After how many it ends."""
    rng: random.Random
    spares_trials: bool = False
    """Whether only the runner and the server are shot at: fewer kills in an hour, and more signals."""
    tally: Tally = field(default_factory=Tally)

    def run(self) -> Tally:
        """Run the undisturbed grid, then grids under fire until there were enough kills."""
        output = self.work / "calm.txt"
        if grids.start(self.work, "calm", output).wait() != 0:
            raise RuntimeError(f"the undisturbed run failed: {output.read_text(errors='replace')[-2000:]}")
        calm = evidence.rows(self.work / "calm")
        seconds = evidence.trial_seconds(self.work / "calm")
        while self.tally.kills.total() < self.kills:
            self._grid(calm, seconds)
        return self.tally

    def _grid(self, calm: evidence.Rows, trial_seconds: float) -> None:
        """Run one grid to its end, whatever happens meanwhile."""
        folder, known, code = self.work / f"grid{self.tally.grids}", evidence.NOTHING, -1
        while code != 0:
            output = self.work / "output.txt"
            runner = grids.start(self.work, folder.name, output)
            self.tally.commands += 1
            told: list[str] = []
            while runner.poll() is None and len(calm.exact) - len(known.exact) > _LAST_TRIALS and not told:
                known = self._shoot(runner, folder, trial_seconds, told, known)
            code = runner.wait()
            self._ending(code, told, output)
            known = self._checked(folder, known)
            self._say()
            if code == 1 and not told and len(known.exact) == len(calm.exact):
                self.tally.changed.append(f"{folder.name}: {output.read_text(errors='replace')[:800]}")
                break  # a row that is final and not ok: the same command has nothing left to do
        self.tally.grids += 1
        self.tally.trials += len(known.exact)
        name = folder.name
        differ = {key for key in calm.exact.keys() | known.exact.keys() if calm.exact.get(key) != known.exact.get(key)}
        self.tally.changed += [f"{name}: {key} differs from the undisturbed run" for key in sorted(differ)]
        self.tally.doubled += [f"{name}: {what}" for what in evidence.doubled(folder)]
        self.tally.left_over += [f"{name}: {what}" for what in evidence.left_over(self.work, folder)]
        shutil.rmtree(folder)
        self._say()

    def _shoot(
        self, runner: subprocess.Popen[bytes], folder: Path, seconds: float, told: list[str], known: evidence.Rows
    ) -> evidence.Rows:
        """Fire once; note in ``told`` what was sent to the runner, after which it should end."""
        kind = shots.draw(self.rng, self.spares_trials)
        if self.tally.kills.total() >= self.kills or not shots.fire(kind, runner, folder, seconds, self.rng):
            time.sleep(0.05)
            return self._checked(folder, known) if self.tally.kills.total() % 20 == 0 else known
        self.tally.kills[kind.name] += 1
        if kind.target == "runner":
            told += [sent.name for sent in kind.signals]
        return self._checked(folder, known) if self.tally.kills.total() % 20 == 0 else known

    def _ending(self, code: int, told: list[str], output: Path) -> None:
        """Check how a command ended: by its convention, without a traceback, and with all its processes."""
        text = output.read_text(errors="replace")
        after = f"after {self.tally.kills.total()} kills"
        signals = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGKILL": -9}
        allowed = {0, 1, *(signals[name] for name in told[:1])}
        if len(told) > 1:  # the second may come when the interpreter has put the signal's own action back
            allowed.add(-signal.Signals[told[1]])
        if code not in allowed or "Traceback" in text:
            self.tally.endings.append(f"exit code {code} {after}, sent {told}: {text[-1500:]}")
            print(self.tally.endings[-1], flush=True)
        left = processes.left_after_end(str(self.work))
        self.tally.orphans += [f"process {pid} {after}" for pid in left]

    def _checked(self, folder: Path, known: evidence.Rows) -> evidence.Rows:
        """Compare the folder with what it had before; return what it has."""
        now, after = evidence.rows(folder), f"after {self.tally.kills.total()} kills"
        self.tally.lost += [f"{key} {after}" for key in sorted(now.lost(known))]
        self.tally.changed += [f"{key} {after}" for key in sorted(now.changed(known))]
        return now

    def _say(self) -> None:
        counts = ", ".join(f"{len(found)} {name}" for name, found in self.tally.faults().items())
        kills, commands, whole = self.tally.kills.total(), self.tally.commands, self.tally.grids
        print(f"{kills} kills, {commands} commands, {whole} grids: {counts}", flush=True)
