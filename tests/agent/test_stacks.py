"""What a stack says. The texts are faulthandler's, of real jobs, shortened."""

from __future__ import annotations

import pytest

from twinstep.agent.stacks import Doing, Frame, main_thread, own_frame, read

SITE = "/venv/lib/python3.11/site-packages"
ALL_REDUCE = f"""Current thread 0x00007f52 (most recent call first):
  File "{SITE}/torch/distributed/distributed_c10d.py", line 3023 in all_reduce
  File "{SITE}/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/home/user/train.py", line 69 in main
  File "/home/user/train.py", line 77 in <module>
  File "/src/twinstep/agent/script.py", line 128 in run_script
"""
INIT = f"""Stack (most recent call first):
  File "{SITE}/torch/distributed/distributed_c10d.py", line 2 in _store_based_barrier
  File "{SITE}/torch/distributed/distributed_c10d.py", line 9 in init_process_group
  File "{SITE}/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/home/user/train.py", line 48 in main
"""
BACKWARD = f"""Current thread 0x00007f52 (most recent call first):
  File "{SITE}/torch/autograd/graph.py", line 829 in _engine_run_backward
  File "{SITE}/torch/autograd/__init__.py", line 354 in backward
  File "{SITE}/torch/_tensor.py", line 647 in backward
  File "/home/user/train.py", line 65 in main
"""
LOADER = f"""Current thread 0x00007f52 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait
  File "/usr/lib/python3.11/queue.py", line 180 in get
  File "{SITE}/torch/utils/data/dataloader.py", line 1275 in _try_get_data
  File "/home/user/train.py", line 60 in main
"""
QUEUE = """Current thread 0x00007f52 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait
  File "/usr/lib/python3.11/queue.py", line 171 in get
  File "/home/user/train.py", line 33 in fetch
  File "/home/user/train.py", line 60 in main
"""
UPLOAD = """Current thread 0x00007f52 (most recent call first):
  File "/usr/lib/python3.11/selectors.py", line 415 in select
  File "/usr/lib/python3.11/subprocess.py", line 2021 in communicate
  File "/home/user/train.py", line 33 in upload
"""
SAVE = f"""Current thread 0x00007f52 (most recent call first):
  File "{SITE}/torch/distributed/checkpoint/filesystem.py", line 300 in write
  File "{SITE}/torch/distributed/checkpoint/state_dict_saver.py", line 170 in save
  File "/home/user/train.py", line 33 in main
"""
RESTORE = """Current thread 0x00007f52 (most recent call first):
  File "/src/twinstep/agent/tether.py", line 80 in _read
  File "/src/twinstep/loading.py", line 40 in load
  File "/src/twinstep/session.py", line 140 in restore
  File "/home/user/train.py", line 52 in main
"""
OWN = """Current thread 0x00007f52 (most recent call first):
  File "/home/user/train.py", line 29 in get_stuck
  File "/home/user/train.py", line 62 in main
"""
HEAD = "(most recent call first):\n"
HOOK = '  File "/src/twinstep/adapters/torch_traffic.py", line 123 in wait\n'
HOOKED = ALL_REDUCE.replace(HEAD, HEAD + HOOK)
HANDLE = OWN.replace(HEAD, HEAD + HOOK)
SPY = f"""Process 4711: python train.py
Python v3.11.7 (/usr/bin/python3.11)

Thread 4711 (idle): "MainThread"
    all_reduce ({SITE}/torch/distributed/distributed_c10d.py:3023)
    wrapper ({SITE}/torch/distributed/c10d_logger.py:83)
    main (/home/user/train.py:69)
Thread 4720 (idle): "twinstep-twin"
    _read (/src/twinstep/agent/tether.py:80)
"""


@pytest.mark.parametrize(
    ("text", "source", "waits_in", "doing", "call", "place"),
    [
        (ALL_REDUCE, "", "", Doing.COLLECTIVE, "all_reduce", "train.py:69"),
        (HOOKED, "", "", Doing.COLLECTIVE, "all_reduce", "train.py:69"),
        (HANDLE, "work.wait()", "", Doing.FRAMEWORK, "work.wait()", "train.py:29"),
        (SPY, "", "", Doing.COLLECTIVE, "all_reduce", "train.py:69"),
        (INIT, "", "", Doing.COLLECTIVE, "init_process_group", "train.py:48"),
        (BACKWARD, "", "", Doing.FRAMEWORK, "backward", "train.py:65"),
        (LOADER, "", "", Doing.DATA, "the data loader", "train.py:60"),
        (QUEUE, "x = q.get()", "", Doing.LOCK, "x = q.get()", "train.py:33"),
        (UPLOAD, "run(c)", "", Doing.OWN, "run(c)", "train.py:33"),
        (SAVE, "save(s)", "", Doing.OWN, "save(s)", "train.py:33"),
        (RESTORE, "", "", Doing.AGENT, "_read", "train.py:52"),
        (OWN, "lock.acquire()", "", Doing.LOCK, "lock.acquire()", "train.py:29"),
        (OWN, "with self._lock:", "", Doing.LOCK, "with self._lock:", "train.py:29"),
        (OWN, "sleep(9)", "", Doing.SLEEP, "sleep(9)", "train.py:29"),
        (OWN, "nap()", "hrtimer_nanosleep", Doing.SLEEP, "nap()", "train.py:29"),
        (OWN, "work.wait()", "", Doing.FRAMEWORK, "work.wait()", "train.py:29"),
        (OWN, "  y =  f(x)\n", "", Doing.OWN, "y = f(x)", "train.py:29"),
        (OWN, "", "futex_wait", Doing.OWN, "", "train.py:29"),
        ("nonsense", "", "", Doing.UNSEEN, "", ""),
        ("", "", "", Doing.UNSEEN, "", ""),
    ],
)
def test_what_a_rank_is_doing(
    text: str, source: str, waits_in: str, doing: Doing, call: str, place: str
) -> None:
    reading = read(main_thread(text), source=source, waits_in=waits_in)
    assert (reading.doing, reading.call, reading.place) == (doing, call, place)


def test_of_many_threads_the_last_is_the_main_one() -> None:
    text = f"""Thread 0x00007f11 (most recent call first):
  File "/src/twinstep/agent/tether.py", line 80 in _read

{ALL_REDUCE}"""
    assert main_thread(text) == main_thread(ALL_REDUCE)
    assert len(main_thread(ALL_REDUCE)) == 5


def test_what_is_shown_of_the_user_is_bounded() -> None:
    reading = read(main_thread(OWN), source="x" * 100_000, waits_in="")
    assert len(reading.call) == 160
    endless = OWN + '  File "/home/user/train.py", line 1 in f\n' * 10_000
    assert len(main_thread(endless)) == 100


def test_the_line_worth_reading_is_the_users() -> None:
    own = own_frame(main_thread(ALL_REDUCE))
    assert own == Frame(file="/home/user/train.py", line=69, name="main")
    assert own_frame(main_thread("")) is None
