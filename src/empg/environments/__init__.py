"""Text worlds as gymnasium environments; importing this package registers them."""

import gymnasium

for _id, _place in {
    "empg/ALFWorld-v1": "empg.environments.alfworld:ALFWorldEnv",
    "empg/WebShop-v1": "empg.environments.webshop:WebShopEnv",
    "empg/DeepSearch-v1": "empg.environments.deepsearch:DeepSearchEnv",
}.items():
    gymnasium.register(_id, entry_point=_place, disable_env_checker=True)
