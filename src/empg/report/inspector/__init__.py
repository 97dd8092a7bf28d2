"""The inspector: every kept episode of a run in the browser, with the credit of each step. No torch."""
