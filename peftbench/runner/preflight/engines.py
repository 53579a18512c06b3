"""Check before a run that the engines by which its suite scores are where the user says. No torch."""

from __future__ import annotations

from collections.abc import Iterable

from peftbench.errors import UserError
from peftbench.evaluation.engine import client
from peftbench.methods import deployed_forms
from peftbench.records import Trial


def check(trials: Iterable[Trial]) -> None:
    """Check that the Python of each engine is named, runs, and has the engine and lm-eval.

    Raises:
        UserError: if one does not, with the trials' key in the suite and the environment variable.
    """
    for engine in deployed_forms.engines_of(trials):
        problem = client.problem(engine)
        if problem is not None:
            raise UserError(f"evaluate: forms that {engine} scores: {problem}")
