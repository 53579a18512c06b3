"""What makes the built-in base nano: its text, its training, its card."""
