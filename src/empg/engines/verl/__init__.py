"""verl 0.9.1: `plugin` registers an agent loop of our environments and trainers that modulate. See docs/engines.md.

`plugin`, `loop`, `trainer` and `recording` import verl; `settings` and `training` do so when they are used.
"""
