"""A run of a recipe: training, evaluation, checks before work, what is written and shown."""
