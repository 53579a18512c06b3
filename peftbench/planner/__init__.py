"""Predictions of a trial's memory and work before anything is loaded; ``predict.predict`` is the entry point."""
