"""Trials on a cluster of Ray: what the command does, and what a node does."""
