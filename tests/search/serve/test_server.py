"""The server answers only what belongs to the index, and no client keeps it from answering others."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.environment import ROOT
from search.embeddings import open_embeddings
from search.index.build import build
from search.query.__main__ import main as query
from search.serve import app, guard, limits, service
from search.serve.__main__ import TOKEN_VARIABLE, main
from tests.search.rows import write_embeddings
from tests.search.serve.conftest import Live, serving

TOKEN = "a-token-of-24-characters"
UPLOAD = b"POST /api/search?kind=sound HTTP/1.1\r\nHost: localhost:%d\r\nContent-Length: 1000\r\n\r\n"


def test_files_are_sent_in_ranges_and_only_by_number(live: Live, collection):
    content = (collection.videos / "00002.mp4").read_bytes()
    rows = {row["source"]: row["id"] for row in live.json("/api/rows")[1]["results"]}
    path = f"/media/{rows['00002.mp4']}"
    status, headers, body = live.request(path, headers={"Range": "bytes=100-199"})
    assert (status, headers["content-range"], body) == (206, f"bytes 100-199/{len(content)}", content[100:200])
    assert headers["content-type"] == "video/mp4"
    assert live.request(path)[2] == content
    assert live.request(path, headers={"Range": f"bytes={len(content) + 5}-"})[0] == 416
    assert 'filename="00002.mp4"' in live.request(f"{path}?download")[1]["content-disposition"]
    status, headers, body = live.request(f"/frame/{rows['00002.mp4']}")
    assert (status, headers["content-type"], body[:4]) == (200, "image/webp", b"RIFF")
    for wrong in (
        "/media/999", "/media/99999999999999999999999", "/media/-1", "/media/../../etc/passwd", "/media/%2e%2e%2fetc",
        "/media//etc/passwd", "/media/00002.mp4", "/assets/../app.py", "/assets/%2e%2e/app.py", "/frame/999", "/docs",
        "//etc/passwd", "/media/1%00", "/openapi.json",
    ):  # fmt: skip
        assert live.request(wrong)[0] in (400, 404), wrong


def test_nothing_outside_the_folder_is_served_whatever_the_index_says(tmp_path: Path):
    secret = tmp_path / "secret.mp4"
    secret.write_text("secret")
    videos = tmp_path / "videos"
    (videos / "folder.mp4").mkdir(parents=True)
    (videos / "link.mp4").symlink_to(secret)
    (videos / "inside.mp4").write_text("inside")
    (videos / "alias.mp4").symlink_to(videos / "inside.mp4")
    sources = ["../secret.mp4", str(secret), "link.mp4", "folder.mp4", "inside.mp4", "alias.mp4"]
    write_embeddings(tmp_path / "rows", sources)
    build(open_embeddings(tmp_path / "rows"), tmp_path / "index", exact_up_to=1000)
    with serving(tmp_path / "index", run=None, root=videos) as live:
        answers = [live.request(f"/media/{row}") for row in range(6)]
        assert [status for status, _, _ in answers] == [404] * 4 + [200] * 2
        assert all(body == b"inside" for _, _, body in answers[4:])
        assert [row["has_file"] for row in live.json("/api/rows")[1]["results"]] == [False] * 4 + [True] * 2


def test_the_rows_of_a_part_show_the_seconds_of_its_file(collection, tmp_path: Path):
    """Row k of a source is from k to k + 1 seconds; so the second source's first row is the first one's third."""
    write_embeddings(tmp_path / "rows", ["00001.mp4"] * 3 + ["00001.mp4#t=2,4"])
    build(open_embeddings(tmp_path / "rows"), tmp_path / "index", exact_up_to=1000)
    with serving(tmp_path / "index", run=None, root=collection.videos) as live:
        part = live.json("/api/rows")[1]["results"][3]
        assert (part["source"], part["start"], part["end"]) == ("00001.mp4#t=2,4", 0.0, 1.0)
        assert (part["file"], part["file_start"], part["has_file"]) == ("00001.mp4", 2.0, True)
        frames = [live.request(f"/frame/{row}") for row in range(4)]
        assert frames[3][0] == 200
        assert [frame[2] == frames[3][2] for frame in frames] == [False, False, True, True]
        assert live.request("/media/3")[2] == (collection.videos / "00001.mp4").read_bytes()
    page = tmp_path / "out.html"
    videos = ["--videos", str(collection.videos)]
    assert query([str(tmp_path / "index"), "--like", "00001.mp4#t=2,4", *videos, "--html", str(page)]) == 0
    hits = json.loads(page.read_text().split('type="application/json">')[1].split("</script>")[0])["hits"]
    assert [hit["picture"] is None for hit in hits] == [False] * 3


def test_fifty_queries_at_once_are_all_answered(live: Live, collection):
    def search(number: int) -> str:
        file = collection.videos / f"{number % 8:05d}.mp4"
        kind, to = (("sound", "audio"), ("video", "video"))[number % 2]
        status, told = live.json(f"/api/search?kind={kind}&to={to}&top=1", method="POST", body=file.read_bytes())
        assert status == 200, told
        return told["results"][0]["source"]

    with ThreadPoolExecutor(50) as threads:
        found = list(threads.map(search, range(50)))
    assert found == [f"{number % 8:05d}.mp4" for number in range(50)]


def test_searches_beyond_the_limit_are_told_to_come_again(live: Live, collection, monkeypatch):
    monkeypatch.setattr(service, "WAITING", 0)
    body = (collection.videos / "00001.mp4").read_bytes()
    status, headers, told = live.request("/api/search?kind=sound", method="POST", body=body)
    assert (status, headers["retry-after"]) == (503, "5")
    assert "too many searches" in json.loads(told)["error"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/search?kind=smell", "kind must be one of"),
        ("/api/search", "kind must be one of"),
        ("/api/search?kind=sound&to=smell", "to must be one of"),
        ("/api/search?kind=sound&top=0", "top must be from 1"),
        ("/api/search?kind=sound&top=9999999999999999999", "a number is missing or wrong"),
        ("/api/search?kind=sound&at=nan", "at must be a time"),
        ("/api/search?kind=sound&where=kind", "not of the form"),
        ("/api/search?kind=sound&where=smell=x", "no label 'smell'"),
        ("/api/search?kind=sound&at=1000", "it ends after"),
    ],
)
def test_wrong_questions_are_answered_in_words(live: Live, collection, path, said):
    body = (collection.videos / "00001.mp4").read_bytes()
    status, told = live.json(path, method="POST", body=body)
    assert 400 <= status < 500
    assert said in told["error"]
    assert live.json("/api/like?id=12345")[0] == 404
    assert live.json("/api/like?id=x")[0] == 400


def test_uploads_are_limited_by_what_is_sent_not_what_is_said(live: Live):
    chunks = (bytes(2**16) for _ in range(80))
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # the answer may come before all was sent
        assert live.json("/api/search?kind=sound", method="POST", body=chunks)[0] == 413
    with socket.create_connection(("127.0.0.1", live.port)) as client:
        client.sendall(b"POST /api/search?kind=sound HTTP/1.1\r\nHost: localhost:%d\r\n" % live.port)
        client.sendall(b"Content-Length: 99999999999999\r\n\r\nabc")
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"the file is larger than 4 MiB; cut it" in answer
    assert live.request("/")[0] == 200


def test_names_origins_and_policies(live: Live):
    status, headers, _ = live.request("/")
    assert status == 200
    assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert live.request("/", headers={"Host": f"evil.example:{live.port}"})[0] == 421
    assert live.request("/", headers={"Host": f"localhost:{live.port}"})[0] == 200
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        assert live.request("/api/search?kind=sound", method="POST", body=b"x", headers=headers)[0] == 403
    for method in ("DELETE", "PUT", "OPTIONS", "TRACE"):
        assert live.request("/api/about", method=method)[0] in (403, 405)


def test_a_token_is_asked_for_once_and_kept_in_a_cookie(collection):
    with serving(collection.index, run=None, root=collection.videos, token=TOKEN) as live:
        for path in ("/api/about", "/media/0", "/frame/0", "/api/rows", "/assets/app.js"):
            assert live.request(path)[0] == 401
            assert live.request(path, headers={"Cookie": "search_token=wrong"})[0] == 401
            assert live.request(f"{path}?token={TOKEN}")[0] == 401
        status, _, body = live.request("/")
        assert status == 401
        assert b"<form" in body
        assert TOKEN.encode() not in body
        status, headers, _ = live.request(f"/?token={TOKEN}")
        assert (status, headers["location"]) == (303, "/")
        assert "HttpOnly" in headers["set-cookie"]
        assert "samesite=strict" in headers["set-cookie"].lower()
        cookie = {"Cookie": headers["set-cookie"].split(";")[0], "Host": "any.name"}
        assert live.request("/api/about", headers=cookie)[0] == 200
        assert live.request("/login", method="POST", body=f"token={TOKEN}")[0] == 303
        assert live.request("/login", method="POST", body="token=%ff%00wrong")[0] == 401
        assert live.request("/login", method="POST", body="token=" + "a" * 5000)[0] == 413


def test_a_thousand_idle_connections_and_slow_clients_do_not_stop_the_server(live: Live, monkeypatch):
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(app, "UPLOAD_SECONDS", 0.5)
    clients = []
    try:
        for number in range(1000):
            client = socket.socket()
            client.settimeout(10)
            client.connect(("127.0.0.1", live.port))
            if number % 3 == 0:
                client.sendall(b"GET / HTTP/1.1\r\nHost: loc")
            clients.append(client)
        deadline = time.monotonic() + 20
        while True:
            try:
                assert live.request("/api/about")[0] == 200
                break
            except (ConnectionError, OSError):  # refused while too many are open
                assert time.monotonic() < deadline
                time.sleep(0.05)
        for client in clients:
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
    finally:
        for client in clients:
            client.close()
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as client:
        client.sendall(UPLOAD % live.port + b"slow")
        assert b" 408 " in client.recv(100)


def send_for(seconds: float, client: socket.socket) -> None:
    """Sends bytes until the connection is closed, or for some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        client.sendall(b"x")
        time.sleep(0.02)


