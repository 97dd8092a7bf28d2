"""The report of a run: charts, step view, page and figure. No torch."""
