"""A comparison of two nights in words: for a terminal, as Markdown, as a page and as JSON."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from peftbench.errors import UserError
from peftbench.records.watch import Watch
from peftbench.report.nights import FORMATS, heading, markdown, written
from peftbench.results.store import record_grid, write
from peftbench.results.watch.comparison import Comparison, compare
from peftbench.results.watch.findings import ALL_CELLS, Finding
from tests.support.results_factory import ENVIRONMENT, make_grid, make_result, store

NASTY = "no room | for <script>alert('x')</script> `now` *here*"
CELLS = tuple(f"lora r={rank} fp32" for rank in (1, 2, 4, 8, 16))


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power."""
    monkeypatch.setattr("os.fsync", lambda _: None)


def night(place: Path, score: float = 0.9, **fields: Any) -> Path:
    results = []
    for cell in CELLS:
        for seed in range(2):
            more = fields if cell == CELLS[0] else {}
            level = score - seed / 99 if more else 0.9 - seed / 100
            results.append(make_result(cell, seed=seed, scores={"judge": level}, **more))
    return store(place, *results)


@pytest.fixture
def changed(tmp_path: Path) -> Comparison:
    """A night with a fallen score, more memory, a failure with a nasty message, and another torch."""
    old, new = night(tmp_path / "old"), night(tmp_path / "new", 0.7, peak_train_bytes=5_700_000)
    write(new, make_result(CELLS[1], seed=1, status="oom", message=NASTY), ["judge"])
    packages = {**ENVIRONMENT["packages"], "torch": "2.14.0"}  # type: ignore[dict-item]
    other = json.dumps({**ENVIRONMENT, "packages": packages})
    write(new, make_result(CELLS[2], seed=0, scores={"judge": 0.9}, environment_json=other), ["judge"])
    return compare(old, new)


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    grid = make_grid(tmp_path_factory.mktemp("same") / "grid", steps=2, examples=1)
    return compare(grid, grid)


def test_an_unknown_format_is_refused_with_the_nearest_one(same: Comparison) -> None:
    with pytest.raises(UserError, match="unknown format 'htm'; did you mean 'html'"):
        written(same, "htm")


def test_text_has_a_line_for_each_change_and_ends_with_the_verdict(changed: Comparison) -> None:
    text = written(changed)
    lines = text.splitlines()
    assert re.search(
        r"^regressed +lora r=2 fp32 +trials that end ok .* 2 ok before, 1 ok, 1 oom now: no room", text, re.MULTILINE
    )
    assert re.search(r"lora r=1 fp32 +training memory +3.62 MiB \(n=2\) +5.44 MiB \(n=2\) +\+50.0 %", text)
    assert re.search(r"score of judge +89.5 % \(n=2\) +69.5 % \(n=2\) +-20.0 points", text)
    assert "cannot tell:\n  training speed of lora r=4 fp32: packages.torch is 2.13.0 and 2.13.0, 2.14.0" in text
    assert "package packages.torch: 2.13.0 -> 2.13.0, 2.14.0; may explain status, memory, score" in text
    verdict = " ".join(" ".join(lines[lines.index("", len(lines) - 4) :]).split())
    assert verdict.startswith(
        "regressed: trials that end ok of lora r=2 fp32; training memory of lora r=1 fp32; score of"
    )
    assert max(map(len, lines[:2])) < 400


def test_text_of_equal_nights_counts_what_is_unchanged(same: Comparison) -> None:
    text = written(same)
    assert (
        "15 cells are in both; unchanged, with the number of cells: trials that end ok (14), training memory (13),"
        in " ".join(text.split())
    )
    assert "cannot tell:\n  trials that end ok of full nf4: no trial ended ok on either side" in text
    assert "what else changed" not in text
    assert re.search(r"\nno regression: \d+ of \d+ quantities of cells judged, 1 cannot be told\n$", text)


def test_markdown_has_the_changes_first_and_folds_the_rest(changed: Comparison) -> None:
    text = written(changed, "md")
    assert text.startswith("### peftbench: regressed: trials that end ok of lora r=2 fp32;")
    table, folded = text.index("| verdict | cell |"), text.index("<details><summary>Unchanged:")
    assert table < text.index("What else changed") < text.index("<details><summary>Cannot tell: 1<") < folded
    assert text.count("<details>") == text.count("</details>") == 2
    assert text.count("| **regressed** |") == 3
    assert "<script>" not in text
    assert r"\<script\>" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {9, 8}


def test_markdown_fits_a_comment_and_says_what_it_left_out(changed: Comparison) -> None:
    one = changed.of("regressed")[0]
    many = tuple(dataclasses.replace(one, cell=f"cell {number} " + "x" * 60) for number in range(3_000))
    text = written(dataclasses.replace(changed, findings=many), "md")
    assert len(text) < 65_536
    assert "2850 more rows do not fit here." in text
    quiet = tuple(dataclasses.replace(each, verdict="unchanged", reason="y" * 900) for each in many)
    text = written(dataclasses.replace(changed, findings=quiet), "md")
    assert len(text) < markdown.LARGEST + 200
    assert "1 parts do not fit here; `--format html` or `json` has everything." in text


