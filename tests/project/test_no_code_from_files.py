"""The package loads no pickle, evaluates no text and asks for no remote code: files of others are data."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "peftbench"
FILES = sorted(PACKAGE.rglob("*.py"))
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
CALLS = {"torch.load", "torch.save", "read_pickle", "to_pickle", "eval", "exec", "compile", "yaml.load", "os.system"}
SAFE = {
    # orders from a driver to its own workers of the same version, which Ray would pickle too; none is read from a file
    **{f"runner/executor/ray/{part}.py": {"pickle"} for part in ("driver", "worker")},
    "report/published/load.py": {"yaml.load"},  # with a loader made from SafeLoader, which the test below checks
}


def named(node: ast.AST) -> str:
    """A function as a call writes it: ``torch.load``, ``eval``; of other objects the last part."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        whole = f"{owner}.{node.attr}"
        return whole if whole in CALLS else node.attr if node.attr.endswith("_pickle") else ""
    return ""


def faults(text: str) -> set[str]:
    """What a source has of it."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names} & PICKLES
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module).partition(".")[0]} & PICKLES
        elif isinstance(node, ast.Call):
            found |= {named(node.func)} & CALLS
            for keyword in node.keywords:
                given = getattr(keyword.value, "value", None)
                if keyword.arg in ("allow_pickle", "trust_remote_code", "shell") and given is True:
                    found.add(str(keyword.arg))
                if keyword.arg in ("weights_only", "use_safetensors") and given is False:
                    found.add(str(keyword.arg))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_of_the_package_runs_what_a_file_says(path):
    assert faults(path.read_text(encoding="utf-8")) <= SAFE.get(str(path.relative_to(PACKAGE)), set())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import pickle", {"pickle"}),
        ("from joblib import load", {"joblib"}),
        ("torch.load(path)", {"torch.load"}),
        ("pd.read_pickle(path)", {"read_pickle"}),
        ("np.load(path, allow_pickle=True)", {"allow_pickle"}),
        ("AutoModel.from_pretrained(x, trust_remote_code=True)", {"trust_remote_code"}),
        ("eval(text)", {"eval"}),
        ("model.eval(); re.compile(text)", set()),
    ],
)
def test_the_search_finds_each_way(text, found):
    assert faults(text) == found


def test_the_only_other_yaml_loader_is_a_safe_one():
    text = (PACKAGE / "report/published/load.py").read_text(encoding="utf-8")
    assert "SafeLoader" in text
    assert "UnsafeLoader" not in text
