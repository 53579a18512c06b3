"""In a wheel, the top-level ``suites/`` is at this place (``package-dir`` in pyproject.toml); in a checkout, nothing."""
