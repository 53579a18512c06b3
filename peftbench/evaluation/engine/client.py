"""The process of another engine, as a trial talks to it: it is started, asked, and ended. No torch.

The interpreter is the one that an environment variable names, since the engine pins its own torch and cannot be
installed beside this one. No path of it enters a trial's key or its results.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from peftbench.errors import Unsupported

PYTHON: Mapping[str, str] = {"vllm": "PEFTBENCH_VLLM_PYTHON"}
"""Engine -> the environment variable with the path of the Python that has it."""
_SCRIPT = Path(__file__).with_name("vllm_process.py")
_LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
"""Variables of this interpreter that would make another import from its packages."""
_PROBE = "import importlib.util as u; print(*[n for n in ('vllm', 'lm_eval') if u.find_spec(n) is None])"
_PROBE_SECONDS = 60.0
_END_SECONDS = 10.0
_LOGGED_LINES = 100
"""Most lines of what a process printed that the trial's log has if it failed."""
_MESSAGE = 300
"""Most characters of an engine's message; the rest is in the log."""
_REFUSING = ("ValueError", "NotImplementedError", "ValidationError")
_REFUSALS = ("not support", "unsupported")
"""Parts of vllm's messages that say that it cannot serve a model or an adapter."""


class EngineFailed(RuntimeError):
    """The engine's process could not be started, or failed or ended before it answered."""


@dataclass(frozen=True)
class Asked:
    """What an engine loads, and how."""

    folder: Path
    """The model's folder."""
    adapter: Path | None
    """The folder of a LoRA adapter of it; None for the model alone."""
    rank: int | None
    """The adapter's largest rank."""
    modules: tuple[str, ...]
    """The last parts of the names of the modules that it adapts."""
    dtype: str
    max_length: int
    """Most tokens of a text and its answer, with the token that the engine decodes after each."""
    device: str
    """``cpu`` or ``cuda``."""
    device_share: float | None
    """The share of the GPU's memory that the engine may take; None on the CPU."""
    threads: int
    trust_remote_code: bool


def interpreter(engine: str) -> str:
    """Return the path of the engine's Python.

    Raises:
        EngineFailed: if the environment variable is not set or names no program, with the way out.
    """
    name = PYTHON[engine]
    path = os.environ.get(name, "")
    if not path:
        raise EngineFailed(
            f"{name} is not set; set it to the Python of an environment with {engine} and lm_eval (docs/engines.md)"
        )
    if not (Path(path).is_file() and os.access(path, os.X_OK)):
        raise EngineFailed(f"{name} names no program that can be run: {path}")
    return path


def problem(engine: str) -> str | None:
    """Return why an engine cannot be used, as far as that is known without loading it; None if nothing is."""
    try:
        path = interpreter(engine)
        done = subprocess.run(
            [path, "-c", _PROBE], env=_environment(), capture_output=True, text=True, timeout=_PROBE_SECONDS
        )
    except EngineFailed as error:
        return str(error)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{PYTHON[engine]} names a program that is no Python: {error}"
    if done.returncode:
        return f"{PYTHON[engine]} names a program that is no Python: it ended with code {done.returncode}"
    missing = done.stdout.split()
    return f"the Python that {PYTHON[engine]} names has no {' and no '.join(missing)}" if missing else None


def _environment(asked: Asked | None = None, scratch: Path | None = None) -> dict[str, str]:
    """Return the environment of the engine's process; what the user has set of the engine's own variables stays."""
    kept = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    if asked is None:
        return kept
    defaults = {"VLLM_NO_USAGE_STATS": "1"}
    if asked.device == "cpu":
        defaults |= {
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": "1",  # in GiB; its default is a share of the machine's memory
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else trials at the same time share the first cores
            "TORCHDYNAMO_DISABLE": "1",  # compiling takes longer than what is computed here
        }
    fixed = {
        "HF_HUB_OFFLINE": "1",  # all that is loaded lies in folders
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, which ends with the trial
        "OMP_NUM_THREADS": str(asked.threads),
    }
    return defaults | kept | fixed | ({"TMPDIR": str(scratch)} if scratch else {})


