"""Tests mirror `src/empg/`; they import their helpers by name, as `tests.<room>.<module>`."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The repository."""
