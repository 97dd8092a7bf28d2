from tests.record.made_runs import finished_run, make_run
from tests.run.recorded import written

__all__ = ["finished_run", "make_run", "written"]
