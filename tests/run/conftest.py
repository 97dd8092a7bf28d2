from tests.record.made_runs import finished_run, make_run

__all__ = ["finished_run", "make_run"]
