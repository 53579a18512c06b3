"""Processes: the status of a process that dies, no orphans, a clean server. All tests here share one server."""

from __future__ import annotations

import dataclasses
import gc
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest
import torch

from peftbench.errors import UserError
from peftbench.measure import environment
from peftbench.records import Phase, Status
from peftbench.runner.executor import deaths, limits, local, stack
from tests.support import trials

LONG = {"steps": 20_000}


def finished(events):
    return [e.result for e in events if e.result is not None]


def trial_process() -> psutil.Process:
    """Return the process of the only running trial, which is the server's child."""
    server = next(p for p in psutil.Process().children() if p.children())
    (child,) = server.children()
    return child


def test_each_trial_is_one_result_and_seeds_agree_bit_for_bit_with_this_process(tiny, tmp_path):
    from peftbench.runner import trial

    made = [trials.trial(tiny, tmp_path, "base"), trials.trial(tiny, tmp_path, options={"dropout": 0.1})]
    jobs = [trials.job(one, tmp_path) for one in (*made, trials.trial(tiny, tmp_path, "full"))]
    events = list(local.run(jobs, workers=1))
    results = finished(events)
    assert [r.row.key for r in results] == [j.key for j in jobs]
    assert {r.row.status for r in results} == {"ok"}
    here = trial.run(jobs[1], time.perf_counter(), lambda _: None, lambda *_: None)
    assert [(s.loss, s.gradient_norm) for s in results[1].steps] == [(s.loss, s.gradient_norm) for s in here.steps]
    assert results[1].row.batches_sha256 == here.row.batches_sha256 == results[2].row.batches_sha256
    assert results[1].scores == here.scores
    row = results[1].row
    assert row.wall_seconds > row.train_seconds
    assert 0 <= row.untracked_seconds < row.wall_seconds
    phases = [e.phase for e in events if e.job == jobs[1]]
    ordered = list(dict.fromkeys(phases))
    # account: the reference step, before training and after
    assert ordered == ["start", "load", "check", "data", "attach", "account", "train", "save", "evaluate"]
    assert [e.step for e in events if e.job == jobs[1] and e.steps] == [1, 2, 3, 4]


def test_two_workers_finish_every_job_once(tiny, tmp_path):
    made = [trials.trial(tiny, tmp_path, seed=seed) for seed in range(4)]
    results = finished(local.run([trials.job(t, tmp_path) for t in made], workers=2))
    assert sorted(r.row.seed for r in results) == [0, 1, 2, 3]
    assert {r.row.status for r in results} == {"ok"}


def test_a_killed_trial_is_a_row_with_its_phase_and_the_grid_continues(tiny, tmp_path):
    jobs = [
        trials.job(trials.trial(tiny, tmp_path, training=LONG), tmp_path),
        trials.job(trials.trial(tiny, tmp_path), tmp_path),
    ]
    results = []
    for event in local.run(jobs, workers=1):
        if event.step == 2 and event.job is jobs[0]:
            trial_process().kill()
        if event.result is not None:
            results.append(event.result)
    assert [(r.row.status, r.row.phase) for r in results] == [("killed", "train"), ("ok", None)]
    assert "SIGKILL" in results[0].row.message
    assert not Status(results[0].row.status).final


def test_a_trial_that_the_kernel_kills_because_memory_ran_out_is_oom(tiny, tmp_path, monkeypatch):
    counts = iter([0, 1, 1, 1])
    monkeypatch.setattr(deaths, "_explained", 0)
    monkeypatch.setattr(deaths, "kernel_oom_kills", lambda: next(counts))
    job = trials.job(trials.trial(tiny, tmp_path, training=LONG), tmp_path)
    results = []
    for event in local.run([job], workers=1):
        if event.step == 1:
            trial_process().kill()
        if event.result is not None:
            results.append(event.result)
    assert results[0].row.status == "oom"
    assert Status.OOM.final


def test_memory_that_runs_out_in_another_container_kills_no_trial_of_ours(monkeypatch):
    machine = deaths.kernel_oom_kills()
    monkeypatch.setattr(deaths.cgroups, "out_of_memory_kills", lambda: 7)
    assert deaths.kernel_oom_kills() == 7, "of the own control group"
    monkeypatch.setattr(deaths.cgroups, "out_of_memory_kills", lambda: None)
    found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    assert deaths.kernel_oom_kills() == (int(found[1]) if found else 0), f"of the machine, without one ({machine})"


