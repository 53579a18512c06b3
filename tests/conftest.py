"""Offline, and with a tiny base: two layers of width 64 that every method can be attached to in milliseconds."""

from __future__ import annotations

import gc
import io
import json
import os
import pickle
from concurrent.futures import Executor, Future
from contextlib import redirect_stdout
from pathlib import Path

import pytest

gc.disable()  # until all tests are collected: what is imported stays
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PEFTBENCH_TRACEBACK"] = "1"  # an unexpected exception fails a test with its traceback
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["PEFTBENCH_SURFACE_LIBRARY_ERRORS"] = "1"  # what a library raises is a fault here, not a refusal
# tensors are tiny: in two test processes on two cores, more threads would mostly wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")


class Here(Executor):
    """In place of a ``ProcessPoolExecutor``: what is submitted runs at once, in this process."""

    def __init__(self, *_):
        pass

    def submit(self, function, /, *arguments):
        function, arguments = pickle.loads(pickle.dumps((function, arguments)))  # as on the way to a process
        future: Future = Future()
        try:
            future.set_result(pickle.loads(pickle.dumps(function(*arguments))))
        except Exception as error:
            future.set_exception(pickle.loads(pickle.dumps(error)))
        return future


def anatomy(folder: Path):
    """In place of ``models.anatomy.child.start``: what that process prints, read in this one when it is asked for."""
    from peftbench.models.anatomy import child

    class Read(child.Reading):
        def result(self):
            printed = io.StringIO()
            with redirect_stdout(printed):
                child.main(str(folder.resolve()))
            return json.loads(printed.getvalue())

        def stop(self):
            pass

    return Read(None)


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="run the tests that take minutes")


def pytest_configure(config):
    """Hide a GPU from all tests but those that are marked for one: the others know the CPU's numbers."""
    words = config.option.markexpr.replace("(", " ").replace(")", " ").split()
    if not any(word == "gpu" and before != "not" for before, word in zip(["", *words], words, strict=False)):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config, items):
    slow = [item for item in items if "slow" in item.keywords]
    for item in slow:
        if not config.getoption("--run-slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; give --run-slow"))
        elif config.getoption("timeout", None) is None:  # else the command's own limit holds
            item.add_marker(pytest.mark.timeout(0))


def pytest_collection_finish(session):
    """Let the garbage collector pass over what libraries hold, and run less often: a third of the CPU time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def anatomies_here():
    """Read anatomies in this process, also for pages that fixtures of a module make; yield what starts a process."""
    from peftbench.models.anatomy import child

    with pytest.MonkeyPatch.context() as patch:
        real = child.start
        patch.setattr(child, "start", anatomy)
        yield real


@pytest.fixture(autouse=True)
def few_interpreters(request, monkeypatch, anatomies_here):
    """Do here what only spares a command the import of torch by a new interpreter, unless that is what is tested."""
    if request.node.get_closest_marker("spawns") is None:
        for module in ("peftbench.training.token_lengths", "peftbench.planner.match"):
            monkeypatch.setattr(f"{module}.ProcessPoolExecutor", Here)
    else:
        monkeypatch.setattr("peftbench.models.anatomy.child.start", anatomies_here)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with a small random Llama and its tokenizer, the same in every run."""
    import torch

    from tests.support import tiny_base

    torch.set_num_threads(1)
    return tiny_base.make(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real models and datasets, beside the checkout; absent on most machines."""
    folder = Path(os.environ.get("PEFTBENCH_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data on this machine (set PEFTBENCH_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def peer(real_data: Path) -> Path:
    """The result files of huggingface/peft's method comparison, a part of the real data."""
    folder = real_data / "hf_method_comparison"
    if not folder.is_dir():
        pytest.skip("no results of the peer on this machine (set PEFTBENCH_SHARED_DATA)")
    return folder
