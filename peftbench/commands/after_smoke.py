"""What follows a smoke run: whether the suite itself, with its own base model and data, can run here."""

from __future__ import annotations

import io

from peftbench.commands import selection
from peftbench.errors import UserError
from peftbench.suite import SuiteOptions, load


def problem(options: SuiteOptions) -> str:
    """Return why ``peftbench run`` would stop, or run nothing; empty if nothing of the kind is found.

    What ``plan`` checks is checked: nothing is downloaded and no weights are loaded.

    Args:
        options: the suite and what was set, not in smoke mode.
    """
    from peftbench.measure import device
    from peftbench.models import here
    from peftbench.runner import prepare
    from peftbench.runner.preflight.texts import Texts
    from peftbench.suite import expand

    known = Texts()
    try:
        suite = load(options.suite, overrides=options.overrides, only=options.only, seeds=options.seeds)
        complete = selection.complete(suite, io.StringIO(), here.folder, False, known.examples).suite
        trials = expand(complete, device.resolve(complete.device))
        prepare.check(trials, known)
    except UserError as error:
        return str(error)
    reasons = prepare.impossible(trials)
    if any(trial.cell not in reasons for trial in trials):
        return ""
    cell, reason = next(iter(reasons.items()))
    return f"{selection.NONE_CAN_RUN}: {cell}: {reason}"
