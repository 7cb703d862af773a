"""Parts are done once, wherever; what dies is done again, and what fails says why."""

import itertools
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rank_xmodal.errors import UserError


def parts():
    import parts  # of this folder

    return parts


def test_every_part_is_done_once(executor):
    found = list(executor.map(partial(parts().times, 10), range(20)))
    assert sorted(one.number for one in found) == list(range(20))
    assert {one.number: one.get()[0] for one in found} == {n: 10 * n for n in range(20)}
    assert (os.getpid() in {one.result[1] for one in found}) == (executor.name == "1")


def test_nothing_to_do(executor):
    assert list(executor.map(partial(parts().times, 10), [])) == []


def test_a_part_that_fails_keeps_no_other_from_ending(executor):
    found = {one.number: one for one in executor.map(partial(parts().failing, 3), range(6))}
    assert [n for n in range(6) if found[n].error] == [3]
    with pytest.raises(UserError, match=r"^part 3 is bad\.$"):
        found[3].get()


def test_what_cannot_be_opened_fails_every_part(executor):
    found = list(executor.map(parts().locked, range(2)))
    assert [str(one.error) for one in found] == ["the door is locked."] * 2


def test_an_error_of_ours_is_raised_as_what_it_is(executor):
    with pytest.raises(ZeroDivisionError):
        list(executor.map(parts().breaking, [0]))


def test_a_second_map_has_its_own_function(executor):
    for factor in (2, 3):
        assert [one.get()[0] for one in executor.map(partial(parts().times, factor), [7])] == [7 * factor]


def test_parts_are_taken_when_a_worker_is_free_soon(executor):
    taken = []
    found = executor.map(partial(parts().times, 1), (taken.append(n) or n for n in range(100)))
    next(found)
    assert len(taken) <= 2 * executor.workers + 1
    found.close()


def test_a_worker_that_dies_is_replaced(others, tmp_path):
    found = others.map(partial(parts().dying, str(tmp_path / "died"), 2), range(8))
    assert sorted(one.get() for one in found) == list(range(8))
    assert (tmp_path / "died").exists()


def test_a_part_that_always_kills_fails_alone(others, tmp_path):
    found = {one.number: one for one in others.map(partial(parts().dying, str(tmp_path / "died"), 1, True), range(12))}
    assert [n for n in range(12) if found[n].error] == [1]
    with pytest.raises(UserError, match=r"part 1 was lost 5 times.*memory"):
        found[1].get()
    assert (tmp_path / "died").read_text() == 5 * "x"
    assert [one.get() for one in others.map(partial(parts().failing, 9), [1])] == [1]  # and it goes on


def test_processes_that_cannot_live_end_the_work(executors, tmp_path):
    with pytest.raises(UserError, match=r"10 times in a row, as when memory runs out\. Leave --parallel out"):
        list(executors["processes"].map(parts().mortal, range(100)))


def test_another_map_opens_anew(executor, tmp_path):
    note = tmp_path / "note"
    for said in ("one", "two"):
        note.write_text(said, encoding="utf-8")
        assert {one.get() for one in executor.map(partial(parts().reading, str(note)), range(4))} == {said}


def test_a_value_is_shared(executor):
    value = np.arange(5.0)
    get = executor.shared(value, partial(np.arange, 5.0))
    assert sorted(one.get() for one in executor.map(partial(parts().of_shared, get), range(5))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["2", "ray"])
def test_workers_do_not_outlive_whom_they_work_for(name, tmp_path):
    if name == "ray":
        pytest.importorskip("ray")
    code = (
        "import sys; from functools import partial; from rank_xmodal.parallel import executor_named; import parts\n"
        "if __name__ == '__main__':\n"
        f"    with executor_named({name!r}) as executor:\n"
        f"        list(executor.map(partial(parts.slow, {str(tmp_path)!r}), range(10_000)))\n"
    )
    script = tmp_path.with_suffix(".py")
    script.write_text(code, encoding="utf-8")
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[3])])
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": path})
    try:
        wait_for(lambda: len(list(tmp_path.iterdir())) > 2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    workers = {int(note.name.split("-")[1]) for note in tmp_path.iterdir()}
    assert os.getpid() not in workers
    wait_for(lambda: not any(alive(pid) for pid in workers))


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_for(condition, seconds=60):
    for _ in itertools.takewhile(lambda _: not condition(), range(10 * seconds)):
        time.sleep(0.1)
    assert condition()
