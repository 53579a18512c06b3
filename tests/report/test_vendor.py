"""The vendored libraries are those of the record: nobody changed them by hand, and they can stand inside a page."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path

from tools import vendor

ROOT = Path(__file__).parents[2]
RECORD = json.loads((vendor.VENDOR / vendor.RECORD).read_text())


def test_every_library_is_recorded_with_version_licence_and_checksums() -> None:
    assert [(each["name"], each["version"]) for each in RECORD] == [(one.name, one.version) for one in vendor.LIBRARIES]
    listed = {name: digest for each in RECORD for name, digest in each["sha256"].items()}
    files = {path.name: path for path in vendor.VENDOR.iterdir()}
    assert set(files) == {*listed, vendor.RECORD}
    for name, digest in listed.items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == digest, "run: python -m tools.vendor"
    for each in RECORD:
        assert each["licence"] in ("MIT", "BSD-3-Clause")
        assert "Copyright" in files[f"{each['name']}.LICENSE"].read_text()


def test_a_library_can_stand_inside_a_page_and_needs_no_other() -> None:
    for each in RECORD:
        text = (vendor.VENDOR / f"{each['name']}.js").read_text()
        assert not re.search(r"</script|<!--|sourceMappingURL", text, re.IGNORECASE), each["name"]
        assert vendor.plain_script(text) == text
    assert sum((vendor.VENDOR / f"{each['name']}.js").stat().st_size for each in RECORD) < 1_000_000


def test_they_are_part_of_the_wheel() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "vendor/*" in data["peftbench.report"]


def test_a_module_of_vegas_becomes_a_plain_script() -> None:
    module = (
        "import { a, b } from 'vega-util';\n\nconst c = a + b;\n\nexport { c as d, e };\n//# sourceMappingURL=x.map\n"
    )
    made = vendor.plain_script(module)
    assert made.startswith("(() => {\nconst { a, b } = vega;\n")
    assert "Object.assign(vega, { d: c, e });" in made
    assert "sourceMappingURL" not in made
