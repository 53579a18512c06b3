"""What a row says of the packages that made its numbers."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec

from peftbench.measure import environment
from peftbench.models import stored_kinds
from peftbench.records import OPTIMIZERS


def test_packages_that_make_optimizers_or_read_bases_are_told_with_their_version_or_as_absent():
    found = environment.describe()["packages"]
    wanted = {record.package for record in [*OPTIMIZERS.values(), *stored_kinds.KINDS.values()]} - {""}
    assert len(wanted) == 3
    assert {name: found[name] for name in wanted} == {
        name: metadata.version(name) if find_spec(name) else None for name in wanted
    }
