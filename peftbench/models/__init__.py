"""Base models: finding and loading them, precisions, decoder layers, and the model that ships with peftbench."""
