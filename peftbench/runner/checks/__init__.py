"""Sanity checks that every trial runs on itself."""