def test_a_process_that_prints_no_stack_is_said_to_be_nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr(stack, "_WAIT_SECONDS", 0.05)
    log = tmp_path / "log"
    assert stack.asked(os.getpid(), None) == ()
    assert stack.asked(os.getpid(), str(log)) == ()
    log.write_text('Current thread 0x1 (most recent call first):\n  File "/a/old.py", line 1 in f\n')
    asked = []
    monkeypatch.setattr(os, "kill", lambda *told: asked.append(told))
    assert stack.asked(1, str(log)) == (), "what stood there before does not count"
    assert asked == [(1, signal.SIGUSR1)]


def test_a_trial_that_exceeds_its_timeout_is_stopped_and_is_a_timeout_row(tiny, tmp_path):
    job = trials.job(trials.trial(tiny, tmp_path, training=LONG, timeout_seconds=1.5), tmp_path)
    (result,) = finished(local.run([job], workers=1))
    assert result.row.status == "timeout"
    assert result.row.phase, "the phase in which it was stopped; which one depends on the machine"
    told = re.fullmatch(r"stopped after 1.5 s \(timeout_seconds\) at (\S+), line (\d+), in .*", result.row.message)
    log = Path(job.log).read_text()
    assert f'{told[1]}", line {told[2]} in ' in log, "the whole stack"
    assert re.search(r'child\.py", line \d+ in main\n', log) or "\n  ...\n" in log, (
        "which faulthandler cuts at 100 frames"
    )
    frames = result.row.stack.splitlines()
    assert frames[0] == result.row.message.partition(" at ")[2]
    assert len(frames) <= stack.MOST
    outermost = any(frame.startswith("child.py, line ") and frame.endswith(", in main") for frame in frames)
    assert outermost or len(frames) == stack.MOST, "a deeper stack, as of an import, is cut off"
    assert "/" not in result.row.stack
    assert not Status.TIMEOUT.final


def test_a_limit_of_a_phase_stops_the_trial_in_that_phase_only(tiny, tmp_path):
    """Generous limits of other phases, the whole trial's included, do nothing."""
    given = {"phase_timeouts": (("load", 600.0), ("train", 0.5)), "timeout_seconds": 6000.0}
    job = trials.job(trials.trial(tiny, tmp_path, training=LONG, **given), tmp_path)
    (result,) = finished(local.run([job], workers=1))
    assert (result.row.status, result.row.phase) == ("timeout", "train")
    assert result.row.message.startswith("stopped after 0.5 s of train (timeout_seconds.train) at ")


def test_the_time_of_a_phase_is_without_the_phases_inside_it(monkeypatch, tiny, tmp_path):
    clock = iter([10.0, 14.0, 15.0, 15.5, 17.0])
    monkeypatch.setattr(limits.time, "perf_counter", lambda: next(clock))
    made = trials.trial(tiny, tmp_path, phase_timeouts=(("train", 5.0),), timeout_seconds=100.0)
    found = limits.Limits(made, began=0.0)
    assert found.deadline == 100.0
    found.enter(Phase.TRAIN)  # at 10
    assert found.deadline == 15.0
    found.enter(Phase.VALIDATE)  # at 14, after 4 seconds
    assert found.deadline == 100.0
    found.enter(Phase.TRAIN)  # at 15
    assert found.deadline == 16.0
    assert found.reached() is None  # at 15.5
    assert found.reached() == "stopped after 5 s of train (timeout_seconds.train)"


def test_an_error_in_the_process_is_a_row_and_its_traceback_is_in_the_log(tiny, tmp_path):
    job = trials.job(trials.trial(tiny, tmp_path, options={"target_modules": ["no_such_module"]}), tmp_path)
    (result,) = finished(local.run([job], workers=1))
    assert (result.row.status, result.row.phase) == ("error", "attach")
    assert "no_such_module" in result.row.message
    assert "Traceback" in Path(job.log).read_text()
    assert result.row.message.endswith(f"; log: logs/{job.key}.log")
    assert result.row.message == f"{result.row.reason}; log: {result.row.log_file}"


def test_a_process_that_cannot_start_is_an_error_row_with_the_last_line_of_its_log(tiny, tmp_path):
    job = trials.job(trials.trial(tiny, tmp_path), tmp_path)
    broken = dataclasses.replace(job, log=str(tmp_path / "no" / "such" / "folder.log"))
    (result,) = finished(local.run([broken], workers=1))
    assert (result.row.status, result.row.phase) == ("error", "start")
    assert result.row.message.endswith("; log: logs/folder.log")


