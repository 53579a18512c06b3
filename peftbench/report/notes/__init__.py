"""Every sentence that a reader finds under a table."""
