"""Renew the JavaScript libraries of the page from the npm registry: ``python -m tools.vendor``.

Each package is packed by npm at the version below, and what the page needs of it is copied to
``peftbench/report/vendor`` with its licence. ``vendored.json`` there records name, version, licence and checksums, so
that a test sees whether a file was changed by hand. ``--check`` packs everything and only compares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).resolve().parents[1] / "peftbench" / "report" / "vendor"
RECORD = "vendored.json"


@dataclass(frozen=True)
class Library:
    """A package of the registry, and the files that the page includes."""

    name: str
    version: str
    script: str
    """Path of its script in the package."""
    licence: str
    """Path of its licence in the package."""


LIBRARIES = (
    Library("datatables.net", "3.1.5", "js/dataTables.min.js", "License.txt"),
    Library("vega", "6.4.0", "build/vega.min.js", "LICENSE"),
    Library("vega-interpreter", "2.3.2", "build/vega-interpreter.js", "LICENSE"),
    Library("vega-lite", "6.5.0", "build/vega-lite.min.js", "LICENSE"),
)
"""In the order in which the page includes them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what is committed and write nothing")
    check = parser.parse_args().check
    found = [pack(library) for library in LIBRARIES]
    files = {name: text for made in found for name, text in made[0].items()}
    files[RECORD] = json.dumps([made[1] for made in found], indent=2) + "\n"
    changed = [name for name, text in files.items() if not same(VENDOR / name, text)]
    if check and changed:
        raise SystemExit(f"differs from the registry: {', '.join(changed)}")
    for name in () if check else changed:
        (VENDOR / name).write_text(files[name], encoding="utf-8", newline="")
    print(f"{len(files) - len(changed)} files are up to date, {len(changed)} renewed")


def same(path: Path, text: str) -> bool:
    return path.exists() and path.read_bytes() == text.encode()


def pack(library: Library) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the committed files of a package by name, and its entry of the record."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", f"{library.name}@{library.version}", "--json", "--silent"]
        told = json.loads(subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout)
        with tarfile.open(Path(folder) / told[0]["filename"]) as archive:
            paths = ("package.json", library.script, library.licence)
            about, script, licence = (_text(archive, path) for path in paths)
    files = {f"{library.name}.js": plain_script(script), f"{library.name}.LICENSE": licence}
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    more = {"licence": json.loads(about)["license"], "package_integrity": told[0]["integrity"], "sha256": sums}
    return files, asdict(library) | more


def _text(archive: tarfile.TarFile, path: str) -> str:
    member = archive.extractfile(f"package/{path}")
    if member is None:
        raise SystemExit(f"{path} is no file of the package")
    return member.read().decode()


def plain_script(text: str) -> str:
    """Return a script that can stand inside a page.

    A module of vega's becomes a plain script that adds its exports to ``vega``. Nothing names a source map, which a
    browser would look for, and nothing ends the page's script element.
    """
    text = re.sub(r"^//# sourceMappingURL=.*\n?", "", text, flags=re.MULTILINE)
    module = re.search(r"^import \{ ([^}]+) \} from 'vega-util';$", text, re.MULTILINE)
    if module:
        exports = re.search(r"^export \{ ([\w, ]+) \};$", text, re.MULTILINE)
        if exports is None or "import" in text.replace(module[0], ""):
            raise SystemExit("a module that imports more than vega-util")
        body = text.replace(module[0], f"const {{ {module[1]} }} = vega;")
        added = re.sub(r"(\w+) as (\w+)", r"\2: \1", exports[1])
        body = body.replace(exports[0], f"Object.assign(vega, {{ {added} }});")
        text = f"(() => {{\n{body}}})();\n"
    if re.search(r"</script|<!--", text, re.IGNORECASE):
        raise SystemExit("a script that cannot stand inside a page")
    return text


if __name__ == "__main__":
    main()
