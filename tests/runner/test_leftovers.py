"""What killed processes leave behind, and what their ends are called."""

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from peftbench.measure import machine
from peftbench.results.store import files
from peftbench.runner import leftovers, others, training_states
from peftbench.runner.executor import deaths, lifeline, local, sockets
from peftbench.runner.executor.limits import Limits
from tests.support import trials

CRASH = (
    'Fatal Python error: Aborted\n\nCurrent thread 0x1 (most recent call first):\n  File "/a/b.py", line 7 in f\n\n'
    "Extension modules: numpy (total: 1)"
)
"""What a process prints as it crashes in C code."""


def zombie() -> subprocess.Popen:
    """Return a process that has ended and was not waited for."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process


def test_a_process_that_was_not_waited_for_does_not_run():
    process = zombie()
    assert psutil.pid_exists(process.pid)
    assert not lifeline.alive(process.pid)
    assert lifeline.alive(os.getpid())
    process.wait()
    assert not lifeline.alive(process.pid)


def test_unfinished_files_of_ended_processes_are_swept_and_those_of_running_ones_stay(tmp_path):
    process = zombie()
    for pid in (process.pid, os.getpid(), os.getppid()):
        (tmp_path / f".saving-{pid}-x").mkdir()
        (tmp_path / training_states.FOLDER).mkdir(exist_ok=True)
        (tmp_path / training_states.FOLDER / f".{pid}-key.safetensors").touch()
    (tmp_path / training_states.FOLDER / "key.safetensors").touch()
    leftovers.sweep(tmp_path)
    left = {path.name for path in (*tmp_path.glob(".saving-*"), *(tmp_path / training_states.FOLDER).iterdir())}
    assert left == {f".saving-{os.getppid()}-x", f".{os.getppid()}-key.safetensors", "key.safetensors"}
    process.wait()


def test_unfinished_files_of_another_machine_stay_until_they_are_old(tmp_path):
    """Its process ids say nothing here, and it may be writing them now, to a file system that both have."""
    ended = zombie()
    pid = ended.pid
    ended.wait()
    names = {f"00000000.{pid}": True, f"{machine.name()}.{pid}": False, f"{machine.name()}.{os.getppid()}": True}
    for name in names:
        (tmp_path / f".saving-{name}-x").mkdir()
        (tmp_path / training_states.FOLDER / f".{name}-key").mkdir(parents=True)
    leftovers.sweep(tmp_path)
    for name, stays in names.items():
        assert (tmp_path / f".saving-{name}-x").exists() == stays
        assert (tmp_path / training_states.FOLDER / f".{name}-key").exists() == stays
    old = time.time() - leftovers.ABANDONED_SECONDS - 60
    for left in (tmp_path / f".saving-00000000.{pid}-x", tmp_path / training_states.FOLDER / f".00000000.{pid}-key"):
        os.utime(left, (old, old))
    leftovers.sweep(tmp_path)
    assert not list(tmp_path.glob(f"**/.*00000000.{pid}*"))


def test_ctrl_c_during_a_write_leaves_no_temporary_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.replacing(tmp_path / "rows.parquet"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("code", "last", "status", "quoted"),
    [
        (1, "libgomp: Thread creation failed: Resource temporarily unavailable", "oom", True),
        (-signal.SIGABRT, f"terminate called after 'std::bad_alloc'\n{CRASH}", "oom", False),
        (-signal.SIGSEGV, f"a warning of some library\n{CRASH}", "killed", False),
        (-signal.SIGABRT, "terminate called after throwing an instance of 'std::bad_alloc'", "oom", True),
        (1, "ImportError: no module", "error", True),
        (-signal.SIGSEGV, "Fatal Python error: Segmentation fault", "killed", False),
        (-signal.SIGKILL, "a warning of some library", "killed", False),
        (255, "a warning of some library", "killed", False),
    ],
)
def test_the_end_of_a_process_is_named_by_its_exit_code_and_last_words(code, last, status, quoted, tiny, tmp_path):
    job = trials.job(trials.trial(tiny, tmp_path), tmp_path)
    Path(job.log).write_text(f"something before\n{last}\n")
    ended = SimpleNamespace(exitcode=code, join=lambda _: None, is_alive=lambda: False)
    channel = SimpleNamespace(close=lambda: None)
    running = local._Running(job, ended, channel, 0.0, deaths.kernel_oom_kills(), None, Limits(job.trial, 0.0))
    row = local._death(running).row
    assert row.status == status
    assert (last in row.message) == quoted
    assert row.stack == ("b.py, line 7, in f" if CRASH in last else None)
    assert row.message.endswith(" at b.py, line 7, in f") == (CRASH in last and status == "killed")


def test_a_temporary_folder_with_a_long_path_is_not_used_for_sockets(tmp_path, monkeypatch):
    config = dict(multiprocessing.current_process()._config)
    monkeypatch.setattr(multiprocessing.current_process(), "_config", config)
    long = tmp_path / ("x" * 90)
    config["tempdir"] = str(long)
    sockets.prepare()
    short = config["tempdir"]
    assert len(short) < sockets.LONGEST
    assert Path(short).is_dir()
    sockets.prepare()
    assert config["tempdir"] == short


def test_the_socket_folder_of_a_killed_run_is_swept_by_the_next_one_and_that_of_a_living_run_stays(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = {name: value for name, value in multiprocessing.current_process()._config.items() if name != "tempdir"}
    monkeypatch.setattr(multiprocessing.current_process(), "_config", config)
    dead, living, foreign = (tmp_path / name for name in (f"{sockets.PREFIX}a", f"{sockets.PREFIX}b", "pymp-other"))
    for folder in (dead, living, foreign):
        folder.mkdir()
        (folder / "listener").touch()
    descriptor = os.open(living, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    monkeypatch.setattr(sockets, "_SHORT", str(tmp_path))
    sockets.prepare()
    made = Path(config["tempdir"])
    assert {*tmp_path.iterdir()} == {living, foreign, made}
    sockets.sweep(tmp_path)
    assert made.is_dir(), "this process lives"
    os.close(descriptor)
    sockets.sweep(tmp_path)
    assert {*tmp_path.iterdir()} == {foreign, made}


def test_killing_a_process_that_is_gone_with_its_server_is_no_error():
    process = zombie()
    process.wait()
    for pid, runs, seemed in ((process.pid, True, True), (process.pid, False, False), (None, True, False)):
        assert deaths.kill(SimpleNamespace(pid=pid, is_alive=lambda runs=runs: runs)) == seemed


def test_a_run_is_told_of_other_runs_on_its_folder_that_live(tmp_path):
    (tmp_path / f"{others.PREFIX}{machine.name()}.4194399").touch()  # of a run that was killed
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'wb'); fcntl.flock(f, fcntl.LOCK_EX); print(); time.sleep(60)"
    )
    held = tmp_path / f"{others.PREFIX}{machine.name()}.77"
    other = subprocess.Popen([sys.executable, "-c", code, held], stdout=subprocess.PIPE)
    other.stdout.readline()
    with others.announced(tmp_path) as seen:
        assert seen == (77,)
        assert "process 77" in others.note(seen)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            [held.name, f"{others.PREFIX}{machine.process_name()}"]
        )
    other.kill()
    other.wait()
    with others.announced(tmp_path), others.announced(tmp_path):
        pass  # as two threads of a process do
    with others.announced(tmp_path) as seen:
        assert seen == ()
    assert not [*tmp_path.iterdir()]


def test_a_server_that_ended_is_noticed(monkeypatch):
    process = zombie()
    server = local.forkserver._forkserver
    for pid, lives in ((None, False), (process.pid, False), (os.getpid(), True)):
        monkeypatch.setattr(server, "_forkserver_pid", pid)
        assert local._server_lives() == lives
    process.wait()


@pytest.mark.slow
def test_a_server_that_ended_is_started_again_before_the_next_trial_is_asked_for(tiny, tmp_path, monkeypatch):
    """So the libraries' import counts for no trial."""
    awaited = []
    real = local._await_server
    monkeypatch.setattr(local, "_await_server", lambda context: (awaited.append(1), real(context)))
    jobs = [trials.job(trials.trial(tiny, tmp_path, seed=seed), tmp_path) for seed in (0, 1)]
    statuses = []
    for event in local.run(jobs, workers=1):
        if event.result is not None:
            statuses.append(event.result.row.status)
            if len(statuses) == 1:
                server = local.forkserver._forkserver._forkserver_pid
                os.kill(server, signal.SIGKILL)
                os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)
    assert statuses == ["ok", "ok"]
    assert len(awaited) == 2


def test_a_server_that_is_killed_while_it_starts_a_trial_is_started_again(tiny, tmp_path, monkeypatch):
    """Seen in a storm of kills: the run ended with a traceback, and with "it ended while it imported the libraries"."""
    real, calls = local._begin, []

    def begin(process):
        calls.append(process)
        if len(calls) in (1, 3):  # while the libraries are awaited, and when the trial is asked for
            server = local.forkserver._forkserver._forkserver_pid
            os.kill(server, signal.SIGKILL)
            os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)
            raise EOFError("unexpected EOF")
        real(process)

    monkeypatch.setattr(local, "_begin", begin)
    job = trials.job(trials.trial(tiny, tmp_path), tmp_path)
    results = [event.result for event in local.run([job], workers=1) if event.result is not None]
    assert [result.row.status for result in results] == ["ok"]
    assert len(calls) == 5


def test_a_process_whose_server_has_ended_before_it_was_tied_to_it_ends(monkeypatch):
    gone = zombie()
    gone.wait()
    pid = os.fork()
    if not pid:
        lifeline.own_server()
        monkeypatch.setattr(lifeline.os, "getppid", lambda: gone.pid)
        lifeline.die_with_parent(lifeline.server())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
