"""The tasks that peftbench generates itself, identical on every machine."""
