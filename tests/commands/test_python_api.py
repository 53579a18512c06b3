"""The public Python functions, used as a notebook would, and what they do with wrong arguments."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import peftbench
from peftbench import cli, suite
from peftbench.commands import python_api
from peftbench.results.store import record_grid
from tests.support.nights import Team, make_nights, name_of
from tests.support.store_checks import fill

ROOT = Path(__file__).parents[2]
SUITE = """\
base: nano
tasks: {judge: {limit: 4}}
methods: {base: , full: , lora: }
seeds: 3
threads: 1
train: {steps: 2, batch_size: 2, sequence_length: 64, untimed_steps: 0}
evaluate: {inference: false, retention: false}
"""
# no `if __name__ == "__main__"`: children must not run it again
NOTEBOOK = """\
import json

import peftbench

small = {"methods": ["base", "lora"], "train.steps": 1}
suite = peftbench.load_suite("mine.yaml", overrides=small, only={"method": "lora"}, seeds=[5])
run = peftbench.run_suite(suite, "results/first")
again = peftbench.run_suite("mine.yaml", "results/first", overrides=small, only={"method": "lora"}, seeds=[5, 6])

results = peftbench.read_results(run.folder)
assert list(results.trials["cell"]) == ["lora r=8 fp32"] * 2, results.trials["message"].tolist()
assert set(results.steps["key"]) == set(results.examples["key"]) == set(results.trials["key"])
comparison = peftbench.compare_results("results/first", run.folder, watch={"judge": "score"})
assert peftbench.compare("results/first", run.folder)["verdict"] == "no regression"
page = peftbench.write_report(run.folder)
try:
    peftbench.read_results("results/frist")
except peftbench.UserError as error:
    refused = str(error)

print(json.dumps([suite.name, dict(run.statuses), dict(again.statuses), again.failed, comparison.verdict, str(page)]))
print(refused)
"""


COMMANDS = """\
from peftbench import cli

print("once")
assert cli.main(["plan", "mine.yaml", "--time", "--only", "method=lora"]) == 0
assert cli.main(["run", "mine.yaml", "--only", "method=lora", "--seeds", "1"]) == 0
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working folder with a suite."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(SUITE)
    return tmp_path


def test_a_notebook_loads_runs_reads_compares_and_reports(place):
    (place / "notebook.py").write_text(NOTEBOOK)
    done = subprocess.run(
        [sys.executable, "notebook.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, ""), "nothing is printed unless it is asked for"
    summary, refused = done.stdout.splitlines()
    assert json.loads(summary) == ["mine", {"ok": 1}, {"ok": 2}, False, True, "reports/first.html"]
    assert (place / "reports" / "first.html").read_text().startswith("<!doctype html>")
    assert "no such folder: results/frist; did you mean 'results/first'?" in refused


def test_the_public_names_are_documented_and_load_when_first_used():
    for name in peftbench.__all__:
        assert getattr(peftbench, name).__doc__
        assert name in (peftbench.__doc__ or "")
        assert name in dir(peftbench)
    assert peftbench.load_suite is python_api.load_suite
    with pytest.raises(AttributeError, match="no attribute 'load_siute'"):
        peftbench.load_siute  # noqa: B018


@pytest.mark.parametrize(
    ("overrides", "texts"),
    [
        ({"train.steps": 20}, ("train.steps=20",)),
        ({"base": Path("models") / "tiny"}, ("base=models/tiny",)),
        ({"methods.lora.rank": (2, 4)}, ("methods.lora.rank=[2, 4]",)),
        ({"methods": {"lora": {"rank": 2}}}, ('methods={"lora": {"rank": 2}}',)),
        ({"train.learning_rate": 1e-5}, ("train.learning_rate=1e-05",)),
        ({"description": "true"}, ('description="true"',)),
        ({"description": "a: b"}, ('description="a: b"',)),
        ({"match": None, "audit": "strict"}, ("match=null", "audit=strict")),
        (["train.steps=20"], ("train.steps=20",)),
    ],
)
def test_overrides_are_recorded_as_the_command_line_takes_them(place, overrides, texts):
    found = peftbench.load_suite("mine.yaml", overrides=overrides)
    assert found.options.overrides == texts
    assert found == suite.load("mine.yaml", overrides=texts)


def test_a_selection_and_seeds_are_those_of_the_command_line(place):
    found = peftbench.load_suite("mine.yaml", only={"method": ["base", "lora"], "rank": [8, None]}, seeds=[5])
    assert found == suite.load("mine.yaml", only=["method=base,lora", "rank=8,none"], seeds="5,")
    assert peftbench.load_suite("mine.yaml", seeds=5).seeds == (0, 1, 2, 3, 4)
    assert {trial.method for trial in suite.expand(found, "cpu")} == {"base", "lora"}


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: peftbench.load_suite("nosuch"), "suite 'nosuch': no such file"),
        (lambda: peftbench.load_suite("mine.yaml", overrides={"train.stesp": 3}), "did you mean 'steps'?"),
        (lambda: peftbench.load_suite("mine.yaml", only={"method": "lorra"}, seeds=()), "--seeds: given ''"),
        (lambda: peftbench.load_suite("mine.yaml", only="method=lora"), "only: given the text 'method=lora'"),
        (lambda: peftbench.run_suite("mine.yaml", only={"method": "lorra"}), "did you mean 'lora'?"),
        (lambda: peftbench.run_suite("mine.yaml", reserve=100), "--reserve: sets aside a part of the budget"),
        (lambda: peftbench.run_suite("mine.yaml", budget="16 giga"), "allowed: a size like 16GiB"),
        (
            lambda: peftbench.run_suite(peftbench.load_suite("mine.yaml"), seeds=1),
            "run_suite got a loaded suite; pass overrides, only, seeds and smoke to load_suite",
        ),
        (lambda: peftbench.read_results("nosuch"), "no such folder: nosuch"),
        (lambda: peftbench.compare_results("nosuch", "nosuch"), "no such folder: nosuch"),
        (lambda: peftbench.compare("a", "b", watch={"jugde": "score"}), "did you mean 'judge'?"),
        (lambda: peftbench.history("nosuch"), "nosuch"),
        (lambda: peftbench.history([]), "no night is given"),
        (lambda: peftbench.history("a", watch={"jugde": "score"}), "did you mean 'judge'?"),
        (lambda: peftbench.history("a", watch=["judge"]), "watch: given ['judge']; allowed: a mapping"),
        (lambda: peftbench.history(5), "nights: given 5; allowed: a path, as text or pathlib.Path, or a URL"),
        (lambda: peftbench.history(None), "nights: given None; allowed: a path"),
        (lambda: peftbench.history(["a", 5]), "nights: given 5; allowed: a path"),
        (lambda: peftbench.compare("a", "b", watch=["judge"]), "watch: given ['judge']; allowed: a mapping"),
        (lambda: peftbench.compare("a", None), "new: given None; allowed: a path"),
        (lambda: peftbench.load_suite(5), "name: given 5; allowed: a path"),
        (lambda: peftbench.run_suite("mine.yaml", 5), "results: given 5; allowed: a path"),
        (lambda: peftbench.answer(5), "folder: given 5; allowed: a path"),
        (lambda: peftbench.write_report(5), "folder: given 5; allowed: a path"),
        (lambda: peftbench.history("a", last=0), "last: given 0; allowed: a number of nights from 1 on"),
        (lambda: peftbench.history("a", last="3"), "last: given '3'"),
        (lambda: peftbench.write_report("nosuch"), "no such folder: nosuch"),
        (lambda: peftbench.write_report("nosuch", "page.pdf", format="pdf"), "unknown format 'pdf'"),
        (lambda: peftbench.write_report("nosuch", format="csv"), "format='csv' needs output"),
    ],
)
def test_a_wrong_argument_is_a_user_error_that_says_what_is_allowed(place, call, part):
    with pytest.raises(peftbench.UserError) as error:
        call()
    assert part in str(error.value)
    assert not (place / "results").exists()


