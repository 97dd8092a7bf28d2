"""Text worlds as gymnasium environments; importing this package registers them."""

import gymnasium

gymnasium.register("empg/ALFWorld-v1", entry_point="empg.environments.alfworld:ALFWorldEnv", disable_env_checker=True)
