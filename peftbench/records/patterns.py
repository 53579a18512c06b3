r"""Regular expressions that a user gives, matched in a small process of their own that ends itself when one never ends.

Python's ``re`` tries every way to match, which for some expressions takes 2^n steps, and it cannot be interrupted from
another thread. Other engines are bounded, but interpret some expressions differently (``\w``, lookarounds), so that
scores would depend on them. So it is ``re`` that matches, and the system's timer that ends the process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from peftbench.errors import UserError

SECONDS = 1.0
"""Longest CPU time of one expression on one text."""
_WORKER = """
import json, re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
for line in sys.stdin:
    way, pattern, texts, seconds = json.loads(line)
    found = []
    try:
        for text in texts:
            signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
            match = getattr(re, way)(pattern, text)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            found.append(match and [match[0], *match.groups()])
    except (re.error, ValueError, OverflowError, RecursionError, MemoryError) as error:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        found = str(error)
    print(json.dumps(found), flush=True)
"""
_SHOWN = 60


class TooSlow(UserError):
    """A regular expression takes too long; the message is a clause that begins with its text."""


def search(pattern: str, text: str) -> tuple[str | None, ...] | None:
    """Return the first match of an expression in a text and its groups; None if there is none.

    Raises:
        re.error: if it is no regular expression.
        TooSlow: if it takes more than ``SECONDS`` of CPU time.
    """
    found = _WORKERS.ask("search", pattern, [text])[0]
    return None if found is None else tuple(found)


def matches(pattern: str, names: Iterable[str]) -> bool:
    """Return whether an expression matches one of the names as a whole.

    Raises:
        re.error: if it is no regular expression.
        TooSlow: if one of them takes more than ``SECONDS`` of CPU time.
    """
    listed = list(names)
    return bool(listed) and any(_WORKERS.ask("fullmatch", pattern, listed))


class _Workers:
    """The process that matches, begun at the first question; each process that asks has its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0
        self._process: subprocess.Popen[str] | None = None

    def ask(self, way: str, pattern: str, texts: Sequence[str]) -> list[Any]:
        """Return what the function of ``re`` finds in each text."""
        with self._lock:
            if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
                self._start()
            process = self._process
            answer = self._answer(json.dumps([way, pattern, texts, SECONDS]))
        if answer:
            found: list[Any] | str = json.loads(answer)
            if isinstance(found, str):
                raise re.error(found)
            return found
        if process is None or process.returncode != -signal.SIGVTALRM:
            how = "" if process is None else f", with exit code {process.returncode}"
            raise UserError(f"the process that matches regular expressions ended{how}: its Python is {sys.executable}")
        longest = max(texts, key=len)
        shown = longest if len(longest) <= _SHOWN else f"{longest[:_SHOWN]}…"
        of = f"{shown!r}" if len(texts) == 1 else f"one of {len(texts):,} names, such as {shown!r}"
        raise TooSlow(
            f"{pattern!r} takes more than {SECONDS:g} s on {of}: a repeat within a repeat, such as (a+)+, tries every "
            "way to share the text out; write one of them"
        )

    def _answer(self, question: str) -> str:
        """Return the line that the process answers with; empty if it ended itself."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(question + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:  # it has ended
            answer = ""
        except BaseException:  # Ctrl-C: the next question would get this one's answer
            self.end()
            raise
        if not answer:
            self.end()
        return answer

    def _start(self) -> None:
        program = [sys.executable, "-I", "-S", "-c", _WORKER]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # it needs the environment: some Pythons find their library by it
            program, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, encoding="ascii"
        )
        self._owner = os.getpid()

    def end(self) -> None:
        """End the process, if this one began it."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


_WORKERS = _Workers()
atexit.register(_WORKERS.end)
