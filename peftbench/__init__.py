"""peftbench: compare fine-tuning methods on one base model, with numbers that can be traced."""

__version__ = "0.1.0"

PROTOCOL = 1
"""Raised by any change that moves numbers; part of every trial's key, so old results are never mixed with new ones."""