def test_the_documented_history_prints_what_the_command_finds(tmp_path, monkeypatch, capsys):
    def grown(night: int, cell: int, seed: int) -> dict[str, int]:
        return {"peak_train_bytes": 4_500_000} if cell == 1 and night >= 3 else {}

    nights = make_nights(tmp_path / "nights", Team(6, 2, planted=grown))
    monkeypatch.chdir(tmp_path)
    document = (ROOT / "docs" / "python.md").read_text()
    (example,) = re.findall(
        r"^```python\n(import peftbench\n\nfound = peftbench\.history.*?)^```", document, re.DOTALL | re.MULTILINE
    )
    exec(compile(example, "docs/python.md", "exec"), {})
    assert capsys.readouterr().out == "2026-01-04 lora r=3 fp32 peak_train_bytes 3010000.0 4500000.0\n"
    assert cli.main(["history", str(nights), "--format", "json"]) == 1
    assert peftbench.history(nights) == json.loads(capsys.readouterr().out)
    each = [nights / name_of(night) for night in range(6)]
    assert peftbench.history(each)["changes"] == peftbench.history("nights")["changes"]
    assert peftbench.history("nights", last=2)["verdict"] == "no regression"
    assert peftbench.history("nights", watch={"memory_percent": 60})["verdict"] == "no regression"


def test_only_the_rows_of_the_recorded_grid_are_read_unless_all_are_asked_for(place):
    folder = place / "results"
    fill(folder, 3)
    keys = sorted(peftbench.read_results(folder).trials["key"])
    assert len(keys) == 3, "no grid is recorded: every row counts"
    record_grid(folder, keys[:1], "peftbench run mine.yaml")
    found = peftbench.read_results(folder)
    assert [set(frame["key"]) for frame in (found.trials, found.steps, found.examples)] == [{keys[0]}] * 3
    assert sorted(peftbench.read_results(folder, all_rows=True).trials["key"]) == keys


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once_whatever_command_it_calls(place):
    (place / "script.py").write_text(COMMANDS)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(place / "cache")}
    done = subprocess.run([sys.executable, "script.py"], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (done.stdout.count("once"), "Traceback" in done.stderr) == (1, False)
    assert "(predicted by the steps that `plan --time` measured)" in " ".join(done.stderr.split())


@pytest.mark.parametrize("seeds", ["3", "12", True, [0.5], [1, "2"]])
def test_seeds_that_are_not_whole_numbers_are_refused_with_what_is_allowed(place, seeds):
    with pytest.raises(peftbench.UserError, match="allowed: a number of seeds, or a list of the seeds"):
        peftbench.load_suite("mine.yaml", seeds=seeds)
