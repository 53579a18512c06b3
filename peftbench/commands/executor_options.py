"""The options of ``peftbench run`` for where trials run."""

from __future__ import annotations

import argparse


def add(command: argparse.ArgumentParser) -> None:
    """Add the options to the command."""
    command.add_argument(
        "--executor",
        default="local",
        metavar="NAME",
        help="local: processes of this machine (default); ray: a cluster of Ray, or all GPUs of this machine",
    )
    command.add_argument(
        "--address",
        metavar="ADDRESS",
        help="with --executor ray: the cluster, as ray start prints it, or auto (default: this machine alone); its "
        "CPUs and GPUs decide how many trials run at the same time, not workers",
    )
