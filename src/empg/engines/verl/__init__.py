"""verl 0.9.1: `plugin` registers our environments as agent loops and a trainer that modulates. See docs/engines.md.

Only `plugin`, `loop` and `trainer` import verl.
"""
