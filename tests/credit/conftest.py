"""Hypothesis settings of this folder: the same examples in every run, and no deadline on a shared machine."""

from hypothesis import settings

settings.register_profile("credit", deadline=None, derandomize=True)
settings.load_profile("credit")
