"""The script that compares the tables of two checkouts sees a number that changed and no reworded sentence."""

from __future__ import annotations

from tools.validation.same_tables import differences, folders, numbers


def test_numbers_are_found_and_parts_of_words_are_not() -> None:
    text = "lora r=8 fp32: 91.25 ± 0.30 %, 1,048,576 bytes, -1.5e-05 in nf4 (p < 0.05, 95 % interval)"
    assert numbers(text) == ["8", "91.25", "0.30", "1048576", "-1.5e-05"]


def test_a_reworded_sentence_is_the_same_and_another_number_is_not() -> None:
    old = {"report r --format tex": (0, "Times of 1 of 2 trials: do not trust them.")}
    assert list(differences(old, {"report r --format tex": (0, "1 of 2 trials ran on a busy machine.")})) == []
    (found,) = differences(old, {"report r --format tex": (0, "Times of 1 of 3 trials.")})
    assert "lost ['2'], added ['3']" in found


def test_numbers_that_change_places_in_a_csv_are_reported() -> None:
    old, new = ({"report r --format csv": (0, text)} for text in ("a,1\nb,2\n", "a,2\nb,1\n"))
    assert list(differences(old, new)) == ["report r --format csv: numbers differ in the lines 0, 1"]


def test_another_exit_code_is_reported() -> None:
    assert list(differences({"compare a b": (0, "")}, {"compare a b": (1, "")})) == [
        "compare a b: exit code 0 became 1"
    ]


def test_searches_inside_a_folder_are_found(tmp_path) -> None:
    for place in ("a/trials", "a/search/trials", "b/steps"):
        (tmp_path / place).mkdir(parents=True)
    assert folders(tmp_path) == [tmp_path / "a", tmp_path / "a" / "search"]
