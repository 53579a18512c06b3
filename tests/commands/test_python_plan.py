"""``peftbench.plan`` and ``plan --memory --json``: the same numbers, frozen records, documented keys."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import peftbench
from peftbench import cli
from peftbench.records import Category

ROOT = Path(__file__).parents[2]
TRAIN = {"steps": 100, "batch_size": 2, "sequence_length": 32}
SUITE = f"base: nano\ntasks: [compute]\nseeds: 1\ndevice: cpu\ntrain: {json.dumps(TRAIN)}\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    """The plan of the command as JSON."""
    path = tmp_path_factory.mktemp("plan") / "some.yaml"
    path.write_text(
        SUITE + "methods: {base: , full: {precision: [fp32, bf16-true]}, lora: , qlora: {precision: fp32}}\n"
    )
    out = Path(path.parent / "out.json")
    with out.open("w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        assert cli.main(["plan", str(path), "--memory", "--json", "--budget", "12MiB"]) == 0
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def found():
    methods = {"base": None, "full": {"precision": ("fp32", "bf16-true")}, "lora": None, "qlora": {"precision": "fp32"}}
    return peftbench.plan("nano", methods, 12 * 2**20, train=TRAIN, device="cpu")


def test_python_and_the_command_predict_the_same(whole, found) -> None:
    assert (found.device, found.budget_bytes) == (whole["device"], whole["budget_bytes"])
    assert [cell.cell for cell in found.cells] == [cell["cell"] for cell in whole["cells"]]
    for ours, theirs in zip(found.cells, whole["cells"], strict=True):
        memory = theirs["memory"]
        assert (ours.method, ours.precision, ours.rank) == (theirs["method"], theirs["precision"], theirs["rank"])
        if memory is None:
            assert (ours.peak_bytes, ours.fits, ours.parts_bytes) == (None, None, {})
            continue
        assert memory["peak_bytes"] == ours.peak_bytes == sum(ours.parts_bytes.values())
        assert {f"{name}_bytes": size for name, size in ours.parts_bytes.items()}.items() <= memory.items()
        for name in (
            "loading_peak_bytes",
            "reserve_bytes",
            "saved_bytes",
            "trainable_parameters",
            "flop_per_token",
            "fits",
        ):
            assert memory[name] == getattr(ours, name), name
        assert [each["peak_bytes"] for each in memory["ways_to_fit"]] == [each.peak_bytes for each in ours.ways_to_fit]
    fits = {cell.cell: cell.fits for cell in found.cells}
    assert (fits["full fp32"], fits["lora r=8 fp32"]) == (False, True)
    assert [cell.cell for cell in found.fitting] == [name for name, fitting in fits.items() if fitting]
    assert found.cells[1].ways_to_fit
    assert "4-bit base" in (found.cells[-1].cannot_run or "")


def test_the_records_are_frozen(found) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.cells[1].peak_bytes = 1
    with pytest.raises(TypeError):
        found.cells[1].parts_bytes["logits"] = 1


def test_the_documented_keys_are_those_of_the_document(whole) -> None:
    """A key that is renamed, added or left out must be so in docs/cli.md, since programs read them."""
    text = (ROOT / "docs" / "cli.md").read_text()
    words = text[text.index("The keys of `plan SUITE --memory --json`") :].partition("\n\n")[0]
    documented = set(re.findall(r"`([a-z_0-9]+)`", words))
    first = next(cell for cell in whole["cells"] if cell["memory"])
    assert {*whole, *first, *first["memory"]} <= documented
    assert {f"{category}_bytes" for category in Category} <= documented
    sometimes = {"offloaded_to_host_bytes", "ranks_peak_bytes", "most_batch_size", "most_sequence_length"}
    assert documented - {*whole, *first, *first["memory"]} == sometimes


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"methods": ["lorra"]}, ("plan(): methods.lorra", "did you mean 'lora'?")),
        ({"methods": {"lora": {"rnk": 4}}}, ("plan(): methods.lora", "'rnk'", "'rank'")),
        ({"base": {"shape": "llama-7bb"}}, ("llama-7b",)),
        ({"budget": "16 apples"}, ("--budget", "16 apples")),
        ({"reserve": "1GiB"}, ("--budget",)),
        ({"train": {"batchsize": 3}}, ("plan(): train", "'batch_size'")),
        ({"methods": {"lora": {"rank": object()}}}, ("plan(): ", "allowed")),
        ({"device": "gpu"}, ("plan(): device", "cuda")),
    ],
)
def test_wrong_arguments_are_user_errors(arguments, parts) -> None:
    given = {"base": "nano", "methods": ["lora"], **arguments}
    with pytest.raises(peftbench.UserError) as error:
        peftbench.plan(**given)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_importing_imports_no_torch() -> None:
    code = "import sys, peftbench; peftbench.plan; assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
