"""The tests, by room of the package; ``support`` holds what several of them share."""