def test_closing_the_iterator_ends_all_processes(tiny, tmp_path):
    events = local.run([trials.job(trials.trial(tiny, tmp_path, training=LONG), tmp_path)], workers=1)
    for event in events:
        if event.step == 1:
            child = trial_process()
            break
    events.close()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_threads_of_trials_spin_only_briefly_unless_the_user_sets_it(tmp_path):
    code = (
        "import os, sys, multiprocessing\n"
        "from peftbench.runner.executor import local\n"
        "from peftbench.measure import environment\n"
        "NAMES = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')\n"
        "def say(): print({name: os.environ[name] for name in NAMES if name in os.environ}, flush=True)\n"
        "def main():\n"
        "    context = multiprocessing.get_context('forkserver')\n"
        "    local._await_server(context)\n"
        "    process = context.Process(target=say)\n"
        "    process.start()\n"
        "    process.join()\n"
        "    print(environment.describe()['openmp'])\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    (tmp_path / "runner.py").write_text(code)
    clean = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    clean["PYTHONPATH"] = str(Path(__file__).parents[2])
    for given, found in (({}, {"GOMP_SPINCOUNT": "5000"}), (users := {"OMP_WAIT_POLICY": "active"}, users)):
        command = [sys.executable, str(tmp_path / "runner.py")]
        done = subprocess.run(command, env=clean | given, capture_output=True, text=True, timeout=60)
        assert done.stdout.splitlines() == [str(found)] * 2, done.stderr


def test_the_callers_main_module_is_as_it_was_after_a_run():
    main = sys.modules["__main__"]
    before = (main.__spec__, getattr(main, "__file__", None))
    with local._main_module_hidden():
        assert (main.__spec__, getattr(main, "__file__", None)) == (None, None)
    assert (main.__spec__, getattr(main, "__file__", None)) == before


def test_a_main_module_without_a_file_has_none_after_a_run(monkeypatch):
    main = sys.modules["__main__"]
    monkeypatch.delattr(main, "__file__", raising=False)
    with local._main_module_hidden():
        assert main.__spec__ is None
        assert not hasattr(main, "__file__")
    assert not hasattr(main, "__file__")


def server_says(channel):
    """Runs in a process forked from the server, whose state it inherits."""
    import torch

    few = gc.get_freeze_count() > 10 * len(gc.get_objects())  # a collection looks at what the trial has made alone
    channel.send((torch.cuda.is_initialized(), "peft" in sys.modules, few))


def answers_late(seconds):
    """Runs in such a process: give an answer after some seconds."""
    time.sleep(seconds)
    return os.getpid()


def refuses():
    """Runs in such a process."""
    raise UserError("it cannot be done")


def test_a_process_that_is_asked_returns_an_answer_or_refuses_or_is_ended_if_it_takes_too_long():
    found = local.ask(answers_late, 0)
    assert found not in (None, os.getpid())
    with pytest.raises(UserError, match=r"^it cannot be done$"):
        local.ask(refuses, seconds=60)
    assert local.ask(answers_late, 20, seconds=0.2) is None
    server = psutil.Process(forkserver._forkserver._forkserver_pid)
    assert not [child for child in server.children() if child.status() != psutil.STATUS_ZOMBIE]


def test_the_libraries_are_loaded_without_a_trial_and_the_environment_is_restored(monkeypatch):
    def ends(process):
        raise EOFError("it was killed")

    before = dict(os.environ)
    local.load_libraries()
    assert os.environ == before
    assert forkserver._forkserver._forkserver_pid in local._servers
    monkeypatch.setattr(local, "_begin", ends)
    with pytest.raises(UserError, match="the process server ended while it imported the libraries: it was killed"):
        local.load_libraries()
    assert os.environ == before


def test_the_server_has_the_libraries_and_has_never_touched_cuda():
    from peftbench.measure import device

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["peftbench.runner.executor.preload"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=server_says, args=(theirs,))
    process.start()
    initialized, has_peft, few = ours.recv()
    process.join()
    assert initialized is False
    assert few
    assert has_peft is not device.may_touch_cuda()


def test_a_server_that_other_code_started_is_replaced_and_the_environment_restored(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import multiprocessing, os
        from multiprocessing import forkserver
        from peftbench.runner.executor import child, local
        def main():
            context = multiprocessing.get_context("forkserver")
            first = context.Process(target=child.nothing)
            first.start()
            first.join()
            other, before = forkserver._forkserver._forkserver_pid, dict(os.environ)
            context.set_forkserver_preload(["peftbench.runner.executor.lifeline"])  # in place of the heavy libraries
            local._await_server(context)
            ours = forkserver._forkserver._forkserver_pid
            local._await_server(context)
            assert forkserver._forkserver._forkserver_pid == ours != other
            local._restore(before)
            print({name: value for name, value in os.environ.items() if before.get(name) != value})
        if __name__ == "__main__":
            main()
        """)
    )
    clean = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    clean["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, str(script)], env=clean, capture_output=True, text=True, timeout=60)
    assert done.stdout == "{}\n", done.stdout + done.stderr


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, *(pytest.param(name, marks=pytest.mark.slow) for name in (signal.SIGTERM, signal.SIGINT))]
)
def test_no_process_outlives_its_runner(how, tiny, tmp_path):
    script = tmp_path / "runner.py"
    script.write_text(
        textwrap.dedent(f"""
        import signal, sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from pathlib import Path
        from tests.support import trials
        from peftbench.runner.executor import local, stack
        def main():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
            made = trials.trial(Path({str(tiny)!r}), Path({str(tmp_path)!r}), training={LONG!r})
            for event in local.run([trials.job(made, Path({str(tmp_path)!r}))], workers=1):
                if event.step == 1:
                    print("training", flush=True)
        if __name__ == "__main__":
            main()
        """)
    )
    runner = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert runner.stdout.readline() == b"training\n"
    family = psutil.Process(runner.pid).children(recursive=True)
    assert len(family) >= 3, "resource tracker, server, trial"
    if how is signal.SIGINT:
        os.killpg(runner.pid, how)  # as a terminal does: to everyone at once
    else:
        runner.send_signal(how)
    runner.wait(20)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []


def test_the_environment_contains_no_path_of_this_machine():
    described = environment.describe()
    assert described["packages"]["torch"]
    assert described["cpus_available"] >= 1
    text = repr(described)
    assert str(Path.home()) not in text
    assert str(Path(__file__).parents[2]) not in text


def test_the_libraries_that_the_server_imports_on_a_gpu_machine_never_touch_cuda():
    """Counting the GPUs is enough to make CUDA unusable in every process that is forked afterwards."""
    code = """
        import importlib, sys, torch
        from peftbench.measure import device
        device.may_touch_cuda = lambda: True
        def asked(*_, **__):
            sys.exit("CUDA was asked")
        for name in ("is_available", "device_count", "init", "_lazy_init", "current_device", "get_device_properties"):
            setattr(torch.cuda, name, asked)
        from peftbench.runner.executor import preload
        assert {*preload.SAFE} <= set(sys.modules) and not {"peft", "bitsandbytes"} & set(sys.modules)
    """
    told = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


def test_bitsandbytes_message_for_each_product_is_not_in_the_log(caplog):
    from bitsandbytes.nn import Linear8bitLt

    from peftbench.runner.executor import child

    layer = Linear8bitLt(8, 8, has_fp16_weights=False, threshold=6.0).to("cpu").eval()
    child._silence_libraries()
    layer(torch.ones(2, 8))
    assert caplog.messages == []


def test_a_process_that_is_killed_while_it_deploys_keeps_the_trials_scores(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, deployed=("merged", "adapter", "requantized"))
    result = pid = None
    for event in local.run([trials.job(made, tmp_path)], workers=1):
        pid = event.process or pid
        if event.phase == "deploy" and event.result is None:
            os.kill(pid, signal.SIGKILL)
        result = event.result or result
    assert result.row.status == Status.OK
    assert len(result.scores) == 2
    assert result.row.wall_seconds > 0
    stored = json.loads(result.row.deployed_json)["forms"]
    assert stored["requantized"]["status"] == "unsupported"
    assert stored["adapter"]["status"] == "killed"
    assert "SIGKILL" in stored["adapter"]["message"]


def test_a_stack_is_read_although_the_process_collects_garbage_at_that_moment(tmp_path):
    log = tmp_path / "log"
    printed = 'Current thread 0x1 (most recent call first):\n  Garbage-collecting\n  File "a/loop.py", line 7 in step\n'
    log.write_text(f"Fatal Python error: Aborted\n\n{printed}")
    assert stack.fatal(str(log)) == ("loop.py, line 7, in step",)
