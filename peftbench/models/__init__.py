"""The base model: its files found and loaded at a precision, its layers, and the base that ships with peftbench."""
