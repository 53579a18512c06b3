"""What is measured on a GPU in a few minutes: each part runs here at tiny size, and nothing measured is lost."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from peftbench.errors import UserError
from peftbench.measure import device
from peftbench.results.store import read
from tools.docs import gpu_document, reference
from tools.validation.gpu import __main__ as command
from tools.validation.gpu import (
    budget,
    claims,
    grids,
    keep,
    machine,
    more,
    planner,
    results,
    right,
    scale,
    speed,
    texts,
    wheels,
)

ROOT = reference.ROOT


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """What the dry run writes."""
    out = tmp_path_factory.mktemp("gpu") / "out"
    asked = ["--dry-run", "--minutes", "4", "--out", str(out)]
    ran = subprocess.run(
        [sys.executable, "-m", "tools.validation.gpu", *asked], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def kept(measured, tmp_path_factory) -> Path:
    """The results as they would be committed."""
    folder = tmp_path_factory.mktemp("kept") / "gpu"
    assert all(keep.keep([measured], folder, None).values())
    return folder


@pytest.mark.timeout(280)
def test_every_part_runs_and_writes_few_small_files(measured):
    files = list(measured.iterdir())
    assert {path.stem for path in files} == {*command.SECONDS, "machine", "log"}
    assert len(files) <= results.MOST_FILES
    assert all(path.is_file() and path.stat().st_size < results.MOST_BYTES / 100 for path in files)
    lines = {part: results.latest(measured, part) for part in command.SECONDS}
    assert {line["status"] for found in lines.values() for line in found.values()} == {"ok"}
    assert set(command.FUNCTIONS) == set(command.SECONDS) == set(keep.PARTS)


def test_a_killed_trial_was_continued_to_the_same_losses(measured):
    found = results.latest(measured, "right")[right.RESUMED]["found"]
    assert found["statuses"] == ["killed", "ok", "ok"]
    assert found["resumes"] == 1
    losses = found["losses"]
    assert losses
    assert all(one == pytest.approx(other, rel=1e-5) for one, other in losses.values())


def test_kept_results_are_results_folders_and_all_of_the_document_is_made_from_them(kept):
    assert {path.name for path in kept.iterdir()} == {*keep.PARTS, keep.OTHERS}
    for part in keep.PARTS:
        assert set(read(kept / part).trials["status"]) == {"ok"}
    (generated,) = read(kept / "claims").trials["inference_json"].dropna()
    assert json.loads(generated)["prompt_tokens"] == 16
    made = {name: gpu_document.part(make, kept) for name, make in gpu_document.PARTS.items()}
    assert "the largest 0.00%" in made["gpu errors"]
    assert "| +0.00% |" in made["gpu peaks"]
    assert "(1 times): it ended ok" in made["gpu continued"]
    (line,) = [line for line in made["gpu speed"].splitlines() if line.startswith("| llama-7b")]
    assert gpu_document.NONE not in [cell.strip() for cell in line.split("|")]
    lora, minutes = (line for line in made["gpu published"].splitlines() if "`lora`" in line)
    assert "21 GB" in lora
    assert "allocated | differs: card (A100 40GB; here cpu)" in lora
    assert "192 min" in minutes
    assert "not measured" in next(line for line in made["gpu published"].splitlines() if "65b" in line)
    ladder, savings = re.split("\n\nsavings llama-7b:\n\n", made["gpu ladder"])
    assert ladder.startswith("ladder llama-3.2-1b:\n\n| cell |")
    assert "logits" in ladder
    assert "| `lora r=8 logits=all bf16` |" in savings
    assert set(gpu_document.PARTS) == set(reference.PARTS[ROOT / "docs" / "gpu.md"])


def test_trials_that_shared_the_device_have_no_step_time():
    row = {"cell": "lora", "status": "ok", "predicted_train_bytes": 10**9, "peak_train_bytes": 10**9}
    row |= {"peak_offloaded_bytes": None, "median_step_seconds": 0.25}
    assert "| 0.250 |" in gpu_document._savings([row | {"workers": 1}])
    assert "0.250" not in gpu_document._savings([row | {"workers": 4}])


def test_a_second_run_measures_only_what_is_missing(measured, tmp_path, monkeypatch):
    again = results.Kept(tmp_path / "again", (measured,))
    monkeypatch.setattr(grids.local, "run", lambda jobs, workers: (pytest.fail("measured") for _ in jobs))
    small = scale.dry(tmp_path / "shapes", whole=False)
    assert list(planner.measure(small, again, tmp_path / "work")) == []
    empty = results.Kept(tmp_path / "empty")
    with pytest.raises(pytest.fail.Exception):
        list(planner.measure(small, empty, tmp_path / "work"))


def test_every_cell_at_full_size_is_a_possible_trial_on_a_gpu(tmp_path):
    """A suite with a mistake, which the cells of the dry run may not show, would cost the GPU's minutes."""
    full = scale.FULL
    groups = {
        "right": right.groups(full),
        **{each.NAME: each.groups(full, tmp_path / each.NAME) for each in (planner, speed, claims)},
        "quickstart": [more.whole(full)],
        "ladder": more.ladders(full, tmp_path / "ladder"),
    }
    assert set(groups) == set(command.SECONDS)
    counts = {}
    for part, cells in groups.items():
        named = {name: job for each in cells for name, job in grids.jobs(each, tmp_path / part).items()}
        assert len({job.key for job in named.values()}) == len(named)
        counts[part] = len(named)
        if part not in ("right", "quickstart"):
            assert {job.trial.device for job in named.values()} == {"cuda"}
            assert {job.trial.base.source for job in named.values()} <= set(scale.NAMES)
            lengths = {job.trial.training.sequence_length for job in named.values()}
            assert lengths == ({512, 64} if part == "ladder" else {512})
    # prefix tuning does not recompute activations; the CPU has no tf32, and everything else of the device
    savings = counts.pop("ladder") - 2 * 12 - 8
    assert 13 <= savings <= len(more.SAVINGS)  # without torchao, liger, triton and a compiler; with all of them
    if not any(find_spec(name) for name in ("torchao", "liger_kernel", "triton")):
        assert savings == 13
    assert counts == {"right": 38, "planner": 39, "speed": 4, "claims": 7, "quickstart": 14}


