"""WebShop: find and buy a product that matches an instruction, on the pages of an online shop.

`world.py` defines products, goals and the state; `shop.py` and `pages.py` implement the commands and pages; `reward.py`
scores a purchase; `catalogue.py` and `search.py` store and find products; `records.py` reads official files;
`generator.py` generates a shop; `expert.py` is the expert; `env.py` is the gymnasium environment; `site.py` serves the
same shop to a browser.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from empg.environments.webshop.env import WebShopEnv

__all__ = ["WebShopEnv"]


def __getattr__(name: str) -> Any:
    """Import the environment when it is asked for: its options are known without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from empg.environments.webshop.env import WebShopEnv

    return WebShopEnv
