"""A stranger's results folder runs nothing: no script, formula, TeX or command of a terminal, and no file elsewhere."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peftbench import cli
from peftbench.records.wording import no_formula, printable_lines
from tests.support import chromium, hostile_results
from tests.support.hostile_results import ATTACKS, FORMULA
from tests.support.results_factory import make_result, store

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
TEX = re.compile(r"\\(?:input|write|immediate|def)\b|\^\^")
TABLES = [("report", "one", "--format", each) for each in ("text", "brief", "md", "csv", "tex", "ranks", "deployed")]
PAIRS = [(command, each) for command in ("compare", "history") for each in ("text", "md", "json", "html")]
COMMANDS = [
    *TABLES,
    ("report", "one", "2026-01-01_x", "--format", "md"),
    ("answer", "one"),
    ("answer", "one", "--json"),
    *(
        (command, "2026-01-01_x", "2026-01-02_x", "--format", each, "-o", f"{command}.{each}")
        for command, each in PAIRS
    ),
    *((command, "2026-01-01_x", "2026-01-02_x", "--format", "text") for command in ("compare", "history")),
    ("report", "one", "-o", "one.html"),
    ("report", "one", "2026-01-01_x", "-o", "both.html"),
    ("report", "one", "--figures", "figures"),
    ("export", "one", "--to", "csv", "-o", "csv"),
    ("export", "one", "--to", "hf-dataset", "-o", "card"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command that reads results has written what it writes."""
    found = tmp_path_factory.mktemp("hostile") / "deep" / "work"
    for name in ("one", "2026-01-01_x", "2026-01-02_x"):
        hostile_results.make(found / name)
    return found


def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, *line: str) -> str:
    """Run a command as users do and return what it printed; it ends as documented."""
    monkeypatch.delenv("PEFTBENCH_TRACEBACK", raising=False)
    monkeypatch.chdir(place)
    assert cli.main(line) in (0, 1, 3)
    printed = capsys.readouterr()
    return printed.out + printed.err


@pytest.mark.parametrize("line", COMMANDS, ids=" ".join)
def test_every_command_reads_it_and_sends_no_command_to_the_terminal(line, place, monkeypatch, capsys):
    before = set(place.parents[1].rglob("*"))
    printed = run(place, monkeypatch, capsys, *line)
    assert not CONTROLS.search(printed)
    assert "mistake in peftbench" not in printed.replace("This is a mistake in peftbench", "")
    outside = {path for path in place.parents[1].rglob("*") if place not in path.parents} - before
    assert outside == set()
    assert not Path("/tmp/hacked").exists()
    for path in place.glob("*.md"):
        assert not CONTROLS.search(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_cell_of_a_csv_is_a_formula_and_no_tex_is_a_command(attack, tmp_path, monkeypatch, capsys):
    folder = hostile_results.make(tmp_path / "r", attack)
    table = run(tmp_path, monkeypatch, capsys, "report", "r", "--format", "csv")
    run(tmp_path, monkeypatch, capsys, "export", "r", "--to", "csv", "-o", "csv")
    texts = [table, *(path.read_text(encoding="utf-8") for path in (tmp_path / "csv").glob("*.csv"))]
    cells = [cell for text in texts for line in csv.reader(io.StringIO(text, newline="")) for cell in line]
    assert len(cells) > 100
    assert [cell for cell in cells if cell != no_formula(cell)] == []
    assert folder.exists()
    tex = run(tmp_path, monkeypatch, capsys, "report", "r", "--format", "tex")
    body = [line for line in tex.splitlines() if not line.startswith("%")]
    assert len(body) > 8
    assert [line for line in body if TEX.search(line)] == []


def test_markdown_has_no_link_no_picture_and_no_html(place, monkeypatch, capsys):
    for line in (("report", "one", "--format", "md"), ("compare", "2026-01-01_x", "2026-01-02_x", "--format", "md")):
        text = run(place, monkeypatch, capsys, *line)
        assert "evil.test" in text or line[0] == "compare"
        assert not re.search(r"(?<!\\)\[[ab]\\?\]\(|(?<!\\)<(script|img|b)\b", text)
    card = (place / "card" / "README.md").read_text(encoding="utf-8")
    text, fence, command = card.partition("---\n")[2].partition("---\n")[2].partition("\n```\n")
    assert not re.search(r"(?<!\\)<(script|img)\b", text)
    assert fence
    assert "\n" not in command.partition("\n```")[0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *(("=1", "'=1"), ("+a", "'+a"), ("-a", "'-a"), ("@a", "'@a"), ("\t=1", "'\t=1"), ("-1+cmd|'", "'-1+cmd|'")),
        *(
            ("-5", "-5"),
            ("+1.5e-3", "+1.5e-3"),
            ("-1,234 %", "'-1,234 %"),
            ("a=1", "a=1"),
            ("", ""),
            (None, None),
            (-5, -5),
        ),
    ],
)
def test_a_text_that_begins_as_a_formula_has_an_apostrophe_and_a_number_has_none(value, expected):
    assert no_formula(value) == expected


