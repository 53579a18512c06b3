"""What a suite may ask of an optimizer, and what it is told otherwise, before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from peftbench import suite
from peftbench.errors import UserError
from peftbench.records import OPTIMIZERS
from peftbench.suite import cell_check


def expanded(folder: Path, method: str = "full", **train: object):
    """Return the trials of a suite with a method's training settings."""
    settings = ", ".join(f"{key}: {value}" for key, value in train.items())
    text = f"base: nano\ntasks: [compute]\nseeds: 1\ntrain: {{steps: 2, {settings}}}\nmethods: {{{method}: {{}}}}\n"
    (folder / "x.yaml").write_text(text)
    return suite.expand(suite.load(folder / "x.yaml"), "cpu")


def test_every_optimizer_of_the_table_is_allowed_and_an_unknown_one_is_told_the_nearest(tmp_path):
    for name in ("lion", "lion_8bit", "ademamix"):
        assert expanded(tmp_path, optimizer=name)[0].training.optimizer == name
    with pytest.raises(UserError, match="'adamw_8bits'; did you mean 'adamw_8bit'"):
        expanded(tmp_path, optimizer="adamw_8bits")


def test_an_optimizer_without_its_package_is_refused_with_the_extra_to_install(tmp_path, monkeypatch):
    record = replace(OPTIMIZERS["lion"], package="no_such_package", extra="some")
    monkeypatch.setattr(cell_check, "OPTIMIZERS", MappingProxyType({**OPTIMIZERS, "lion": record}))
    with pytest.raises(UserError, match=r"optimizer: lion needs the package no_such_package.*'peftbench\[some\]'"):
        expanded(tmp_path, optimizer="lion")
    assert expanded(tmp_path, optimizer="adamw")
