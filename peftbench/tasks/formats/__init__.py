"""File formats of data: bytes to text, text to records. No torch."""
