from tests.record.made_runs import browser, finished_run, make_run

__all__ = ["browser", "finished_run", "make_run"]
