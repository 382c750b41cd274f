"""The S3 server of the tests fails, stalls and restarts as it is told to."""

from __future__ import annotations

import time
from collections import Counter
from http.client import HTTPConnection
from urllib.parse import urlparse

import pytest

from common.stores import location


def get(store, url, timeout=5.0):
    """The status and the body of a request without retries."""
    address = urlparse(store.url)
    connection = HTTPConnection(address.hostname, address.port, timeout=timeout)
    try:
        # Moto does not check the signature, but serves unsigned requests nothing.
        signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=id/20260101/us-east-1/s3/aws4_request"}
        connection.request("GET", "/" + url.removeprefix("s3://"), headers=signed)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture
def url(store):
    url = f"{store.make_bucket()}/some/key"
    store.put(url, b"content" * 1000)
    return url


def test_it_serves_and_records(store, url):
    assert get(store, url) == (200, b"content" * 1000)
    assert store.count("GET", path="/some/key") == store.count() == 1
    assert store.objects(url.removesuffix("/key")) == {"key": b"content" * 1000}
    assert store.objects(url.removesuffix("some/key")) == {"some/key": b"content" * 1000}


def test_latency(store, url):
    store.faults.latency = 0.2
    before = time.perf_counter()
    get(store, url)
    assert time.perf_counter() - before >= 0.2


def test_errors_have_the_share_and_the_kinds_asked_for(store, url):
    store.faults.errors = 0.2
    seen = Counter()
    for _ in range(200):
        try:
            status, content = get(store, url)
            assert status in (200, 500, 503)
            assert (status == 200) == (content == b"content" * 1000)
            seen[status] += 1
        except OSError:
            seen["reset"] += 1
        except Exception as error:
            seen[type(error).__name__] += 1
    assert 20 <= 200 - seen[200] <= 60
    assert {500, 503, "reset"} <= seen.keys()


def test_denied_and_only(store, url):
    store.faults.denied = True
    assert get(store, url)[0] == 403
    store.faults.only = lambda request: "other" in request.path
    assert get(store, url)[0] == 200


def test_a_stall_outlasts_the_time_limit_of_the_client(store, url):
    store.faults.stalls = 1.0
    with pytest.raises(TimeoutError):
        get(store, url, timeout=0.3)


def test_the_objects_survive_a_restart(store, url):
    address = store.url
    store.stop()
    with pytest.raises(OSError, match="refused"):
        get(store, url)
    store.start()
    assert store.url == address
    assert get(store, url)[0] == 200


def test_files_are_read_and_written_in_spite_of_errors(store):
    url = location(store.make_bucket())
    store.faults.errors = 0.3
    for number in range(20):
        (url / str(number)).write_bytes(b"x" * 10_000)
        assert (url / str(number)).read_bytes() == b"x" * 10_000
    assert len(store.objects(url)) == 20
    assert {"500", "503", "reset", "cut"} <= {request.fault for request in store.requests}
