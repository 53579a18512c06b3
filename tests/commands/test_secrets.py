"""No secret and no path of the machine in what is stored, exported or shown, whatever libraries print and raise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from peftbench import cli
from peftbench.commands import backstop
from peftbench.records import failures, secrets

ROOT = Path(__file__).parents[2]
PLANTED = {
    "HF_TOKEN": "hf_plantedAbCdEfGhIjKlMnOpQrStUvWxYz",
    "WANDB_API_KEY": "0123456789abcdefplanted0123456789abcdef01",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIplantedK7MDENGbPxRfiCYEXAMPLEKEY",
    "MY_DATABASE_PASSWORD": "plantedPassw0rd!",
}
NEEDLES = {**PLANTED, "url": "s3cretPlanted", "other token": "hf_plantedOther", "variable": "plantedplainvalue"}
PATHS = ("jane.doe", "tmp_planted", "mnt_planted", str(ROOT), sys.prefix)
ERROR = (
    "401 for https://jane:s3cretPlanted@host/x?token=hf_plantedOtherTokenAbCdEfGh Authorization: Bearer {HF_TOKEN} of "
    "{HOME}/.netrc machine host login jane password {AWS_SECRET_ACCESS_KEY} password={MY_DATABASE_PASSWORD} in {TMPDIR}"
)
LIBRARY = f"""
import importlib.util, os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "peftbench.methods.adapter":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            module.attach = attach
        spec.loader.exec_module = exec_module
        return spec

def attach(*_, **__):
    print("a library prints", os.environ["HF_TOKEN"], os.environ["WANDB_API_KEY"], flush=True)
    raise ValueError({ERROR!r}.format_map(os.environ))

sys.meta_path.insert(0, Finder())
"""
"""A ``sitecustomize`` that makes attaching an adapter fail as a library might, with all that it knows."""
SUITE = """
base: nano
tasks:
  mine: {{kind: choice, train: {data}, test: {data}, prompt: "{{{{ thing }}}}", target: "{{{{ colour }}}}",
         choices: [red, green]}}
seeds: 1
train: {{steps: 2, batch_size: 2, learning_rate: 0.001}}
evaluate: {{inference: false, retention: false}}
methods: {{lora: {{rank: 2}}, adapter: {{rank: 2}}}}
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, of Parquet what it holds too."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in [name for name in found if name.endswith(".parquet")]:
        found[name] += json.dumps(pq.read_table(folder / name).to_pylist(), default=str).encode()
    return found


@pytest.mark.spawns
def test_nothing_planted_is_in_any_file_of_a_run_and_no_secret_on_the_terminal(tmp_path, monkeypatch, capsys):
    home, temporary, outside = tmp_path / "home" / "jane.doe", tmp_path / "tmp_planted", tmp_path / "mnt_planted" / "d"
    work = home / "project"
    for place in (work, temporary, outside):
        place.mkdir(parents=True)
    rows = [{"thing": f"thing {n}", "colour": ("red", "green")[n % 2]} for n in range(8)]
    (outside / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (outside / "x.yaml").write_text(SUITE.format(data=outside / "data.jsonl"))
    (outside / "sitecustomize.py").write_text(LIBRARY)
    environment = {
        **{name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ},
        **PLANTED,
        **{"PLANTED_PLAIN": "plantedplainvalue", "HOME": str(home), "TMPDIR": str(temporary), "HF_HUB_OFFLINE": "1"},
        "PYTHONPATH": f"{outside}:{ROOT}",
    }
    command = [sys.executable, "-m", "peftbench", "run", str(outside / "x.yaml"), "--keep-adapters"]
    ran = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    printed = [ran.stdout + ran.stderr]
    monkeypatch.chdir(work)
    for line in (
        ["report", "results/x", "-o", "page.html"],
        ["answer", "results/x"],
        ["export", "results/x", "--to", "csv", "-o", "csv"],
        ["export", "results/x", "--to", "hf-dataset", "-o", "card"],
        ["plan", "s3://jane:s3cretPlanted@host/x.yaml"],
    ):
        assert cli.main(line) == (2 if line[0] == "plan" else 0)
        shown = capsys.readouterr()
        printed.append(shown.out + shown.err)
    assert "401 for https://***@host/x?token=*** Authorization: Bearer ***" in " ".join(printed[0].split())
    for text in printed:  # which may name folders: the user's own, to the user
        assert [name for name, value in NEEDLES.items() if value in text] == []
    files = contents(work)
    assert {"page.html", "csv/trials.csv", "card/README.md", "results/x/grid.json"} <= files.keys()
    (log,) = [text.decode() for name, text in files.items() if name.startswith("results/x/logs/")]
    assert "a library prints *** ***" in log
    assert 'File "peftbench/runner/' in log
    found = [
        (name, needle)
        for name, content in files.items()
        for needle in (*NEEDLES.values(), *PATHS)
        if needle.encode() in content
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at s3://key:pass@bucket/x and https://host/@user", "at s3://***@bucket/x and https://host/@user"),
        ("GET /x?a=1&X-Amz-Signature=abc&token=d#e", "GET /x?a=1&X-Amz-Signature=***&token=***#e"),
        ("{'Authorization': 'Bearer abc.def'}", "{'Authorization': 'Bearer ***'}"),
        ("hf_AbCdEfGhIjKlMnOpQrSt, ghp_AbCdEfGhIjKlMnOpQrStUv", "***, ***"),
        ("machine h login me password x1y2", "machine h login me password ***"),
        ("api_key='abc', pad_token=5, eos_token: </s>, key=3", "api_key='***', pad_token=5, eos_token: </s>, key=3"),
        ("the key 'learning_rate' is missing; bearer tokens", "the key 'learning_rate' is missing; bearer tokens"),
        ("a token of the secret garden; password: ", "a token of the secret garden; password: "),
    ],
)
def test_passwords_and_tokens_are_hidden_and_words_about_them_are_not(text, expected, monkeypatch):
    assert secrets.hidden(text, ()) == expected


def test_values_of_secret_variables_are_hidden_and_others_are_not(monkeypatch):
    found = secrets.values(
        {"X_TOKEN": "abcdefgh", "API_KEY": "short", "PWD": "/a/folder", "PATH": "/usr/bin", "KEYS": "no" * 9}
    )
    assert found == ("abcdefgh",)
    monkeypatch.setenv("MY_SECRET", "a plain sentence")
    assert failures.without_paths("it says a plain sentence.") == "it says ***."


def test_folders_of_the_user_have_no_name(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/jane.doe")
    monkeypatch.setattr("tempfile.tempdir", "/scratch/jane")
    text = (
        "/home/jane.doe/a.txt in /home/jane.doe, /scratch/jane, /mnt/x/base; http://a/home/jane.doe2, /home/jane.doe."
    )
    assert failures.without_paths(text) == "a.txt in ~, TMPDIR, base; http://a/home/jane.doe2, ~."


def test_a_stored_traceback_has_no_secret(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "notashapeofatoken")
    backstop.message(KeyError("notashapeofatoken"))
    (stored,) = tmp_path.glob("peftbench-traceback-*.txt")
    assert "KeyError: '***'" in stored.read_text()
