"""Engines of other packages that train with this package's credit. Each is a folder and an extra of the same name."""
