"""Ctrl-C, SIGTERM and SIGHUP: once, twice, while something is written, in the exit code and in the message."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from peftbench import interrupts

ROOT = Path(__file__).parents[2]
COMMAND = """
    import sys, time
    from peftbench import interrupts

    def work():
        with {block}:
            print("working", flush=True)
            for _ in range({tenths}):
                time.sleep(0.1)
            print("written", flush=True)
        print("next", flush=True)
        time.sleep(60)

    with interrupts.handled(restores=False):
        try:
            work()
        except KeyboardInterrupt as stop:
            text, code = interrupts.message(stop)
            print(text, flush=True)
            time.sleep({tidies})
            sys.exit(code)
"""


def started(block="interrupts.deferred()", tenths=600, tidies=0.0, **more) -> subprocess.Popen:
    code = textwrap.dedent(COMMAND.format(block=block, tenths=tenths, tidies=tidies))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, text=True, **pipes, **more)
    assert process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGHUP, 129, "stopped by SIGHUP"),
    ],
)
def test_the_first_signal_ends_a_command_by_convention_and_says_how_to_go_on(sent, code, words):
    process = started("__import__('contextlib').nullcontext()")
    process.send_signal(sent)
    out, err = process.communicate()
    assert process.returncode == code
    assert out == f"{words}; finished trials are kept, the same command continues\n"
    assert err == ""


def test_what_is_being_written_is_written_whole_and_then_the_command_ends():
    process = started(tenths=5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert out.splitlines()[0] == "written"
    assert "next" not in out
    assert err == ""


@pytest.mark.parametrize("block", ["interrupts.deferred()", "__import__('contextlib').nullcontext()"])
def test_a_second_signal_stops_at_once_also_what_is_being_written_or_tidied(block):
    process = started(block, tidies=60)
    process.send_signal(signal.SIGTERM)
    if "null" in block:
        assert "stopped by SIGTERM" in process.stdout.readline()
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(interrupts._SAME_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    out, err = process.communicate()
    assert process.returncode == 130
    assert err == "peftbench: stopped at once; finished trials are kept, the same command continues\n"
    assert "written" not in out


def test_two_signals_within_an_instant_are_one_request():
    """As ``timeout`` and a terminal that closes send them."""
    process = started(tenths=5)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert out.splitlines()[0] == "written"
    assert process.returncode in (129, 143), "the system chooses which of several waiting signals is the first"
    assert err == ""


def test_a_signal_that_is_ignored_stays_so_and_former_handlers_come_back():
    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.handled(restores=True):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is interrupts._receive
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(interrupts.Stopped), interrupts.deferred():
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before[2])
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == before
    with interrupts.deferred():
        pass  # a later command of this process was not asked to stop
