"""Fetch the wheels that a machine without a network lacks: ``python -m tools.validation.gpu.wheels FOLDER``.

``present.txt`` beside this file names the packages that the machine has. What peftbench needs beyond them, with all
that those packages need, is downloaded for Python 3.12 on x86-64, in the versions that this environment has (run it
with Python 3.12), and what is never used there is taken out of the largest: bitsandbytes' libraries for other CUDA
versions. ``--cuda`` says which one stays. The folder must be one that git ignores; it travels with the checkout.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
MOST_BYTES = 60_000_000
PYTHON = "3.12"
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (34, 31, 28, 27, 24, 17, 5)] + ["manylinux2014_x86_64"]
UNUSED = {
    # imported by nothing that a trial runs: tables of lm-eval's command line, metrics of tasks that are not run there
    "pytablewriter",
    "dataproperty",
    "mbstrdecoder",
    "pathvalidate",
    "tabledata",
    "tcolorpy",
    "typepy",
}


def present() -> set[str]:
    """Return the packages that the machine has."""
    lines = (HERE / "present.txt").read_text().splitlines()
    return {canonicalize_name(line) for line in lines if line and not line.startswith("#")}


def needed() -> list[Requirement]:
    """Return what peftbench needs, with what a GPU's own counters, torchao's precisions and liger's logits need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    texts = (*project["dependencies"], *extras["nvml"], *extras["torchao"], "liger-kernel")
    return [Requirement(text) for text in texts]


def missing(roots: Iterable[Requirement], have: set[str]) -> dict[str, str]:
    """Return name and version here of each package that the roots need and the machine lacks.

    A package that the machine has is taken to be complete there. Extras are followed.

    Raises:
        SystemExit: if a package is not installed here, so that its version and its needs are not known.
    """
    found: dict[str, str] = {}
    waiting, seen = list(roots), set()
    while waiting:
        asked = waiting.pop()
        name = canonicalize_name(asked.name)
        if (name, tuple(asked.extras)) in seen or name in have:
            continue
        seen.add((name, tuple(asked.extras)))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            sys.exit(f"{name} is needed and not installed here: install peftbench's dependencies with Python {PYTHON}")
        found[name] = distribution.version.partition("+")[0]
        for text in distribution.requires or ():
            need = Requirement(text)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *asked.extras)):
                waiting.append(need)
    return found


def download(packages: dict[str, str], folder: Path) -> None:
    """Download the wheels; what has none is built here, if it is pure Python."""
    common = [sys.executable, "-m", "pip"]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    for name, version in sorted(packages.items()):
        asked = f"{name}=={version}"
        for_target = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", *platforms]
        tried = subprocess.run(
            [*common, "download", "--quiet", "--no-deps", *for_target, "--dest", str(folder), asked],
            capture_output=True,
            text=True,
        )
        if tried.returncode:
            subprocess.run([*common, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), asked], check=True)


def prune(wheel: Path, drop: re.Pattern[str]) -> int:
    """Take files out of a wheel, and out of its list of files; return the bytes that it is smaller by."""
    before, made = wheel.stat().st_size, wheel.with_suffix(".pruned")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            if drop.search(entry.filename):
                continue
            content = source.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                rows = csv.reader(io.StringIO(content.decode()))
                kept = [row for row in rows if row and not drop.search(row[0])]
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows(kept)
                content = text.getvalue().encode()
            target.writestr(entry, content)
    made.replace(wheel)
    return before - wheel.stat().st_size


def libraries(cuda: str) -> re.Pattern[str]:
    """Return what is dropped of bitsandbytes: its libraries but for those of the CPU and of one CUDA version."""
    return re.compile(rf"bitsandbytes/libbitsandbytes_(?!cpu|cuda{cuda})\w+\.so$")


def command(folder: str) -> str:
    """Return the command to run there."""
    install = "python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site"
    return (
        f"{install} {folder}/*.whl && export PYTHONPATH=/tmp/site:$PWD PYTHONUNBUFFERED=1 || exit; "
        "python3 -m tools.validation.gpu --minutes 9 --out $OUT"
    )


def sizes(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield name and size of each wheel, the largest first."""
    yield from sorted(((path.name, path.stat().st_size) for path in folder.glob("*.whl")), key=lambda each: -each[1])


def main() -> None:
    """Fetch, prune, and print the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the wheels are put; it is emptied first")
    parser.add_argument("--cuda", default="130", help="CUDA version of the machine's torch, without the point")
    given = parser.parse_args()
    if sys.version_info[:2] != tuple(map(int, PYTHON.split("."))):
        sys.exit(f"run it with Python {PYTHON}, the machine's: what packages need depends on it")
    given.folder.mkdir(parents=True, exist_ok=True)
    for old in given.folder.glob("*.whl"):
        old.unlink()
    download(missing(needed(), present() | UNUSED), given.folder)
    for wheel in given.folder.glob("bitsandbytes-*.whl"):
        print(f"{wheel.name}: {prune(wheel, libraries(given.cuda)):,} bytes less")
    for name, size in sizes(given.folder):
        print(f"{size:>12,} {name}")
    total = sum(size for _, size in sizes(given.folder))
    print(f"{total:>12,} bytes in all" + ("" if total < MOST_BYTES else f": more than {MOST_BYTES:,}"))
    print(f"carry: {given.folder}\ncommand: {command(given.folder.name)}")
    sys.exit(total >= MOST_BYTES)


if __name__ == "__main__":
    main()
