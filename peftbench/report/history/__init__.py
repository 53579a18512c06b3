"""A history as text, Markdown, JSON and an offline page."""
