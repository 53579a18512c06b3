"""Nights: what moved between two results folders of the same suite, judged by the kind of each number.

``quantities`` lists what is judged and how it is read from rows. Each kind has a model of its own in a file of its own
(``exact``, ``memory``, ``speed``, ``scores``, ``statuses``, ``retention``, ``inference``, ``merge``): a pure function
from two nights to one ``Finding`` per cell and quantity. ``comparison`` puts them together.
"""
