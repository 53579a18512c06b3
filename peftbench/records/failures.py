"""Messages of failures: in one line, without paths of this machine; whose code raised it; whether memory ran out.

No torch.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import tempfile
import traceback
from pathlib import Path

from peftbench.errors import Unsupported
from peftbench.records import secrets

SURFACE = "PEFTBENCH_SURFACE_LIBRARY_ERRORS"
"""Environment variable; if it is set, ``refusal`` translates nothing. Our tests set it, so that faults surface."""
_OURS = ("peftbench", "tests", "__main__")
_ANYONES = ("torch", "numpy", "contextlib", *sys.stdlib_module_names)
"""Top-level modules whose functions are called by peftbench as well as by the libraries that it uses."""

_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "_status_alloc_failed", "_allocation_failed")
"""Parts of the messages of the host, of CUDA and of its libraries (cuBLAS, cuDNN, cuSOLVER)."""
_NO_MEMORY_AT_EXIT = ("libgomp: out of memory", "libgomp: thread creation failed", "std::bad_alloc", "memoryerror")
"""Parts of the last line of processes that ended because memory ran out: GNU OpenMP ends them itself."""


def words(error: BaseException) -> str:
    """Return an exception's type and first line; if it has no text, the line of code that raised it."""
    lines = str(error).strip().splitlines()
    found = traceback.extract_tb(error.__traceback__)
    if lines or not found:
        return f"{type(error).__name__}: {lines[0] if lines else 'no text'}"
    return f"{type(error).__name__} in {Path(found[-1].filename).name}, line {found[-1].lineno}: {found[-1].line}"


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the host or on the device."""
    torch = sys.modules.get("torch")  # if torch is not imported, it has raised nothing
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


def ended_out_of_memory(last_line: str) -> bool:
    """Whether the last line that a process printed says that memory ran out."""
    return any(words in last_line.lower() for words in _NO_MEMORY_AT_EXIT)


def refusal(error: BaseException, method: str, own: str = "") -> Unsupported | None:
    """Return ``Unsupported`` for what a library raises because it cannot apply a method to a base model, in its words.

    Whose exception it is follows from the innermost frame of its traceback that is not torch's or Python's: if it
    belongs to peftbench, the fault is ours. What autograd raises in a backward pass is the model's.

    Args:
        error: what was raised while attaching a method or in its first step.
        method: the method's name, which begins the message.
        own: the package of a method that is not peftbench's, whose faults are not a library's either.

    Returns:
        None if the exception is a fault, if memory ran out, or if the translation is switched off (``SURFACE``).
    """
    if os.environ.get(SURFACE) or out_of_memory(error) or not isinstance(error, Exception):
        return None
    library = _library(error, own)
    return None if library is None else Unsupported(f"{method}: {library} raised {words(error)}")


def _library(error: BaseException, own: str) -> str | None:
    """Return the name of the library whose code raised an exception; None if it is not a library's."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, TypeError) and frames[-1].f_code.co_name == "_call_impl":  # arguments that a module refuses
        package = type(frames[-1].f_locals["self"]).__module__.partition(".")[0]
        return None if package in (*_OURS, own) else package
    for frame in reversed(frames):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package in (*_OURS, own):
            return None
        if package == "torch" and frame.f_code.co_name in ("backward", "_engine_run_backward"):
            return "torch"
        if package not in _ANYONES:
            return package
    return None


_FOLDER = r"[^\s/=,'\"]+/"
_ABSOLUTE = re.compile(rf"(?<![\w./~])(?:/(?!/)(?:{_FOLDER})+|~/(?:{_FOLDER})*)")
"""The folders of an absolute path or of a path in the home folder; not the host of a URL."""


def without_paths(text: str) -> str:
    """Return a text as it may be stored and passed on: without secrets, and with absolute paths cut to their last part.

    The folders of the user, of this process and of temporary files have no last part: their names are the user's.
    """
    text = secrets.hidden(text)
    places = {tempfile.gettempdir(): "TMPDIR", _home(): "~", os.getcwd(): "."}
    for place in sorted({*places} - {"/", "~"}, key=len, reverse=True):
        if places[place] != "TMPDIR":
            text = text.replace(f"{place}/", "")
        text = re.sub(rf"(?<![\w./~-]){re.escape(place)}(?!/?[\w-]|\.\w)", places[place], text)
    return _ABSOLUTE.sub("", text)


def of_log(text: str) -> str:
    """Return the text of a log as it may be passed on; files of packages keep their names within the packages."""
    packages = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")}
    for place in sorted({*packages, str(Path(__file__).resolve().parents[2])} - {"/"}, key=len, reverse=True):
        text = text.replace(f"{place}/", "")
    return without_paths(text)


def _home() -> str:
    return os.path.expanduser("~").rstrip("/") or "/"
