"""The versions of the package and of its measuring protocol: apart, so that no folder imports the public interface."""

__version__ = "0.1.0"

PROTOCOL = 2
"""Raised by any change that moves numbers; part of every trial's key, so old results are never mixed with new ones."""