def test_control_characters_are_spaces_and_lines_stay():
    assert printable_lines("a\x1b[2J\x9b\u202eb\n\tc") == "a [2J b\n\tc"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda t: t.append_column("cell", t["cell"]), "has the column 'cell' twice"),
        (lambda t: _with(t, "cell", None), "the column 'cell' has no value in some rows"),
        (lambda t: _with(t, "threads", "x"), "the column 'threads' holds string, expected int64"),
        (lambda t: _with(t, "message", [1]), "the column 'message' holds list<"),
        (lambda t: _with(t, "steps_done", {"a": 1}), "the column 'steps_done' holds struct<"),
        (lambda t: _with(t, "score_judge", "x"), "the column 'score_judge' holds string"),
        (lambda t: _with(t, "key", None), "rows without a key or a status"),
        (lambda t: t.remove_column(t.column_names.index("message")), None),
        (lambda t: t.append_column("newer", pa.array([{"a": [1]}] * len(t))), None),
        (lambda t: t.append_column("newest", _uuid(len(t))), None),
    ],
)
def test_a_column_of_another_type_names_the_file_and_others_are_left_alone(change, part, tmp_path, monkeypatch, capsys):
    folder = store(tmp_path / "r", make_result(), make_result(seed=1))
    path = sorted((folder / "trials").glob("*.parquet"))[0]
    pq.write_table(change(pq.read_table(path)), path)
    monkeypatch.delenv("PEFTBENCH_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)
    store(tmp_path / "other", make_result())
    for line in (
        ["report", "r", "--format", "csv"],
        ["history", "r", "other"],
        ["answer", "r"],
        ["compare", "other", "r"],
    ):
        code = cli.main(line)
        error = capsys.readouterr().err
        if part is None or (code != 2 and line[0] == "history"):  # which reads fewer columns
            assert code in (0, 1, 3), error
        else:
            assert (code, part in error, path.name in error) == (2, True, True), (line, code, error)


def _with(table: pa.Table, name: str, value: Any) -> pa.Table:
    column = pa.nulls(len(table), pa.string()) if value is None else pa.array([value] * len(table))
    return table.set_column(table.column_names.index(name), name, column)


def _uuid(rows: int) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"x" * 16] * rows, pa.binary(16)))


def test_files_that_are_links_lead_nowhere_else(tmp_path, monkeypatch, capsys):
    """A link is read as the file it leads to, which must be a results file; nothing of another file is shown."""
    folder = store(tmp_path / "r", make_result())
    (folder / "trials" / "secret.parquet").symlink_to("/etc/passwd")
    monkeypatch.delenv("PEFTBENCH_TRACEBACK", raising=False)
    assert cli.main(["report", str(folder), "--format", "csv"]) == 0
    printed = capsys.readouterr()
    assert "root:" not in printed.out + printed.err
    (folder / "trials" / "secret.parquet").unlink()
    (folder / "grid.json").symlink_to("/etc/passwd")
    assert cli.main(["report", str(folder), "--format", "csv"]) == 2
    error = capsys.readouterr().err
    assert "grid.json cannot be read" in error
    assert "root:" not in error


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.started() as found:
        yield found


@pytest.mark.browser
@pytest.mark.parametrize(
    ("line", "name"),
    [
        (("report", "one", "-o", "one.html"), "one.html"),
        (("report", "one", "2026-01-01_x", "-o", "both.html"), "both.html"),
        (("compare", "2026-01-01_x", "2026-01-02_x", "--format", "html", "-o", "compare.html"), "compare.html"),
        (("history", "2026-01-01_x", "2026-01-02_x", "--format", "html", "-o", "history.html"), "history.html"),
    ],
)
def test_no_script_of_it_runs_in_a_page_and_no_request_leaves(line, name, place, browser, monkeypatch, capsys):
    run(place, monkeypatch, capsys, *line)
    context = chromium.context(browser)
    page = context.new_page()
    requests: list[str] = []
    troubles: list[str] = []
    page.on("request", lambda request: requests.append(request.url.partition("#")[0]))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(dialog.message))
    address = (place / name).as_uri()
    page.goto(address)
    if line[0] == "report":
        page.wait_for_selector("html[data-ready]", state="attached")
    for summary in page.locator("summary").all():
        if summary.is_visible():
            summary.click()
    for button in page.locator("#table tbody button.link").all()[:2]:
        button.click()
        page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("[...document.querySelectorAll('a')].filter((a) => a.protocol === 'javascript:').length") == 0
    assert page.locator("img").count() == 0
    assert troubles == []
    assert [url for url in requests if not url.startswith("blob:")] == [address]
    context.close()


@pytest.mark.browser
def test_the_csv_of_a_page_has_no_formula(place, browser, monkeypatch, capsys):
    run(place, monkeypatch, capsys, "report", "one", "-o", "one.html")
    context = chromium.context(browser)
    page = context.new_page()
    page.goto((place / "one.html").as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")
    page.locator("summary:has-text('Copy or download')").first.click()
    with page.expect_download() as download:
        page.locator("[data-export=csv][data-how=download]").first.click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    cells = [cell for line in csv.reader(io.StringIO(text, newline="")) for cell in line]
    assert any(FORMULA in cell for cell in cells)
    assert [cell for cell in cells if cell != no_formula(cell)] == []
    context.close()


def test_the_record_of_an_answer_is_json(place, monkeypatch, capsys):
    assert json.loads(run(place, monkeypatch, capsys, "answer", "one", "--json"))
