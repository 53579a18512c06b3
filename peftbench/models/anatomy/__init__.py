"""How a base model is built: tokenizer, positions, attention, normalization, experts, parameters by part.

Everything is read from its config, its tokenizer's file and the model that transformers builds of the config without
weights. What these do not tell is None.
"""