def test_a_group_that_cannot_run_stops_no_other(tmp_path, monkeypatch):
    begun = []

    def jobs(cells, _):
        begun.append(cells.name)
        if cells.name == "bad":
            raise UserError("no such key")
        return {}

    monkeypatch.setattr(grids, "jobs", jobs)
    out = results.Kept(tmp_path)
    groups = [grids.Cells(name, {}, "cpu") for name in ("bad", "good")]
    assert list(grids.every(out, "planner", groups, tmp_path, 1)) == ["bad: UserError: no such key"]
    assert begun == ["bad", "good"]
    assert "no such key" in out.failed("planner")[0]


# results


def line(out: results.Kept, part: str, name: str, status: str) -> None:
    out.add(part, name, status, found=status)


def test_a_result_stays_although_the_cell_fails_later_and_a_failure_is_replaced(tmp_path):
    out = results.Kept(tmp_path)
    for name, status in (("a", "ok"), ("a", "error"), ("b", "killed"), ("b", "oom"), ("c", "timeout")):
        line(out, "right", name, status)
    assert {name: found["status"] for name, found in results.latest(tmp_path, "right").items()} == {
        "a": "ok",
        "b": "oom",
        "c": "timeout",
    }
    assert out.done("right") == {"a", "b"}
    assert out.failed("right") == ["c: timeout"]


def test_a_later_folders_failure_does_not_replace_an_earlier_result(tmp_path):
    first, second = results.Kept(tmp_path / "first"), results.Kept(tmp_path / "second")
    for out, name, status in ((first, "a", "ok"), (first, "b", "error"), (second, "a", "error"), (second, "b", "oom")):
        line(out, "claims", name, status)
    assert keep.keep([first.folder, second.folder], tmp_path / "kept", None)["claims"] == 2
    others = json.loads((tmp_path / "kept" / keep.OTHERS).read_text())["claims"]
    assert {name: each["status"] for name, each in others.items()} == {"a": "ok", "b": "oom"}


@pytest.mark.parametrize("before", [True, False])
def test_a_result_without_room_is_told(before, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "MOST_BYTES", results._SPARE + 1000)
    out = results.Kept(tmp_path)
    if before:
        line(out, "right", "a", "ok")
    out.add("right", "b", "ok", found="x" * 1000)
    (told,) = out.failed("right")
    assert "b: error" in told
    assert "ended ok, but its result of 1,0" in told
    assert "had no room in right.jsonl" in told
    monkeypatch.setattr(results, "MOST_BYTES", 10)
    with pytest.raises(ValueError, match="is full"):
        line(out, "right", "c", "ok")


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    out = results.Kept(tmp_path)
    line(out, "right", "a", "ok")
    with (tmp_path / "right.jsonl").open("a") as file:
        file.write('{"name": "b", "sta')
    assert out.done("right") == {"a"}
    line(out, "right", "c", "ok")
    assert out.done("right") == {"a", "c"}


