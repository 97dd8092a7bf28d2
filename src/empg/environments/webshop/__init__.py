"""WebShop: shopping from an instruction, on the pages of an online shop.

`world.py` says what a shop is, `shop.py` and `pages.py` how it is walked through, `reward.py` what a purchase is
worth, `catalogue.py` and `search.py` how products are kept and found, `records.py` reads official files,
`generator.py` makes a shop, `expert.py` buys in it, `env.py` is the gymnasium environment, `site.py` the same shop in
a browser.
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
