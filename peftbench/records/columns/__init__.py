"""The columns of ``trials`` in groups, each declared once with type, unit and meaning."""
