"""Text environments. Importing this package makes its own known to gymnasium, without importing any of them."""

from empg.environments.registry import register_own

register_own()
