"""Scores of the official E2E scorer for the texts of ``tests/evaluation/e2e_reference.json``, written into that file.

``python -m tools.validation.e2e_scorer FOLDER``: FOLDER is a clone of tuetschek/e2e-metrics (seen at commit
``COMMIT``) in which ``./measure_scores.py`` runs: Java, Perl with XML::Twig, its requirements, and its jar files.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMIT = "1b9c4d87fd0bbb171ea966741cdc012588581ed4"
RECORD = Path(__file__).parents[2] / "tests" / "evaluation" / "e2e_reference.json"


def official(folder: Path, references: list[list[str]], answers: list[str], scratch: Path) -> dict[str, float]:
    """Return the scores that the official scorer prints, with four decimals."""
    known, mine = scratch / "references.txt", scratch / "answers.txt"
    known.write_text("\n\n".join("\n".join(each) for each in references) + "\n", encoding="utf-8")
    mine.write_text("\n".join(answers) + "\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "measure_scores.py", str(known), str(mine)], cwd=folder, capture_output=True, text=True
    )
    found = {name: float(value) for name, value in re.findall(r"^(\w+): ([\d.]+)$", done.stdout, re.MULTILINE)}
    if len(found) != 5:
        raise SystemExit(f"measure_scores.py printed {found}: {done.stderr[-2000:]}")
    return found


def main(folder: Path) -> None:
    import tempfile

    from peftbench.evaluation import more_metrics

    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        record["scores"] = official(folder, record["references"], record["answers"], Path(scratch))
    record["words"] = {
        "references": list(more_metrics._words(record["references"]).values()),
        "answers": list(more_metrics._words([[answer] for answer in record["answers"]]).values()),
    }
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(record["scores"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
