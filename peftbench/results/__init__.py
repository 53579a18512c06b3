"""Stored results: reading and writing, statistics over seeds and examples, comparisons of folders. No torch."""
