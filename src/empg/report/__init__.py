"""The report of a run: charts, step view, page and figure. No torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from empg.report.notebook import Figure, plot_batch, plot_curves

__all__ = ["Figure", "plot_batch", "plot_curves"]


def __getattr__(name: str) -> Any:
    """Import the figures when they are used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from empg.report import notebook

    return getattr(notebook, name)
