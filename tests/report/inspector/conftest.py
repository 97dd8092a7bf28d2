from tests.record.made_runs import browser, finished_run, make_run
from tests.report.inspector.served import inspect, recorded

__all__ = ["browser", "finished_run", "inspect", "make_run", "recorded"]
