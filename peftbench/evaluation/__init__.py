"""Evaluation: scores through lm-eval, retention of general text, and cost of inference."""