@dataclass
class Engine:
    """A running engine that has loaded a model. It ends with the context."""

    name: str
    process: subprocess.Popen[str]
    printed: Path
    """The file with all that it prints."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the engine, of its torch, transformers and lm-eval, and of Python."""
    load_seconds: float = 0.0
    """From the start of its process until the model was loaded."""

    def __enter__(self) -> Self:
        """Return the engine."""
        return self

    def __exit__(self, *_: object) -> None:
        """End its process."""
        with suppress(OSError):
            if self.process.stdin:
                self.process.stdin.close()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation after its context, and whether it is the greedy one.

        Raises:
            EngineFailed: if the engine fails or ends.
        """
        found = self._ask({"score": [[list(context), list(text)] for context, text in pairs]}, "scored")
        return [(float(logprob), bool(greedy)) for logprob, greedy in _as_many(found, len(pairs))]

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, ends: Sequence[int], stops: Sequence[str]
    ) -> list[list[int]]:
        """Return the tokens of the greedy answer to each prompt, which may go on after its end.

        Raises:
            EngineFailed: if the engine fails or ends.
        """
        how = {"max_new_tokens": max_new_tokens, "ends": list(ends), "stops": list(stops)}
        found = self._ask({"generate": {"prompts": [list(ids) for ids in prompts], **how}}, "generated")
        return [[int(index) for index in ids] for ids in _as_many(found, len(prompts))]

    def _ask(self, request: Mapping[str, Any], wanted: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise EngineFailed(f"{self.name}: its process ended before it answered{self._how()}{self._last()}")
        try:
            answer = json.loads(line)
            error = answer.get("error")
        except (ValueError, AttributeError):
            raise EngineFailed(f"{self.name}: its process did not answer in the protocol: {line[:100]!r}") from None
        if error is not None:
            self._last()
            raise _error(self.name, error)
        if wanted not in answer:
            raise EngineFailed(f"{self.name}: its process answered {', '.join(answer)}, not {wanted}")
        return answer[wanted]

    def _how(self) -> str:
        """Return how the process ended, as words of a message; empty if that is not known."""
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(_END_SECONDS)
            if code == -signal.SIGKILL:
                return ", killed, as by the kernel when memory runs out"
            return f", with code {code}" if code >= 0 else f", by signal {-code}"
        return ""

    def _last(self) -> str:
        """Return the last line that the process printed, as words of a message; the rest goes to the trial's log."""
        lines = self.printed.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if not lines:
            return ""
        logging.getLogger("peftbench").error("%s printed:\n%s", self.name, "\n".join(lines[-_LOGGED_LINES:]))
        return f": {lines[-1].strip()[:200]}"


def _as_many(found: Any, count: int) -> Any:
    if len(found) != count:
        raise EngineFailed(f"the engine answered {len(found)} of {count} requests")
    return found


def _error(engine: str, told: Mapping[str, Any]) -> Exception:
    """Return the exception for an engine's error, with the beginning of its message."""
    kind, name = told.get("kind"), str(told.get("type"))
    line = " ".join(str(told.get("message", "")).split())[:_MESSAGE]
    if kind == "not_installed":
        return EngineFailed(f"{engine} cannot be imported by the Python that {PYTHON[engine]} names: {name}: {line}")
    if name in _REFUSING and any(words in line.lower() for words in _REFUSALS):
        return Unsupported(f"{engine}: {line}")
    return EngineFailed(f"{engine}: {name}: {line}")


def start(engine: str, asked: Asked, scratch: Path) -> Engine:
    """Start an engine's process and load a model in it.

    Args:
        engine: ``vllm``.
        asked: what to load.
        scratch: a folder for its temporary files.

    Raises:
        EngineFailed: if there is no such engine, or it fails.
        Unsupported: if it says that it does not serve such a model or adapter.
    """
    began, pipe = time.perf_counter(), subprocess.PIPE
    command, printed = [interpreter(engine), "-u", str(_SCRIPT)], scratch / "engine.log"
    try:
        with printed.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=file, env=_environment(asked, scratch), encoding="utf-8"
            )
    except OSError as error:
        raise EngineFailed(f"{PYTHON[engine]} names a program that cannot be run: {error.strerror}") from None
    running = Engine(engine, process, printed)
    told = {
        "folder": str(asked.folder),
        "adapter": str(asked.adapter) if asked.adapter else None,
        "rank": asked.rank,
        "modules": list(asked.modules),
        "dtype": asked.dtype,
        "max_length": asked.max_length,
        "seed": 0,
        "device_share": asked.device_share,
        "trust_remote_code": asked.trust_remote_code,
    }
    try:
        running.versions = {str(name): str(value) for name, value in running._ask({"start": told}, "ready").items()}
    except BaseException:
        running.__exit__()
        raise
    running.load_seconds = time.perf_counter() - began
    return running
