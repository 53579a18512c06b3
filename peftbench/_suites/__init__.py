"""In a wheel, the top-level ``suites/`` is at this place (pyproject.toml's ``package-dir``); in a checkout, nothing."""
