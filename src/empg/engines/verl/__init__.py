"""verl 0.9.1: `plugin` registers our environments as agent loops and trainers that modulate. See docs/engines.md.

`plugin`, `loop`, `trainer` and `recording` import verl; `settings` and `training` do so when they are used.
"""
