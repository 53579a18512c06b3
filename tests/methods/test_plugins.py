"""Methods of other packages: the worked example passes every conformance test, a broken package affects no other."""

from __future__ import annotations

import inspect
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support import method_cells

EXAMPLE = Path(__file__).parents[1] / "outside_method"
CONFORMANCE = runpy.run_path(str(EXAMPLE.parent / "methods" / "test_conformance.py"))
PAGE = (EXAMPLE / "README.md").read_text()


def install(folder: Path, name: str, points: dict[str, str], **modules: str) -> None:
    """Install a package as pip does: write its metadata with entry points, and the given modules."""
    info = folder / f"{name.replace('-', '_')}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[peftbench.methods]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


def call(folder: Path, *argv: str) -> subprocess.CompletedProcess:
    """Run a Python module with the packages of a folder installed."""
    paths = [str(folder), str(EXAMPLE.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", *argv]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=500)


@pytest.fixture
def steering(tmp_path) -> Path:
    """A folder in which the example is installed according to its pyproject.toml."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    install(tmp_path, project["name"], project["entry-points"]["peftbench.methods"])
    (tmp_path / "peftbench_steering").symlink_to(EXAMPLE / "peftbench_steering")
    return tmp_path


@pytest.mark.slow
def test_installing_the_example_adds_conformance_tests_which_pass(steering):
    tests, own = str(EXAMPLE.parent / "methods" / "test_conformance.py"), str(EXAMPLE / "test_vectors.py")
    options = ("-p", "no:cacheprovider", "--disable-warnings", "--rootdir", str(EXAMPLE.parent), "-rA")
    done = call(steering, "pytest", tests, own, "-k", "steering or another_process or vector", *options)
    assert done.returncode == 0, done.stdout
    passed = re.findall(r"^PASSED \S*::(\w+)(?:\[(\S+)\])?$", done.stdout, re.M)
    added = {name for name, which in passed if which.startswith("steering")}
    assert added == {name for name in CONFORMANCE if name.startswith("test_") and over_the_table(name)}
    assert len(added) == 8
    assert len([1 for _, which in passed if which.startswith("steering")]) == 5 + 3 * len(method_cells.COMMON)
    assert "test_each_saved_method_gives_the_same_logits_in_another_process" in [name for name, _ in passed]
    assert len([1 for name, _ in passed if name.startswith("test_each_steered_layer_has_one_vector")]) == 3


def over_the_table(name: str) -> bool:
    """Return whether a conformance test runs for every method that trains."""
    marks = getattr(CONFORMANCE[name], "pytestmark", [])
    if any(mark.args[1] is each for mark in marks for each in (method_cells.TRAINED, method_cells.CELLS)):
        return True
    names = [{value[0] for value in mark.args[1] if isinstance(value, tuple)} for mark in marks]
    shared = {"trained", "tuned"} & set(inspect.signature(CONFORMANCE[name]).parameters)  # fixtures over the table
    return bool(shared) or any(set(method_cells.TRAINED) <= each for each in names)


@pytest.mark.slow
def test_the_examples_page_shows_its_files_and_its_suite_runs(steering):
    toml, record, functions = re.findall(r"```(?:toml|python)\n(.*?)```", PAGE, re.DOTALL)
    assert toml == (EXAMPLE / "pyproject.toml").read_text()
    assert record == (EXAMPLE / "peftbench_steering" / "__init__.py").read_text()
    assert functions == (EXAMPLE / "peftbench_steering" / "vectors.py").read_text()
    (steering / "mine.yaml").write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    done = call(steering, "peftbench", "run", "mine.yaml", "--keep-adapters", "--set", "methods.steering.layers=2")
    assert done.returncode == 0, done.stderr
    assert "3 ok" in done.stderr
    table = call(steering, "peftbench", "report", "results/mine", "--format", "text").stdout
    assert "steering vectors layers=2 nf4" in table
    card = next((steering / "results" / "mine" / "adapters").glob("*/README.md")).read_text()
    assert "from peftbench_steering.vectors import load" in card


def test_a_method_of_another_package_is_listed_without_torch(steering):
    done = call(steering, "peftbench", "list", "methods")
    assert "\nsteering: steering vectors\n  paper        after Subramani et al." in done.stdout
    assert "  layers=all\n" in call(steering, "peftbench", "list", "methods", "steering").stdout
    code = (
        "import sys\nfrom peftbench.methods import METHODS\nassert 'steering' in METHODS and 'torch' not in sys.modules"
    )
    (steering / "look.py").write_text(code)
    assert call(steering, "look").returncode == 0


BROKEN = "raise RuntimeError('no such GPU')"
GOOD = "from peftbench.methods import METHODS, Method\n"
GOOD += "def make(): return Method('mine', '', '', METHODS['lora'].attach, '', '', ('fp32',))\n"


BAD = {
    "raises": (BROKEN, "X", "bad_raises:X cannot be loaded: RuntimeError: no such GPU"),
    "empty": ("", "X", "AttributeError"),
    "number": ("X = 3", "X", "gives a int; allowed: a Method, or a function that returns one"),
    "gives": ("X = lambda: 3", "X", "gives a int; allowed"),
    "divides": ("def X(): 1 / 0", "X", "ZeroDivisionError"),
    "renamed": (GOOD, "make", "the record is called 'mine'; allowed: the name of its entry point"),
    "former_field": (
        GOOD.replace("('fp32',))", "('fp32',), knob='rank r')"),
        "make",
        "cannot be loaded: TypeError: Method.__init__() got an unexpected keyword argument 'knob'",
    ),
    "exits": ("import sys; sys.exit(3)", "X", "SystemExit"),
}
"""Entry point -> the text of its module, the object that it names there, and the reason reported."""


def test_broken_packages_are_reported_and_the_others_work(tmp_path):
    for name, (text, point, _) in BAD.items():
        install(tmp_path, f"package-{name}", {name: f"bad_{name}:{point}"}, **{f"bad_{name}": text})
    install(tmp_path, "good-package", {"mine": "good_method:make"}, good_method=GOOD)
    listed = call(tmp_path, "peftbench", "list", "methods")
    assert listed.returncode == 0, listed.stderr
    assert "\nmine: \n" in listed.stdout
    (tmp_path / "x.yaml").write_text(f"base: nano\ntasks: [compute]\nmethods: [{', '.join(BAD)}]\n")
    planned = call(tmp_path, "peftbench", "plan", "x.yaml")
    assert planned.returncode == 2
    for name, (_, _, reason) in BAD.items():
        (told,) = (line for line in listed.stderr.splitlines() if f"package package-{name} 0.1" in line)
        assert told.startswith(f"peftbench: package package-{name} 0.1: its method {name!r} is left out: ")
        assert reason in told
        (refused,) = (line for line in planned.stderr.splitlines() if f"unknown method {name!r}" in line)
        assert told.removeprefix("peftbench: ") in refused


def test_a_package_cannot_take_the_name_of_another_method(tmp_path):
    install(tmp_path, "thief", {"lora": "thief:make"}, thief=GOOD.replace("'mine'", "'lora'"))
    done = call(tmp_path, "peftbench", "list", "methods")
    assert "package thief 0.1: its method 'lora' is left out: a method with this name already exists" in done.stderr
    assert "Hu et al." in done.stdout
