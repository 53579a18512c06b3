"""The answer parser, including cases in which other tools counted a right answer as wrong."""

from __future__ import annotations

import pytest

from peftbench.tasks.answers import NAMED, problem, read_answer


@pytest.mark.parametrize("pattern", NAMED)
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2,125", "2125"),
        ("2125", "2125"),
        ("$2,125.00", "2125"),
        ("18 dollars", "18"),
        ("the answer is 18", "18"),
        ("The answer is: 18.", "18"),
        ("9 eggs x $2 = 18 dollars every day.", "18"),
        ("18%", "18"),
        ("-3", "-3"),
        ("12-3", "3"),
        ("(5)-2", "2"),
        ("0.50", "0.5"),
        (".5", "0.5"),
        ("007", "7"),
        ("1,000,000", "1000000"),
        ("1,2", "2"),
        ("-0", "0"),
        ("100", "100"),
        ("eighteen", None),
        ("", None),
        ("####", None),
    ],
)
def test_a_number_is_read_with_commas_currency_and_units(pattern, text, answer):
    assert read_answer(pattern, text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She has 16 - 3 = 13. 13 * 2 = 26\n#### 26", "26"),
        ("#### 2,125 dollars", "2125"),
        ("#### 18\n\nQuestion: Tom has 5 cats.\nAnswer: 5 * 4 = 20\n#### 20", "18"),
        ("#### none 7\n#### 8", "7"),
        ("#### none\n9", None),
    ],
)
def test_gsm8ks_marked_number_comes_before_any_other_and_the_first_mark_counts(text, answer):
    assert read_answer("gsm8k", text) == answer


@pytest.mark.parametrize(
    "after",
    ["\n\nTom has 5 cats. How many legs? 20", "\nQuestion: 5 cats?\nAnswer: 20", "\nQ: and 5?", "\n### Instruction: 7"],
)
def test_a_second_question_that_the_model_asks_itself_does_not_override_the_answer(after):
    assert read_answer("gsm8k", "16 - 3 = 13, so it is 18." + after) == "18"


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        ("answer is (.+)", "So the answer is 2,125.", "2125"),
        ("answer is (.+)", "So the answer is blue ", "blue"),
        ("(?i)answer is ([A-D])", "The Answer is B. The answer is C", "B"),
        ("answer is (.+)", "I do not know", None),
        ("x( *)y", "x  y", None),
        ("x|(y)", "x", None),
    ],
)
def test_the_only_group_of_an_expressions_first_match_is_the_answer(pattern, text, answer):
    assert read_answer(pattern, text) == answer


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("answer", "with 0 groups"),
        ("(a)(b)", "with 2 groups"),
        ("(a", "not a regular expression: missing )"),
        ("a{99999999999}(b)", "not a regular expression: the repetition number is too large"),
    ],
)
def test_an_invalid_pattern_is_refused_with_the_reason(pattern, told):
    assert told in problem(pattern)
    assert problem("gsm8k") is problem("answer is (.+)") is None
