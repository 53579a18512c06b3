"""Numbers computed from stored rows for tables, figures and notes. No sentence and no formatted text."""
