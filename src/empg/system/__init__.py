"""Processes, memory and the cache folder of this machine."""
