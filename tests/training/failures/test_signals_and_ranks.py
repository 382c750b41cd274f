"""SIGTERM, Ctrl-C, missing and hung processes end a run in words and within seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from torch.distributed import HashStore

import train
from common import signals
from settings import Config, ConfigError, load_config
from tests.training.small_run import OVERRIDES, alone
from training.checkpoint import find, read
from training.distributed import start
from training.ranks import roll_call as module
from training.ranks.errors import RankError
from training.ranks.roll_call import ranks, roll_call
from training.step import Learner

WAITING = """
import sys, time
from common.signals import end_on_signals, recorded
end_on_signals("prog", terminated=75)
if sys.argv[1] == "recorded":
    with recorded():
        print("ready", flush=True)
        time.sleep(30)
else:
    import threading
    lock = threading.Lock(); lock.acquire()
    print("ready", flush=True)
    lock.acquire(timeout=30)
"""


@pytest.mark.parametrize(
    ("mode", "sent", "status"),
    [
        ("starting", [signal.SIGTERM], 75),
        ("starting", [signal.SIGINT], 130),
        ("recorded", [signal.SIGTERM, signal.SIGINT, signal.SIGINT], 130),
    ],
)
def test_a_signal_ends_a_process_in_one_line_and_a_second_ctrl_c_at_once(mode, sent, status):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    for number in sent:
        process.send_signal(number)
        time.sleep(2 * signals.SAME_PRESS_SECONDS)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == status
    assert "prog: stopped" in errors
    assert "Traceback" not in errors


def small(shards, run_dir, *more):
    sizes = ["train.batch_size=4", "dictionary.size=8", "pool.size=20", "data.threads=1", "train.threads=1"]
    more = [*sizes, "train.steps=9", "train.log_every=1", f"data.path={shards}", f"run_dir={run_dir}", *more]
    return load_config(Config, overrides=[*OVERRIDES, *more])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_pool_fill_saves_the_state_before_it(demo_shards, tmp_path, monkeypatch, number):
    more = ("pool.source=epoch", "checkpoint.every_steps=100")
    assert train.train(small(demo_shards, tmp_path / "whole", *more), alone(), resume="never")
    fills, keys = [], Learner._keys

    def signalled(self, batch, *, step):
        if step < -1_000_000:  # the pool of the second epoch
            fills.append(step)
            os.kill(os.getpid(), number)
        return keys(self, batch, step=step)

    monkeypatch.setattr(Learner, "_keys", signalled)
    config = small(demo_shards, tmp_path / "stopped", *more)
    assert not train.train(config, alone(), resume="never")
    assert len(fills) == 1
    assert signals.received() == number
    assert find(tmp_path / "stopped").name == "step-000000007.pt"
    monkeypatch.undo()
    assert train.train(config, alone(), resume="auto")
    ends = [read(find(tmp_path / name))["model"] for name in ("whole", "stopped")]
    assert all(value.equal(ends[1][name]) for name, value in ends[0].items())


def test_missing_processes_are_named_after_a_while_and_then_given_up(monkeypatch, capsys):
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    with pytest.raises(RankError, match=r"gave up after 0.3 s .*waiting for ranks 1-3 of 4 .*unset RANK WORLD_SIZE"):
        roll_call(HashStore(), rank=0, size=4, timeout=0.3)
    assert "waiting for ranks 1-3 of 4" in capsys.readouterr().err
    assert ranks([0, 1, 2, 5]) == "ranks 0-2, 5"


def test_the_roll_call_ends_when_all_have_arrived():
    store = HashStore()
    others = [
        threading.Thread(target=roll_call, args=(store,), kwargs={"rank": r, "size": 2, "timeout": 9}) for r in (0, 1)
    ]
    for other in others:
        other.start()
    for other in others:
        other.join(timeout=10)
        assert not other.is_alive()


@pytest.mark.parametrize(("size", "message"), [("4", "RANK is not set"), ("x", "WORLD_SIZE must be a whole number")])
def test_an_environment_that_makes_no_sense_is_explained(monkeypatch, size, message):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ConfigError, match=message):
        start("cpu", 1)
