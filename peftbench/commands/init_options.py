"""The options of ``peftbench init``. Nothing heavy is imported before they are used."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    command = commands.add_parser(
        "init",
        help="look at your data and base model, and write a suite for them",
        examples=(
            "peftbench init --base path/to/model --train train.csv --test test.csv",
            "peftbench init --base path/to/model --train train.jsonl --budget 16GiB --time 2h -o mine.yaml",
        ),
    )
    command.add_argument("--base", required=True, metavar="FOLDER|ID", help="a model folder, a hub id, or nano")
    command.add_argument("--train", required=True, metavar="FILE", help="CSV, TSV, JSON, JSONL, Parquet or text")
    command.add_argument(
        "--test", metavar="FILE", help="test data of the same form (default: a part of the training data)"
    )
    command.add_argument("--budget", metavar="SIZE", help="memory to fit in, like 16GiB (default: this device's)")
    command.add_argument("--time", metavar="TIME", help="time for the whole grid on this machine, like 90min or 1h30m")
    command.add_argument("--methods", metavar="NAMES", help="methods beside the base, like lora,full (default: seven)")
    command.add_argument("--seeds", metavar="N|LIST", help="seeds of each method (default: 3, or fewer to fit --time)")
    command.add_argument("--limit", metavar="N", help="most scored test examples (default: 200 or 500, by the task)")
    command.add_argument("--input", metavar="COLUMNS", help="columns of the prompt, like title,text (default: guessed)")
    command.add_argument("--answer", metavar="COLUMN", help="column with the label or the answer (default: guessed)")
    command.add_argument(
        "--kind",
        choices=("choice", "exact_match", "generation", "language_modelling"),
        help="kind of task (default: guessed)",
    )
    command.add_argument(
        "-o", "--output", default="suite.yaml", metavar="FILE", help="suite file to write (default: suite.yaml)"
    )
    command.add_argument("--force", action="store_true", help="replace the file if it exists")
    command.set_defaults(command=_init, parser=command)


def _init(arguments: argparse.Namespace) -> int:
    from peftbench.commands import init
    from peftbench.tasks.recognize import Asked

    inputs = tuple(name.strip() for name in (arguments.input or "").split(",") if name.strip())
    how = init.InitOptions(
        base=arguments.base,
        train=Path(arguments.train),
        test=Path(arguments.test) if arguments.test else None,
        budget=arguments.budget,
        time=arguments.time,
        output=Path(arguments.output),
        force=arguments.force,
        asked=Asked(inputs, arguments.answer, arguments.kind),
        methods=arguments.methods,
        seeds=arguments.seeds,
        limit=arguments.limit,
    )
    return init.init(how)
