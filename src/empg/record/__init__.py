"""The files of a run: folder, tables, statistics. No torch."""
