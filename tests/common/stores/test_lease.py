"""A lease keeps a second process out while the first one lives, and outlives neither its process nor its network."""

from __future__ import annotations

import json
import threading
import time

import pytest

from common.stores import lease as leases
from common.stores import location
from common.stores.lease import Lease, LeaseTaken


@pytest.fixture
def path(store, monkeypatch):
    for name, seconds in {"RENEW": 0.1, "LEASE": 0.8, "POLL": 0.05, "SETTLE": 0.1}.items():
        monkeypatch.setattr(leases, f"{name}_SECONDS", seconds)
    return location(store.make_bucket()) / "run" / "run.lease"


def taken(path, place="elsewhere"):
    return Lease(path, place=place, what="s3://some/run")


def test_a_second_process_is_refused_while_the_first_one_lives(path):
    first = taken(path)
    with pytest.raises(LeaseTaken, match=r"s3://some/run is in use by process \d+ on "):
        taken(path, "another place")
    first.release()
    assert not path.exists()
    taken(path, "another place").release()


def leave_behind(path, **changes):
    """A lease whose process was killed."""
    found = {"holder": "process 1 on nowhere", "place": "nowhere:/", "token": "x", "renewals": 3}
    path.write_bytes(json.dumps(found | changes).encode())


def test_the_lease_of_a_dead_process_is_taken_over_after_a_while(path):
    leave_behind(path)
    began = time.monotonic()
    lease = taken(path)
    assert time.monotonic() - began >= leases.LEASE_SECONDS
    assert json.loads(path.read_bytes())["token"] != "x"
    lease.release()


def test_that_of_the_same_place_is_taken_over_at_once(path, monkeypatch):
    first = taken(path, "here")
    left = path.read_bytes()
    first.release()
    path.write_bytes(left)
    monkeypatch.setattr(leases, "LEASE_SECONDS", 60.0)
    taken(path, "here").release()


def test_of_two_that_take_over_one_wins(path):
    leave_behind(path)
    outcomes = []

    def take(place):
        try:
            outcomes.append(taken(path, place))
        except LeaseTaken:
            outcomes.append(None)

    threads = [threading.Thread(target=take, args=(f"place {n}",)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    holders = [lease for lease in outcomes if lease is not None]
    assert len(outcomes) == 2
    assert len(holders) == 1
    holders[0].release()


def test_a_holder_notices_that_it_was_replaced(path, caplog):
    lease = taken(path)
    leave_behind(path)
    assert lease.lost.wait(5)
    lease.release()
    assert json.loads(path.read_bytes())["token"] == "x"
    assert "is in use by process 1 on nowhere" in caplog.text


def test_it_survives_errors_and_a_restart_of_the_store(store, path):
    store.faults.errors = 0.3
    lease = taken(path)
    store.restart(down_seconds=0.5)
    time.sleep(0.5)
    store.faults.errors = 0.0
    assert not lease.lost.is_set()
    before = json.loads(path.read_bytes())["renewals"]
    time.sleep(0.5)
    assert json.loads(path.read_bytes())["renewals"] > before
    lease.release()
    assert not path.exists()


def test_a_holder_notices_that_another_one_came_and_went(path, monkeypatch):
    lease = taken(path)
    monkeypatch.setattr(leases, "RENEW_SECONDS", 60.0)
    time.sleep(leases.LEASE_SECONDS + 0.5)  # as during an outage; the thread may renew once more before it waits
    leave_behind(path)
    path.unlink()
    lease.renew()
    assert lease.lost.is_set()
    lease.release()
    assert not path.exists()


def test_a_file_that_is_no_lease_is_taken_over_after_a_while(path, monkeypatch):
    said = []
    monkeypatch.setattr(leases, "say", said.append)
    path.write_bytes(b"[]")
    taken(path).release()
    assert said == ["s3://some/run was in use by another process; waiting 1 s to see if it still is"]
