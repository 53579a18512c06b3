"""Evaluation: scores through lm-eval, retention of general text, and the tuned model in use."""
