from tests.report.inspector.served import inspect, recorded

__all__ = ["inspect", "recorded"]  # `browser` comes from the folder above: a second one cannot start beside it
