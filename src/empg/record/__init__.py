"""The files of a run: folder, tables, statistics. No torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from empg.record.loading import LoadedRun, load

__all__ = ["LoadedRun", "load"]


def __getattr__(name: str) -> Any:
    """Import the tables when they are used: a checkpoint or an alarm needs no pyarrow."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from empg.record import loading

    return getattr(loading, name)
