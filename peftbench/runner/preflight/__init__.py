"""What is checked before anything runs, one concern a file: ``plan`` and ``run`` both use it."""