def test_texts_have_the_asked_lengths(tmp_path):
    from tokenizers import Tokenizer

    from peftbench.models import builtin

    lengths = texts.alpaca_like(300, 512)
    assert (max(lengths), lengths.count(512) >= 5, 100 < sum(lengths) / 300 < 150) == (512, True, True)
    texts.write(tmp_path / "texts.jsonl", lengths)
    tokenizer = Tokenizer.from_file(str(builtin.folder("nano") / "tokenizer.json"))
    read_back = [json.loads(text)["text"] for text in (tmp_path / "texts.jsonl").read_text().splitlines()]
    counted = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in read_back]
    assert all(abs(found - asked) <= 1 for found, asked in zip(counted, lengths, strict=True))


# budget


def test_parts_that_are_cut_off_or_fail_do_not_stop_the_others_and_go_on_with_what_is_left():
    told, begun = [], []

    def long():
        begun.append("long")
        for _ in range(1000 if begun.count("long") == 1 else 1):
            time.sleep(0.01)
            yield

    def broken():
        begun.append("broken")
        yield
        raise ValueError("no such kernel")

    def short():
        begun.append("short")
        yield

    parts = [budget.Part("long", 4.0, long), budget.Part("broken", 5.0, broken), budget.Part("short", 5.0, short)]
    missing = budget.spend(parts, 10.0, told.append)
    assert begun == ["long", "broken", "short", "long", "broken"]
    assert missing == ["broken"]
    assert any("no such kernel" in text for text in told)
    assert any(text.startswith("long: its 0 s are over") for text in told)


def test_no_part_begins_when_the_time_is_over():
    begun = []
    parts = [budget.Part("one", 5.0, lambda: iter(begun.append("one") or ()))]
    assert budget.spend(parts, budget.LEAST - 1, lambda _: None) == ["one"]
    assert not begun


def test_what_runs_is_ended_even_while_it_waits():
    ended = []

    def waits():
        try:
            time.sleep(30)
            yield
        finally:
            ended.append(True)

    budget.spend([budget.Part("waits", 27.0, waits)], budget.LEAST + 0.2, lambda _: None)
    assert ended


def test_without_a_gpu_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "why_no_cuda", lambda: "no NVIDIA device was found on this machine")
    with pytest.raises(UserError, match="no GPU: no NVIDIA device"):
        machine.describe(tmp_path / "machine.json", "cuda", lambda _: None)


# wheels


def test_only_libraries_of_other_devices_are_dropped_from_a_wheel(tmp_path):
    wheel = tmp_path / "bitsandbytes-1-py3-none-any.whl"
    names = [f"bitsandbytes/libbitsandbytes_{name}.so" for name in ("cpu", "cuda130", "cuda128", "cuda132", "rocm70")]
    names += ["bitsandbytes/functional.py"]
    with zipfile.ZipFile(wheel, "w") as file:
        for name in names:
            file.writestr(name, "x" * 1000)
        listed = "".join(f"{name},sha256=a,1000\n" for name in names) + "bitsandbytes-1.dist-info/RECORD,,\n"
        file.writestr("bitsandbytes-1.dist-info/RECORD", listed)
    assert wheels.prune(wheel, wheels.libraries("130")) > 0
    with zipfile.ZipFile(wheel) as file:
        left = {name for name in file.namelist() if not name.endswith("RECORD")}
        record = file.read("bitsandbytes-1.dist-info/RECORD").decode()
    assert left == {names[0], names[1], names[5]}
    assert [row.split(",")[0] for row in record.splitlines()] == [
        *sorted(left, key=names.index),
        listed.split("\n")[-2][:-2],
    ]


def test_what_the_machine_has_is_not_fetched_and_needs_are_followed():
    found = wheels.missing([Requirement("datasets")], {"pyarrow", "numpy", "pandas", "requests", "httpx", "fsspec"})
    assert {"datasets", "dill", "multiprocess"} <= set(found)
    assert not {"numpy", "pyarrow"} & set(found)
    assert {"torch", "transformers", "peft"} <= wheels.present()


def test_the_command_fits_what_a_machine_takes():
    assert len(wheels.command(".whl")) < 2000
    assert "--minutes 9" in wheels.command(".whl")
    documented = (ROOT / "docs" / "gpu.md").read_text()
    rows = [part for part in command.SECONDS if f"| `{part}` | {command.SECONDS[part]} |" in documented]
    assert rows == list(command.SECONDS)
    assert list(itertools.islice(command.FUNCTIONS, 2)) == ["right", "planner"]