def test_a_client_that_does_not_read_is_let_go(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.1)
    monkeypatch.setattr(limits, "STALL_SECONDS", 0.3)
    (tmp_path / "videos").mkdir()
    with (tmp_path / "videos" / "long.mp4").open("wb") as file:
        file.truncate(2**27)
    write_embeddings(tmp_path / "rows", ["long.mp4"])
    build(open_embeddings(tmp_path / "rows"), tmp_path / "index", exact_up_to=1000)
    with (
        serving(tmp_path / "index", run=None, root=tmp_path / "videos") as live,
        socket.create_connection(("127.0.0.1", live.port), timeout=20) as client,
    ):
        client.sendall(b"GET /media/0 HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % live.port)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            send_for(20.0, client)
        assert live.request("/media/0", headers={"Range": "bytes=0-9"})[2] == bytes(10)


def test_a_client_that_leaves_during_its_upload_is_forgotten(live: Live):
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", live.port)) as client:
            head = (
                f"POST /api/search?kind=sound HTTP/1.1\r\nHost: localhost:{live.port}\r\nContent-Length: 1000\r\n\r\n"
            )
            client.sendall(head.encode() + b"half")
    assert live.request("/api/about")[0] == 200


def test_answers_have_a_deadline(live: Live, collection, monkeypatch):
    monkeypatch.setattr(guard, "ANSWER_SECONDS", 0.0)
    assert live.request("/api/about")[0] == 503


def test_the_command_says_where_it_listens_and_ends_in_words(collection):
    line = [sys.executable, "-m", "search.serve", str(collection.index), "--port", "0", "--host", "127.0.0.1"]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        greeting = process.stdout.readline()
        port = int(re.search(r"Open http://127\.0\.0\.1:(\d+)/ in a browser", greeting)[1])
        assert Live(port=port).json("/api/about")[1]["rows"] == 8
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error.startswith(f"serve: serving the 8 rows of {collection.index}\n")
    assert error.endswith("serve: stopped by Ctrl-C\n")


def test_mistakes_end_in_words(collection, capsys, monkeypatch):
    index = str(collection.index)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main([index, "--port", port]) == 2
    assert f"cannot listen at 127.0.0.1 port {port}: Address already in use" in capsys.readouterr().err
    for arguments, said in [
        (["nowhere"], "nowhere holds no index"),
        ([index, "--videos", "nowhere"], "--videos nowhere is not a folder"),
        ([index, "--run", "nowhere"], "no checkpoint at nowhere"),
        ([index, "--host", "192.0.2.1"], "cannot listen at 192.0.2.1"),
    ]:
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    monkeypatch.setitem(os.environ, TOKEN_VARIABLE, "short")
    assert main([index]) == 2
    assert "must have at least 16 characters" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([index, "--port", "99999"])
