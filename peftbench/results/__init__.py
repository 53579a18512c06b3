"""Stored results and what follows from them: the store, statistics over seeds and examples, comparisons. No torch."""
