"""Imports go downward only, nothing heavy is imported before it is needed, and no file grows without end."""

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

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "peftbench"
LAYERS: tuple[tuple[str, str], ...] = (
    (
        "records and errors",
        "_suites errors task_data data_columns effective_columns inference_columns memory_columns time_columns records "
        "retention_columns score",
    ),
    (
        "what the machine is",
        "measure measure.clock measure.energy measure.environment measure.nvml execute.device execute.lifeline",
    ),
    (
        "tables, no torch",
        "methods methods.outside methods.record methods.peft_fields methods.profiles precision tasks tasks.templates "
        "bases",
    ),
    ("built-in tasks", "tasks.words tasks.draw tasks.describe tasks.compute tasks.judge"),
    ("the making of the built-in base", "bases.phrases bases.grammar bases.make bases.overlap bases.skills"),
    (
        "suite and inputs, no torch",
        "suite suite.build suite.build_scoring suite.build_tasks suite.builder suite.candidates suite.document "
        "suite.expand suite.grid suite.read suite.schema suite.select suite.smoke suite.templates suite.words "
        "identity tasks.answers tasks.by_lm_eval tasks.chat tasks.chunks tasks.fewshot tasks.files tasks.hub "
        "tasks.overlap tasks.read tasks.splits tasks.texts tasks.harness",
    ),
    ("a base in memory", "random_weights model quantization layout data optimizers measure.ledger"),
    (
        "methods, each a file",
        "methods.adapter methods.blocks methods.full methods.gated_prompts methods.llama_adapter methods.lora "
        "methods.lora_parts methods.lora_starts methods.peft methods.peft_checkpoint methods.prefix_tuning "
        "methods.prompt_tuning methods.reach",
    ),
    (
        "phases of a trial",
        "causality checkpoint context train evaluate evaluate.lm_eval_outcomes evaluate.metrics evaluate.model "
        "evaluate.outcomes failures liveness packing retention card measure.memory measure.structure measure.effective "
        "measure.inference measure.passes measure.watch measure.work",
    ),
    ("the card of the built-in base", "bases.card bases.unread"),
    (
        "a trial's needs, predicted",
        "plan plan.cuda plan.size plan.textbook plan.record plan.depth plan.fit plan.stand_ins plan.memo plan.stored "
        "plan.fake plan.trace plan.predict plan.forecast plan.budget plan.count plan.match",
    ),
    ("a trial", "trial"),
    ("processes", "execute execute.child execute.preload execute.local"),
    (
        "results, no torch",
        "store store.document store.files store.reading store.schema store.writing store.__main__ stats choice "
        "exposure crossed crossed.model crossed.ranking crossed.planning crossed.front crossed.outcomes",
    ),
    (
        "commands, no torch",
        "grid compare compare.comparison compare.differences compare.examples compare.text "
        "report report.axis report.collect report.fairness report.figures report.flat report.format "
        "report.grids report.inference report.labels report.memory report.page report.plots report.retention "
        "report.samples report.search report.searched report.settings report.speed report.standing report.svg "
        "report.tables report.task_metrics report.words report.writers",
    ),
    ("a suite in stages", "stages"),
    ("faces", "catalogue columns progress plan.tell"),
    ("command line", "commands commands.chosen commands.plan commands.results commands.run cli __main__"),
)
"""From the lowest up, by module name without ``peftbench.``. A module may import those of its own and lower layers."""
RANK = {module: rank for rank, (_, modules) in enumerate(LAYERS) for module in modules.split()}
HEAVY = ("torch", "transformers", "peft", "pandas", "matplotlib", "bitsandbytes", "lm_eval", "datasets", "scipy")
MODELS = ("torch", "transformers", "peft", "bitsandbytes", "lm_eval", "datasets")
LONGEST = 350
LONGER = {"records.py": 400}
"""Tables that are one line per column."""


@cache
def modules() -> dict[str, Path]:
    """Every module by its name without ``peftbench.``, a package by its folder's; peftbench itself left out."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules of peftbench that a source imports, at its top or anywhere inside; not those for type checkers."""
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
def graph() -> dict[str, set[str]]:
    """What each module imports of peftbench."""
    found = {}
    for name, path in modules().items():
        named = imports(ast.parse(path.read_text(encoding="utf-8")))
        found[name] = {i.removeprefix("peftbench.") for i in named if i.startswith("peftbench.")}
    return found


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


def test_every_module_has_a_layer_and_every_layer_its_modules():
    assert len(modules()) >= 60
    listed = [module for _, named in LAYERS for module in named.split()]
    assert len(listed) == len(set(listed))
    assert set(modules()) - set(listed) == set(), "give these a layer in LAYERS"
    assert set(listed) - set(modules()) == set(), "these are gone: take them out of LAYERS"


def test_imports_go_downward_only():
    edges = [(importer, imported) for importer, found in graph().items() for imported in found]
    assert len(edges) >= 150, "the parser sees too few imports"
    upward = [
        f"{importer} ({LAYERS[RANK[importer]][0]}) imports {imported} ({LAYERS[RANK[imported]][0]})"
        for importer, imported in edges
        if RANK[imported] > RANK[importer]
    ]
    assert upward == []


def test_no_layer_has_a_cycle():
    within = {a: {b for b in found if RANK[b] == RANK[a]} for a, found in graph().items()}
    try:
        TopologicalSorter(within).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_an_import_inside_a_function_counts():
    tree = ast.parse("def f():\n    from peftbench import cli, PROTOCOL\n    import peftbench.store.files as x\n")
    assert list(imports(tree)) == ["peftbench.cli", "peftbench", "peftbench.store.files"]


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["plan", "quickstart"], ["list", "methods"]])
def test_the_command_line_loads_nothing_heavy(argv):
    code = f"from peftbench import cli\ntry:\n    assert cli.main({argv!r}) == 0\nexcept SystemExit as e:\n"
    assert loaded_after(f"{code}    assert e.code == 0", HEAVY) == []


def test_importing_the_command_line_loads_nothing_at_all():
    code = "import peftbench.cli"
    assert loaded_after(code, (*HEAVY, "pydantic", "yaml", "jinja2", "pyarrow", "numpy", "rich")) == []


def test_what_makes_tables_and_pages_loads_no_torch():
    names = [
        n
        for n in modules()
        if n.partition(".")[0] in ("report", "compare", "store", "stats", "crossed") and "__" not in n
    ]
    assert len(names) >= 20
    code = "".join(f"import peftbench.{name}\n" for name in names)
    assert loaded_after(code, MODELS) == []


def test_the_parent_of_a_run_loads_no_torch(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"")
    code = f"""
from pathlib import Path
from peftbench import grid, progress, suite
found = suite.load("quickstart", overrides=["base={tmp_path}/base"], only=["method=base,lora"])
prepared = grid.prepare(suite.expand(found, "cpu"), Path({str(tmp_path)!r}) / "results", 1, "peftbench run quickstart")
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
    assert {name: n for name, n in lengths.items() if n > LONGER.get(name, LONGEST)} == {}


def test_no_module_has_a_name_that_says_nothing():
    empty = {"utils", "util", "common", "helpers", "helper", "base", "misc", "core"}
    assert [name for name in modules() if name.rpartition(".")[2] in empty] == []
