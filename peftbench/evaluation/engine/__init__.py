"""Scores of a deployed form that another engine computes, in an environment of its own that the user names."""