class Page(HTMLParser):
    """What a page has: tags, their attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action")]


def test_the_page_is_one_file_without_scripts_and_requests_and_escapes_all_text(changed: Comparison) -> None:
    text = written(changed, "html")
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert "script" not in page.tags
    assert page.links == []
    assert "url(" not in text
    assert "default-src 'none'" in text
    assert "&lt;script&gt;alert(" in text
    assert (
        text.index("What changed") < text.index("<summary>Cannot tell: 2</summary>") < text.index("<summary>Unchanged:")
    )
    assert page.tags.count("details") == 2


def test_json_has_raw_values_with_their_units(changed: Comparison) -> None:
    found = json.loads(written(changed, "json"))
    assert found["verdict"] == "regressed"
    assert sum(found["counts"].values()) == len(found["findings"])
    (memory,) = [each for each in found["findings"] if each["verdict"] == "regressed" and each["kind"] == "memory"]
    assert memory | {"rule": ""} == {
        "verdict": "regressed",
        "base": "nano",
        "cell": CELLS[0],
        "kind": "memory",
        "quantity": "peak_train_bytes",
        "unit": "bytes",
        "better": "lower",
        "old": 3_800_000,
        "new": 5_700_000,
        "old_trials_count": 2,
        "new_trials_count": 2,
        "change_is": "ratio",
        "change": 0.5,
        "low": None,
        "high": None,
        "adjusted_p": None,
        "rule": "",
        "reason": None,
    }
    assert found["watch"]["speed_percent"] == 5
    assert found["moved"][0]["name"] == "packages.torch"
    assert found["new"]["folder"] == changed.new.name


def test_a_growth_from_zero_is_written_in_every_form(tmp_path: Path) -> None:
    old, new = night(tmp_path / "old", checkpoint_bytes=0), night(tmp_path / "new")
    found = compare(old, new)
    assert "from zero" in written(found)
    assert all(written(found, form) for form in FORMATS)
    assert "Infinity" not in written(found, "json")


def test_folders_of_different_suites_are_named(tmp_path: Path) -> None:
    grid = make_grid(tmp_path / "grid", steps=1, examples=1)
    for seed in range(2):
        made = make_result(seed=seed)
        row = dataclasses.replace(made.row, base="llama", suite="real_small", key=f"{seed}")
        write(tmp_path / "other", dataclasses.replace(made, row=row, steps=(), examples=()), ["judge"])
    found = compare(tmp_path / "other", grid)
    assert written(found).splitlines() == [
        "no verdict: no cell is in both folders, so nothing can be compared",
        f"{tmp_path / 'other'} is suite real_small on llama; {grid} is suite quickstart on nano",
    ]
    assert "no verdict" in written(found, "md")
    assert "no cell is in both folders" in written(found, "html")
    assert json.loads(written(found, "json"))["verdict"] == "no verdict"


def test_what_was_left_out_is_told(tmp_path: Path) -> None:
    old, new = night(tmp_path / "old"), night(tmp_path / "new", train_seconds=10.0, train_waiting_seconds=4.0)
    write(old, make_result("lora r=64 fp32"), ["judge"])
    keys = [make_result(cell, seed=seed).row.key for cell in CELLS for seed in range(3)]
    write(new, make_result("lora r=128 fp32"), ["judge"])
    record_grid(new, keys, "peftbench run night")
    text = written(compare(old, new, Watch(judge=("speed",))))
    for part in (
        "only in old: lora r=64 fp32",
        "new: 5 trials of the grid without a result yet",
        "new: 1 stored row not of the grid that was last run, or older: excluded",
        "new: Times of 2 of 2 trials are unreliable: the machine was busy",
        "not judged, as watch says: status, memory, size, score, retention, inference, merge",
    ):
        assert part in " ".join(text.split())


def test_cells_of_several_base_models_have_their_names(tmp_path: Path) -> None:
    for name, peak in (("old", 100), ("new", 200)):
        for base in ("nano", "llama"):
            made = make_result(peak_train_bytes=peak)
            row = dataclasses.replace(made.row, base=base, key=base)
            write(tmp_path / name, dataclasses.replace(made, row=row, steps=(), examples=()), ["judge"])
    found = compare(tmp_path / "old", tmp_path / "new")
    assert "training memory of lora r=8 fp32 on llama, lora r=8 fp32 on nano" in heading(found)


@pytest.mark.parametrize("format", ["text", "md", "html"])
def test_what_all_cells_did_is_said_once(same: Comparison, format: str) -> None:
    """A change of all cells has its reason in its row; without a verdict the reason is a sentence."""
    quantity = same.findings[0].quantity
    for verdict in ("regressed", "cannot tell"):
        one = Finding("nano", ALL_CELLS, quantity, verdict, "noise", reason="because-of-the-machine")
        text = written(dataclasses.replace(same, findings=(one,)), format)
        assert text.count("because-of-the-machine") == (2 if (verdict, format) == ("cannot tell", "html") else 1)
