"""The commands that reports show can be pasted where the report was made."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest

import peftbench
from peftbench import cli
from peftbench.commands import run
from peftbench.records.failures import without_paths
from peftbench.report import page, render
from peftbench.report.collect import collect
from peftbench.report.derived import commands
from peftbench.results import cache
from peftbench.results.store import recorded_grid
from peftbench.suite.records import SuiteOptions
from tests.support.answer_cases import folder, trials
from tests.support.page_data import PageData
from tools.docs import reference

BASE = trials("base fp32", [0.3])
ONCE = trials("lora r=8 fp32", [0.9])


def made(place: Path, command: str = "peftbench run suites/quickstart.yaml") -> Path:
    return folder(place, BASE, ONCE, command=command)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory with a suite."""
    (tmp_path / "here" / "suites").mkdir(parents=True)
    (tmp_path / "here" / "suites" / "quickstart.yaml").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("results/quickstart", ""),
        ("results/other", " -o results/other"),
        ("elsewhere/quick start", " -o 'elsewhere/quick start'"),
        ("../beside", " -o ../beside"),
        ("./results/quickstart", ""),
        ("-odd", " -o ./-odd"),
    ],
)
def test_results_that_are_not_in_the_default_folder_are_named(here: Path, given: str, expected: str) -> None:
    results = collect(made(Path(given)))
    assert commands.whole(results) == commands.again(results) == f"peftbench run suites/quickstart.yaml{expected}"
    absolute = collect(Path.cwd() / given)
    if not given.startswith(".."):
        assert commands.whole(absolute) == commands.whole(results)
    where = expected.removeprefix(" -o ") or "results/quickstart"
    assert commands.ask(results) == f"peftbench answer {where}"


def test_a_folder_outside_of_the_working_directory_keeps_its_path(here: Path, tmp_path: Path) -> None:
    place = made(tmp_path / "far" / "r")
    data = PageData(render(place, here / "page.html").read_text()).core
    assert data["command"] == data["rerun"] == f"peftbench run suites/quickstart.yaml -o {place}"
    assert data["ask"] == f"peftbench answer {place}"
    assert peftbench.answer(place)["command"] == f"peftbench run suites/quickstart.yaml --seeds 3 -o {place}"
    arguments = cli.parser().parse_args(shlex.split(data["command"])[1:])
    assert Path(arguments.results) == place


def test_a_suite_is_found_from_the_folder_of_the_report(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = made(here / "results" / "quickstart")
    monkeypatch.chdir(here / "results")
    suite = here / "suites" / "quickstart.yaml"
    assert commands.whole(collect(Path("quickstart"))) == f"peftbench run {suite} -o quickstart"
    monkeypatch.chdir(here.parent)
    assert commands.whole(collect(place)) == "peftbench run here/suites/quickstart.yaml -o here/results/quickstart"
    suite.unlink()
    assert commands.whole(collect(place)) == "peftbench run suites/quickstart.yaml -o here/results/quickstart"


def test_a_suite_that_lies_elsewhere_is_named_with_the_folder_of_the_run(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows do not have that folder; this machine remembers it, for a file of that name alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    suite = tmp_path / "far" / "mine.yaml"
    suite.parent.mkdir()
    suite.write_text("")
    results = collect(made(Path("results/mine"), "peftbench run mine.yaml"))
    assert " mine.yaml" in commands.whole(results)
    cache.keep_suite(Path("results/mine"), str(suite))
    assert commands.whole(results).startswith(f"peftbench run {suite} ")
    suite.rename(suite.with_name("other.yaml"))
    assert " mine.yaml" in commands.whole(results), "it is not there any more"
    cache.keep_suite(Path("results/mine"), str(suite.with_name("other.yaml")))
    assert " mine.yaml" in commands.whole(results), "the folder has another suite by now"


def test_seeds_that_were_listed_are_kept_and_others_added(here: Path) -> None:
    listed = [dataclasses.replace(one, row=dataclasses.replace(one.row, seed=10)) for one in ONCE]
    results = collect(folder(here / "r", BASE, listed, command="peftbench run x.yaml --seeds 10,"))
    assert commands.more_seeds(results, 3) == "peftbench run x.yaml --seeds 10,0,1 -o r"
    assert commands.more_seeds(results, 1) == "peftbench run x.yaml --seeds 10, -o r"


def test_without_a_folder_there_is_no_option(here: Path) -> None:
    results = dataclasses.replace(collect(made(here / "r")), folder=None)
    assert commands.whole(results) == "peftbench run suites/quickstart.yaml"
    assert commands.ask(results) == "peftbench answer RESULTS"
    assert "-o" not in PageData(page.html(results)).core["command"]


@pytest.mark.parametrize(
    ("command", "again", "seeds"),
    [
        ("peftbench run x.yaml", "peftbench run x.yaml", "peftbench run x.yaml --seeds 5"),
        (
            "peftbench run x.yaml --only method=lora --seeds 3 --set a=1 --fresh",
            "peftbench run x.yaml --set a=1",
            "peftbench run x.yaml --only method=lora --set a=1 --fresh --seeds 5",
        ),
        (
            "peftbench run x.yaml --only=method=lora --seeds=1, --only seed=0 --only=seed=1",
            "peftbench run x.yaml",
            "peftbench run x.yaml --only=method=lora --seeds 5",
        ),
        (
            "peftbench run 'a b.yaml' -o out",
            "peftbench run 'a b.yaml' -o out",
            "peftbench run 'a b.yaml' -o out --seeds 5",
        ),
    ],
)
def test_a_command_selects_nothing_twice(here: Path, command: str, again: str, seeds: str) -> None:
    results = collect(made(Path("results/quickstart"), command))
    assert commands.again(results) == again
    assert commands.more_seeds(results, 5) == seeds


def test_a_command_that_cannot_be_read_is_shown_as_it_is(here: Path) -> None:
    results = collect(made(Path("r"), "peftbench run 'unclosed"))
    assert commands.whole(results) == commands.again(results) == "peftbench run 'unclosed"
    assert commands.more_seeds(results, 3) is None


def test_a_run_records_paths_that_work_from_its_folder(here: Path, tmp_path: Path) -> None:
    def recorded(suite: Any, *overrides: str) -> str:
        return run._command(SuiteOptions(str(suite), overrides, (), None, False), with_only=False)

    assert recorded(here / "suites" / "quickstart.yaml") == "peftbench run suites/quickstart.yaml"
    assert recorded(tmp_path / "a b.yaml") == f"peftbench run '{tmp_path}/a b.yaml'"
    assert recorded("quickstart", f"base={here}/model") == "peftbench run quickstart --set base=model"
    assert recorded("quickstart", f"base={tmp_path}/model") == f"peftbench run quickstart --set base={tmp_path}/model"


def test_committed_results_and_pages_name_no_path_of_a_machine() -> None:
    for place in sorted(path for path in reference.RESULTS.iterdir() if (path / "grid.json").is_file()):
        grid = recorded_grid(place)
        assert grid is not None
        assert without_paths(grid.command) == grid.command, place
    for shown in reference.PAGES.glob("*.html"):
        data = PageData(shown.read_text(encoding="utf-8")).core
        for name in ("command", "rerun", "ask"):
            text = data.get(name, "")
            assert without_paths(text) == text, (shown, name)
