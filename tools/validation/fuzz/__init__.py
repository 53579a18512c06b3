"""Inputs that are wrong in every way, and a check that each has a clear message or a right result.

- ``drawn``: valid suites, options, data files, results folders and results of other benchmarks, of which values, keys,
  columns or bytes are changed, as commands read them (``suites``, ``data``, ``results``, ``imports``).
- ``invented``: hypothesis makes suites, records and templates from their grammar (``strategies``).
- ``guided``: atheris changes bytes so that they reach new lines of our code (``guided``).

``python -m tools.validation.fuzz`` runs them all (``__main__``).
"""
