"""What verl loads, in the driver and in every worker: the entry point `empg` of the group `verl.plugins`.

verl hides errors of plugins, so this module logs why it registers nothing.
"""

from __future__ import annotations

import logging
from importlib import metadata

VERSION = "0.9.1"
"""The trainer overrides private methods, which any version may change."""


def register() -> None:
    """Register the trainers `empg_sync` and `empg_recipe`, and the agent loop `empg`.

    Raises:
        ImportError: verl has another version.
    """
    found = metadata.version("verl")
    if found != VERSION:
        raise ImportError(f'expected verl {VERSION}, got {found}: pip install "empg[verl]"')
    import empg.engines.verl.recording
    import empg.engines.verl.trainer  # noqa: F401  # both register themselves


try:
    register()
except ImportError as error:
    logging.getLogger(__name__).warning("empg registers nothing with verl: %s", error)
