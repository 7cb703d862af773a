"""From what `--parallel` says to who works."""

from __future__ import annotations

from rank_xmodal.errors import UserError
from rank_xmodal.parallel.executor import Executor, Serial

_MOST = 256


def check_executor(name: str) -> None:
    """Find out whether there is such an executor, before anything is started.

    Raises
    ------
    UserError
        See `executor_named`.
    """
    if name == "ray":
        from rank_xmodal.parallel.on_ray import check_there

        check_there()
    elif not name.isdecimal() or not 1 <= int(name) <= _MOST:
        raise UserError(f"--parallel {name}: must be a number of processes, 1 to {_MOST}, or ray.")


def executor_named(name: str) -> Executor:
    """Return the executor of that name.

    Parameters
    ----------
    name : str
        "1", a number of processes, or "ray".

    Raises
    ------
    UserError
        If it is none of them, or Ray can't be had.
    """
    check_executor(name)
    if name == "ray":
        from rank_xmodal.parallel.on_ray import OnRay

        return OnRay()
    if int(name) == 1:
        return Serial()
    from rank_xmodal.parallel.processes import Processes

    return Processes(int(name))
