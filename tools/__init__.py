"""What maintains the project and is not in the wheel: documents, validation at length, the built-in base."""
