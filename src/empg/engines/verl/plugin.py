"""What verl loads, in the driver and in every worker: the entry point `empg` of the group `verl.plugins`.

verl hides errors of plugins, so this module logs why it registers nothing.
"""

from __future__ import annotations

import logging
from importlib import metadata

from empg.engines.verl.tasks import agent_name
from empg.environments import registry

VERSION = "0.9.1"
"""The trainer overrides private methods and the agent loops use a private table, which any version may change."""


def register() -> None:
    """Register the trainers `empg_sync` and `empg_recipe`, and an agent loop `empg_<id>` for every environment.

    Raises:
        ImportError: verl has another version.
    """
    found = metadata.version("verl")
    if found != VERSION:
        raise ImportError(f'expected verl {VERSION}, got {found}: pip install "empg[verl]"')
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry

    import empg.engines.verl.recording
    import empg.engines.verl.trainer  # noqa: F401  # both register themselves

    for environment in registry.known_ids():
        # verl's decorator takes a class and no arguments for it.
        _agent_loop_registry[agent_name(environment)] = {
            "_target_": "empg.engines.verl.recording.RecordedLoop",
            "environment": environment,
        }


try:
    register()
except ImportError as error:
    logging.getLogger(__name__).warning("empg registers nothing with verl: %s", error)
