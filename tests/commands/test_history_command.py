"""``peftbench history`` and ``peftbench import``: formats, files, exit codes and messages."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from peftbench import cli
from peftbench.commands.history import FORMATS
from peftbench.report.history import words
from tests.support.nights import Team, make_nights, name_of, packages
from tests.support.results_factory import make_result, store


def grown(night: int, cell: int, seed: int) -> dict:
    moved = {"peak_train_bytes": 4_500_000} if cell == 1 and night >= 3 else {}
    return moved | {"environment_json": packages(torch="2.14" if night >= 3 else "2.13")}


@pytest.fixture(scope="module")
def regressed(tmp_path_factory):
    return make_nights(tmp_path_factory.mktemp("history") / "nights", Team(6, 2, planted=grown))


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    return make_nights(tmp_path_factory.mktemp("unchanged") / "nights", Team(5, 2))


def test_text_tells_the_change_first_with_its_cause(regressed, capsys):
    assert cli.main(["history", str(regressed)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("regressed: 1 change for the worse is in force\n6 nights, 2026-01-01 to 2026-01-06; 2 cells")
    assert "REGRESSED  training memory, lora r=3 fp32: +49.5 %\n  2.87 MiB -> 4.29 MiB, exact" in out
    assert "since 2026-01-04 (before: 2026-01-03)" in out
    assert "what else changed: packages.torch: 2.13 -> 2.14" in out


def test_markdown_is_a_table_of_changes(regressed, capsys):
    assert cli.main(["history", str(regressed), "--format", "md"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("**regressed: 1 change for the worse is in force** (6 nights")
    assert lines[4].startswith("| 2026-01-04 | REGRESSED | lora r=3 fp32 | training memory | 2.87 MiB | 4.29 MiB |")
    assert len({line.count("|") for line in lines[2:5]}) == 1


def test_json_has_everything(regressed, capsys):
    assert cli.main(["history", str(regressed), "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "regressed"
    assert [night["name"] for night in found["nights"]] == [name_of(night) for night in range(6)]
    change = found["changes"][0]
    assert (change["quantity"], change["unit"], change["before"], change["after"]) == (
        "peak_train_bytes",
        "bytes",
        3_010_000,
        4_500_000,
    )
    assert change["regressed"]
    assert change["moved"][0]["name"] == "packages.torch"
    memory = [each for each in found["series"] if each["quantity"] == "peak_train_bytes"]
    assert [len(each["values"]) for each in memory] == [6, 6]


def test_the_page_is_one_offline_file_with_a_sparkline_per_cell(regressed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["history", str(regressed), "--format", "html"]) == 1
    assert "written: reports/nights-history.html" in capsys.readouterr().out
    text = (tmp_path / "reports" / "nights-history.html").read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", text)
    assert "prefers-color-scheme: dark" in text
    assert text.count("<svg") >= 2 * 5
    assert text.index("Changes") < text.index("Cells")
    assert 'class="trouble">lora r=3 fp32' in text


def test_names_are_escaped_in_every_format(tmp_path, capsys):
    hostile = "<script>alert(1)</script> | `x`\n# y"
    for day, size in ((1, 100), (2, 200)):
        store(
            tmp_path / "nights" / f"2026-01-0{day}",
            make_result(hostile, checkpoint_bytes=size, finished_at=f"2026-01-0{day}T00:00:00+00:00"),
        )
    shown = {}
    for format in FORMATS:
        given = ["-o", str(tmp_path / "page.html")] if format == "html" else []
        assert cli.main(["history", str(tmp_path / "nights"), "--format", format, *given]) == 1
        shown[format] = capsys.readouterr().out
    assert "<script" not in (tmp_path / "page.html").read_text()
    assert "<script" not in shown["md"].replace(r"\<", "")
    rows = [line for line in shown["md"].splitlines() if "REGRESSED" in line]
    assert len(rows) == 1
    assert json.loads(shown["json"])["changes"][0]["cell"] == hostile
    assert "\n# y" not in shown["text"]


def test_nothing_that_changed_exits_with_zero(unchanged, capsys):
    for format in ("text", "md", "json"):
        assert cli.main(["history", str(unchanged), "--format", format]) == 0
    assert "no regression: no change for the worse is in force" in capsys.readouterr().out


def test_last_limits_what_fails(regressed, capsys):
    assert cli.main(["history", str(regressed), "--last", "3"]) == 1
    assert cli.main(["history", str(regressed), "--last", "2"]) == 0
    assert "worse, but older than asked for" in capsys.readouterr().out


@pytest.mark.parametrize("last", ["0", "-1", "x", "1.5", "", "9" * 5000])
def test_last_must_be_a_number_of_nights(unchanged, last, capsys):
    assert cli.main(["history", str(unchanged), f"--last={last}"]) == 2
    assert "expected a number of nights" in capsys.readouterr().err


def test_one_night_exits_with_three(unchanged, capsys):
    assert cli.main(["history", str(unchanged / name_of(0))]) == 3
    assert capsys.readouterr().out.startswith("no verdict: only one night (2026-01-01), and a change needs two\n")


def test_only_broken_nights_exit_with_three(tmp_path, capsys):
    (tmp_path / "nights" / "2026-01-01").mkdir(parents=True)
    assert cli.main(["history", str(tmp_path / "nights")]) == 3
    out = capsys.readouterr().out
    assert out.startswith("no verdict: no night could be read\n")
    assert "note: left out: " in out
    assert cli.main(["history", str(tmp_path / "nights"), "--format", "html", "-o", str(tmp_path / "x.html")]) == 3


def test_a_folder_that_does_not_exist_is_bad_input(unchanged, capsys):
    assert cli.main(["history", str(unchanged.parent / "nigths")]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_a_history_can_be_written_to_a_file(unchanged, tmp_path, capsys):
    assert cli.main(["history", str(unchanged), "--format", "json", "-o", str(tmp_path / "a" / "h.json")]) == 0
    assert capsys.readouterr().out == f"written: {tmp_path / 'a' / 'h.json'}\n"
    assert json.loads((tmp_path / "a" / "h.json").read_text())["verdict"] == "no regression"


def rows(path, *given: dict) -> None:
    names = ["commit_date", "file", "created", "acc", "mem", "torch"]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(given)


def test_import_writes_a_folder_for_each_night_that_history_reads(tmp_path, capsys):
    run = {"file": "lora--llama-3.2-3B-rank32.json", "acc": str(633 / 1319), "mem": "20.5", "torch": "2.9"}
    first = run | {"commit_date": "2026-01-13", "created": "2026-01-10"}
    rows(
        tmp_path / "history.csv",
        first,
        first | {"commit_date": "2026-02-01"},
        run | {"commit_date": "2026-07-20", "created": "2026-07-15", "mem": "22.5", "torch": "2.13"},
    )
    nights = tmp_path / "nights"
    given = ["import", "hf-method-comparison", str(tmp_path / "history.csv"), "-o", str(nights)]
    assert cli.main(given) == 0
    first_line, second, names, after = capsys.readouterr().out.splitlines()
    assert first_line == f"{nights / '2026-01-13'}: 1 experiment, read from {tmp_path / 'history.csv'}"
    assert second.startswith(f"{nights / '2026-07-20'}: 1 experiment")
    assert names.startswith("A night's name is the day of its newest run")
    assert after == f"next: peftbench history {nights}"
    assert cli.main(["history", str(nights)]) == 1
    out = capsys.readouterr().out
    assert "memory reserved, whole run, lora rank32: +9.8 %" in out
    assert "packages.torch: 2.9 -> 2.13" in out
    assert cli.main(given) == 2
    assert "has results already" in capsys.readouterr().err


def test_import_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text('{"run_info": {}}')
    (tmp_path / "no.json").write_text("[")
    (tmp_path / "x.txt").write_text("")
    rows(tmp_path / "acc.csv", {"commit_date": "2026-01-13", "file": "a.json", "created": "2026-01-10", "acc": "48"})
    (tmp_path / "columns.csv").write_text("a,b\n1,2\n")
    expected = {
        "empty": "has no result files",
        "bad.json": "is not a result file of method_comparison",
        "no.json": "is not a result file of method_comparison",
        "x.txt": "expected a result file",
        "acc.csv": "not between 0 and 1",
        "columns.csv": "as a history it lacks commit_date, file, created, acc",
        "missing": "no such file",
    }
    for name, message in expected.items():
        given = ["import", "hf-method-comparison", str(tmp_path / name), "-o", str(tmp_path / "out")]
        assert cli.main(given) == 2, name
        assert message in capsys.readouterr().err
    assert cli.main(["import", "hf-method-comparsion", str(tmp_path / "x.txt"), "-o", str(tmp_path / "out")]) == 2
    assert "did you mean 'hf-method-comparison'" in capsys.readouterr().err


@pytest.mark.parametrize(("bases", "text"), [(("large",), "lora"), (("small", "large"), "lora on large")])
def test_a_cell_is_told_with_its_base_if_there_are_several(bases, text):
    history = SimpleNamespace(series=[SimpleNamespace(base=base) for base in bases])
    change = SimpleNamespace(cell="lora", cells=(), compared=1, base="large")
    assert words.where(history, change) == text
    common = SimpleNamespace(cell=None, cells=("a", "b"), compared=3, base="large")
    assert words.where(history, common) == text.replace("lora", "2 of 3 cells")


def test_levels_that_would_read_the_same_have_all_their_digits():
    quantity = SimpleNamespace(unit="bytes")
    change = SimpleNamespace(quantity=quantity, before=2_118_656.0, after=2_118_144.0, difference=-512.0)
    change.relative = change.difference / change.before
    assert words.ends(change) == ("2,118,656 bytes", "2,118,144 bytes")
    assert words.size(change) == "-0.02 %"
    change.after, change.difference = 4e6, 4e6 - change.before
    assert words.ends(change) == ("2.02 MiB", "3.81 MiB")


def test_nights_of_different_suites_are_warned_of(tmp_path, capsys):
    one = make_result()
    for day in (1, 2):
        store(tmp_path / f"2026-01-0{day}", one)
    cli.main(["history", str(tmp_path)])
    assert "suites" not in capsys.readouterr().out
    store(tmp_path / "2026-01-03", replace(one, row=replace(one.row, suite="two")))
    cli.main(["history", str(tmp_path)])
    assert "Warning: nights of 2 suites (quickstart, two): what changed may be the suite" in capsys.readouterr().out


def test_one_level_too_high_the_folders_of_nights_are_named(tmp_path, capsys):
    store(tmp_path / "nights" / "peer" / "2026-01-01", make_result())
    assert cli.main(["history", str(tmp_path / "nights")]) == 2
    assert f"holds no nights, but these in it do: {tmp_path / 'nights' / 'peer'}" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path / "nights")]) == 2
    assert f"but these in it do: {tmp_path / 'nights' / 'peer' / '2026-01-01'}" in capsys.readouterr().err
