"""``python -m peftbench.results.store --document``: print the tables of all stored columns."""

from __future__ import annotations

import argparse

from peftbench.results.store.document import document


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m peftbench.results.store", description="The store's columns.")
    parser.add_argument("--document", action="store_true", required=True, help="print them as Markdown tables")
    parser.parse_args()
    print(document(), end="")


if __name__ == "__main__":
    main()
