"""What a long task shows of its progress, and where log messages appear meanwhile."""

from __future__ import annotations

import io
import logging
import re
import sys

from common.progress import show_progress
from common.terminal import show_logs


def test_a_log_file_gets_lines_with_unit_rate_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr("common.progress._LOG_SECONDS", 0.0)
    assert list(show_progress("abc", total=3, unit="probes")) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["1/3 probes", "2/3 probes", "3/3 probes"]
    assert all(re.fullmatch(r"\d/3 probes, [\d.]+/s, \d+ s left", line) for line in lines)


def test_messages_go_to_the_stderr_that_a_progress_bar_has_put_in_place(monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    show_logs()
    bar = io.StringIO()
    monkeypatch.setattr(sys, "stderr", bar)
    logging.getLogger("test").info("epoch 1 of 2")
    assert bar.getvalue() == "epoch 1 of 2\n"
