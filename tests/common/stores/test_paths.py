"""Files in object stores: which URLs are accepted, reading and writing, errors and retries; secrets stay secret."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.stores import RemotePath, StoreError, location
from common.stores.errors import StoreFileNotFound, without_secrets
from common.stores.urls import UrlError

SECRET = "very-secret-words"


@pytest.fixture(params=["s3", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RemotePath:
    """An empty folder of an S3 server, and one that fsspec serves."""
    if request.param == "s3":
        return location(request.getfixturevalue("store").make_bucket()) / "a/b"
    return location(f"memory://{tmp_path.name}/a/b")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.stores.retries.RETRY_SECONDS", 0.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data/shards", Path("data/shards")),
        ("/data//shards", Path("/data/shards")),
        ("file:///data/my%20shards", Path("/data/my shards")),
        ("S3://bucket/a//b/", RemotePath("s3://bucket/a/b")),
        ("hf://datasets/user/name@main/shards", RemotePath("hf://datasets/user/name@main/shards")),
    ],
)
def test_a_text_names_a_path_here_or_in_a_store(text, expected) -> None:
    assert location(text) == expected
    assert location(expected) == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"s3://key:{SECRET}@bucket/x", "a user name or a password"),
        (f"https://host/x?X-Amz-Signature={SECRET}", "a query"),
        (f"https://host/x#{SECRET}", "a query"),
        ("s3:///x", "names no bucket"),
        ("s3://bucket/../x", "a part .."),
        ("s3://[bucket/x", "brackets"),
        ("file://host/x", "another machine"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secret(url, message) -> None:
    with pytest.raises(UrlError, match=message) as error:
        location(url)
    assert SECRET not in str(error.value)


def test_a_path_in_a_store_is_not_taken_for_a_local_one() -> None:
    with pytest.raises(TypeError, match="object store"):
        os.fspath(RemotePath("s3://bucket/x"))


def test_names_are_joined_and_split() -> None:
    root = location("s3://bucket/a")
    assert str(root / "b/c") == "s3://bucket/a/b/c"
    assert (root / "b/c").name == "c"
    assert (root / "b").parent == root
    assert root.parent.parent == location("s3://bucket")


def test_what_is_written_is_read(folder, tmp_path) -> None:
    (folder / "x.bin").write_bytes(b"hello world")
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 4096)
    (folder / "sub/large").upload(large)
    assert (folder / "x.bin").read_bytes() == b"hello world"
    assert (folder / "x.bin").read_bytes(3, 4) == b"lo w"
    assert (folder / "x.bin").read_bytes(6, 100) == b"world"
    assert (folder / "x.bin").read_bytes(6, 0) == b""
    assert (folder / "sub/large").read_bytes() == large.read_bytes()
    assert [(file.key, file.size) for file in folder.files()] == [("sub/large", 2**20), ("x.bin", 11)]
    assert folder.is_dir()
    assert folder.exists()
    assert not folder.is_file()
    assert (folder / "x.bin").is_file()
    before = (folder / "x.bin").stat()
    assert before.etag
    assert before.etag == folder.files()[1].etag
    (folder / "x.bin").write_bytes(b"hello again")
    assert (folder / "x.bin").stat().etag != before.etag
    (folder / "x.bin").unlink()
    assert not (folder / "x.bin").exists()


def test_a_file_that_is_missing_is_an_error_of_that_kind(folder) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*a/b/missing"):
        (folder / "missing").read_bytes()
    assert not (folder / "missing").is_file()
    assert not folder.exists()


def test_a_bucket_that_is_missing_is_named(store) -> None:
    for attempt in (RemotePath.files, RemotePath.stat, RemotePath.read_bytes):
        with pytest.raises(StoreFileNotFound, match="no-such-bucket"):
            attempt(location("s3://no-such-bucket/x"))


def test_denied_access_is_not_repeated(store) -> None:
    root = location(store.make_bucket())
    store.faults.denied = True
    with pytest.raises(StoreError, match=r"access to .* is denied") as error:
        (root / "x").read_bytes()
    assert store.environment["AWS_SECRET_ACCESS_KEY"] not in str(error.value)
    assert len(store.requests) == 1


def test_without_credentials_the_error_says_where_to_set_them(store, monkeypatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("common.stores.retries.RETRY_SECONDS", 1.0)
    with pytest.raises(StoreError, match=r"no credentials|credential"):
        location(store.make_bucket()).files()


def test_credentials_of_the_aws_command_line_are_found(store, monkeypatch, tmp_path) -> None:
    root = location(store.make_bucket())
    environment = store.environment
    (tmp_path / "credentials").write_text(
        f"[mine]\naws_access_key_id={environment['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key={environment['AWS_SECRET_ACCESS_KEY']}\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    (root / "x").write_bytes(b"1")
    assert (root / "x").read_bytes() == b"1"


def test_a_server_that_is_away_for_a_moment_is_waited_for(store) -> None:
    root = location(store.make_bucket())
    (root / "x").write_bytes(b"1")
    store.faults.errors = 0.5
    assert [(root / "x").read_bytes() for _ in range(30)] == [b"1"] * 30
    store.faults.errors = 0.0
    store.restart(down_seconds=0.3)
    assert (root / "x").read_bytes() == b"1"


def test_a_connection_that_stalls_is_given_up(store, monkeypatch) -> None:
    monkeypatch.setattr("common.stores.native.READ_SECONDS", 1)
    root = location(store.make_bucket())
    (root / "x").write_bytes(bytes(100_000))
    store.faults.stalls, store.faults.stall_seconds = 0.3, 60.0
    for _ in range(6):
        assert (root / "x").read_bytes() == bytes(100_000)


def test_a_server_that_stays_away_is_reported(store, impatient) -> None:
    root = location(store.make_bucket())
    store.stop()
    with pytest.raises(StoreError, match=r"cannot read s3://.*/x: .*gave up after \d+ s"):
        (root / "x").read_bytes()


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(StoreError, match=r"nonsense://.*fsspec"):
        location("nonsense://bucket/x").read_bytes()


def test_a_missing_package_is_named_with_the_command(monkeypatch) -> None:
    monkeypatch.setattr("common.stores.native.missing_packages", lambda *names: list(names))
    with pytest.raises(StoreError, match=r"needs the package obstore: pip install -r requirements-store\.txt"):
        location("s3://bucket-without-package/x").read_bytes()


def test_a_url_alone_imports_no_optional_package() -> None:
    code = (
        "import sys; from common.stores import location; location('s3://b/x');"
        "print({'obstore', 'fsspec', 's3fs', 'huggingface_hub'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_secrets_in_messages_are_masked(monkeypatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET)
    text = f"<Error><Code>Bad</Code><Message>token {SECRET}</Message><Key>{SECRET}</Key></Error>"
    assert without_secrets(text) == "Bad: token ***"
    assert without_secrets(f"GET https://host/x?sig={SECRET}2 failed") == "GET https://host/x failed"
