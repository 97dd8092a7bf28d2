"""A run of a recipe: checks, training, evaluation, logging and display."""
