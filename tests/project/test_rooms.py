"""Package folders import only folders below them, heavy imports are late, and no file is longer than the limit."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.rooms import ROOMS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "peftbench"
OUTSIDE = {
    "cli": len(ROOMS) + 1,
    "__main__": len(ROOMS) + 2,
    "errors": -1,
    "version": -1,
    "interrupts": -1,
    "_suites": -1,
}
"""What is in no folder: the command line is above them all, errors are below."""
FLOOR = {room: len(ROOMS) - place for place, (room, _) in enumerate(ROOMS)} | OUTSIDE
HEAVY = ("torch", "transformers", "peft", "pandas", "matplotlib", "bitsandbytes", "lm_eval", "datasets", "scipy")
MODELS = ("torch", "transformers", "peft", "bitsandbytes", "lm_eval", "datasets")
LONGEST = 350


@cache
def modules() -> dict[str, Path]:
    """Every module by its name without ``peftbench.``, a package by its folder's; without peftbench itself."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules of peftbench that a source imports at any level, except imports for type checkers."""
    skipped = {id(node) for block in ast.walk(tree) if _for_types(block) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole.removeprefix("peftbench.") in modules() else str(node.module)


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@cache
def named() -> dict[str, set[str]]:
    """What each module imports, by its whole name."""
    return {name: set(imports(ast.parse(path.read_text(encoding="utf-8")))) for name, path in modules().items()}


@cache
def graph() -> dict[str, set[str]]:
    """The modules of peftbench that each module imports."""
    ours = {name: {i for i in found if i.startswith("peftbench.")} for name, found in named().items()}
    return {name: {i.removeprefix("peftbench.") for i in found} for name, found in ours.items()}


def run(code: str, **environment: str) -> dict:
    """Run code in a process of its own and return what it prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def loaded_after(code: str, names: tuple[str, ...]) -> list[str]:
    """Which of the named libraries are loaded after the code."""
    return run(f"{code}\nimport json, sys\nprint(json.dumps([n for n in {names!r} if n in sys.modules]))")


def room_of(module: str) -> str:
    return module.partition(".")[0]


def test_there_are_thirteen_package_folders_and_every_module_is_in_one():
    assert len(ROOMS) == 13
    assert len(modules()) >= 170
    assert {room_of(module) for module in modules()} == set(FLOOR)


def test_package_folders_import_only_folders_below_them():
    edges = [(importer, imported) for importer, found in graph().items() for imported in found]
    assert len(edges) >= 600, "the parser sees too few imports"
    between = [(a, b) for a, b in edges if room_of(a) != room_of(b)]
    assert [f"{a} imports {b}" for a, b in between if FLOOR[room_of(b)] >= FLOOR[room_of(a)]] == []


def test_the_package_imports_nothing_that_is_not_in_the_wheel():
    outside = ("tools", "tests")
    assert [name for name, found in named().items() if any(i.split(".")[0] in outside for i in found)] == []


def test_no_folder_imports_the_public_interface():
    """``peftbench/__init__.py`` offers functions of the top folder; whoever imports from it imports upward."""
    assert [name for name, found in named().items() if "peftbench" in found] == []


def test_no_two_files_import_each_other():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_an_import_inside_a_function_counts():
    tree = ast.parse(
        "def f():\n    from peftbench import cli, PROTOCOL\n    import peftbench.results.store.files as x\n"
    )
    assert list(imports(tree)) == ["peftbench.cli", "peftbench", "peftbench.results.store.files"]


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["plan", "quickstart"], ["list", "methods"]])
def test_the_command_line_imports_no_heavy_library(argv):
    code = f"from peftbench import cli\ntry:\n    assert cli.main({argv!r}) == 0\nexcept SystemExit as e:\n"
    assert loaded_after(f"{code}    assert e.code == 0", HEAVY) == []


def test_importing_the_command_line_imports_no_library():
    code = "import peftbench.cli"
    assert loaded_after(code, (*HEAVY, "pydantic", "yaml", "jinja2", "pyarrow", "numpy", "rich")) == []


def test_package_folders_without_torch_import_none():
    free = {room for room, torch in ROOMS if not torch} | {"errors"}
    names = [name for name in modules() if room_of(name) in free and "__" not in name]
    assert len(names) >= 100
    code = "".join(f"import peftbench.{name}\n" for name in names)
    assert loaded_after(code, MODELS) == []


def test_the_parent_of_a_run_imports_no_torch(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"")
    code = f"""
from pathlib import Path
from peftbench import suite
from peftbench.commands import progress
from peftbench.runner import prepare
found = suite.load("quickstart", overrides=["base={tmp_path}/base"], only=["method=base,lora"])
trials = suite.expand(found, "cpu")
prepared = prepare.prepare(trials, Path({str(tmp_path)!r}) / "results", 1, "peftbench run quickstart")
assert len(prepared.pending) == 16, len(prepared.pending)
with progress.shown(len(prepared.pending)):
    pass
"""
    assert loaded_after(code, MODELS) == []


def test_every_folder_of_the_package_is_a_package():
    with_code = {path.parent for path in PACKAGE.rglob("*.py")}
    assert len(with_code) >= 9
    assert [str(folder) for folder in with_code if not (folder / "__init__.py").is_file()] == []


def test_no_file_is_long():
    lengths = {str(p.relative_to(PACKAGE)): len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}


def test_no_module_has_a_meaningless_name():
    empty = {"utils", "util", "common", "helpers", "helper", "base", "misc", "core"}
    assert [name for name in modules() if name.rpartition(".")[2] in empty] == []
