"""Proofs at length: minutes or hours, run by hand, with their results committed."""
