"""Independent parts of a work: done one after the other, in several processes, or on a Ray cluster."""

from rank_xmodal.parallel.executor import Executor, Finished, Serial
from rank_xmodal.parallel.named import check_executor, executor_named

__all__ = ["Executor", "Finished", "Serial", "check_executor", "executor_named"]
