"""Regular expressions of a suite: Python's own reading of them, and an end to those that never end."""

from __future__ import annotations

import re
import threading

import pytest

from peftbench.errors import UserError
from peftbench.records import patterns

SLOW = "(a+)+$"
TEXT = "a" * 40 + "b"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.1)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"(\d+)", "a 12 b"),
        (r"is (.+)", "x"),
        (r"(?:a|(b))", "a"),
        (r"(\w+)", "नमस्ते é\ud800"),
        ("(?<=#)(.*)", "a#\u2028"),
    ],
)
def test_a_match_is_that_of_pythons_re(pattern, text):
    mine, own = patterns.search(pattern, text), re.search(pattern, text)
    assert mine == (own and (own[0], *own.groups()))


def test_an_expression_that_never_ends_is_ended_and_the_next_question_is_answered():
    with pytest.raises(UserError, match=r"'\(a\+\)\+\$' takes more than 0\.1 s on 'aaa"):
        patterns.search(SLOW, TEXT)
    assert patterns.search("(a+)b", TEXT) == (TEXT, "a" * 40)


def test_names_of_modules_are_matched_as_a_whole():
    names = [f"model.layers.{n}.self_attn.q_proj" for n in range(4)]
    assert patterns.matches(r".*\.1\..*", names)
    assert not patterns.matches(r"layers", names)
    assert not patterns.matches("a", [])
    with pytest.raises(patterns.TooSlow, match="one of 4 names"):
        patterns.matches(r"(\w+\.?)+z", names)


def test_what_is_no_expression_is_an_error_of_re():
    with pytest.raises(re.error, match="unterminated"):
        patterns.matches("(", ["a"])
    with pytest.raises(re.error, match="incompatible"):
        patterns.matches("(?a)(?u)x", ["a"])
    assert patterns.matches("a", ["a"])


def test_a_python_that_cannot_start_is_named(monkeypatch):
    patterns._WORKERS.end()
    monkeypatch.setattr(patterns.sys, "executable", "/bin/false")
    for _ in range(3):  # the question meets a process that has ended, or one that is about to
        with pytest.raises(UserError, match="its Python is /bin/false"):
            patterns.search("(a)", "a")


def test_several_threads_get_their_own_answers():
    found: dict[int, object] = {}

    def ask(number: int) -> None:
        for _ in range(20):
            found[number] = patterns.search(r"(\d+)", f"x{number}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: (str(number), str(number)) for number in range(4)}


def test_a_process_that_was_ended_from_outside_is_begun_again():
    patterns.search("(a)", "a")
    process = patterns._WORKERS._process
    process.kill()
    process.wait()
    assert patterns.search("(a)", "a") == ("a", "a")
