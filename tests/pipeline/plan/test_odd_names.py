"""Messages about samples whose files have odd names, and a list of bad samples that cannot be written."""

from __future__ import annotations

import io
import logging
from collections import Counter
from pathlib import Path

import pytest

from common.terminal import printable
from pipeline.plan.bad_samples import BadSample, BadSamples, TooManyBadSamples
from pipeline.prepare import summary
from pipeline.prepare.publish import Totals

ODD = "a\nprepare: all done\x1b[2J\u202e.mp4"
BAD = BadSample(sample=3, source=ODD, file="shard\r.tar", reason="cut\noff", replacement=4)


def test_one_sample_is_one_line_whatever_it_is_called(caplog: pytest.LogCaptureFixture) -> None:
    known = BadSamples(samples=10, max_fraction=0.0)
    with caplog.at_level(logging.WARNING), pytest.raises(TooManyBadSamples) as raised:
        known.note([BAD])
    assert str(raised.value).splitlines()[1] == (
        r"  shard\r.tar: cut\noff: sample 3 (a\nprepare: all done\x1b[2J\u202e.mp4)"
    )
    (message,) = caplog.messages
    assert printable(message) == message
    assert next(iter(known)).source == ODD  # files keep the name as it is


def test_a_full_disk_does_not_end_the_run_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = BadSamples(samples=10, max_fraction=1.0)
    known.note([BAD])
    caplog.clear()
    for _ in range(2):
        known.write(tmp_path / "no such folder" / "bad_samples.jsonl")
    (message,) = caplog.messages
    assert message.endswith("bad_samples.jsonl: No such file or directory; the run continues without it")
    known.write(tmp_path / "bad_samples.jsonl")
    assert (tmp_path / "bad_samples.jsonl").read_text().count("\n") == 1


def test_the_summary_of_a_preparation_escapes_names(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    console = summary.Console
    monkeypatch.setattr(summary, "Console", lambda: console(file=out, width=120))
    totals = Totals(samples=1, rejected=Counter({"odd\nreason\x1b[2J": 1}))
    summary.print_summary(summary.Summary(totals=totals, skipped=Counter({".od\nd": 2})), Path("out\x1b[2J\nput"))
    text = out.getvalue()
    assert printable(text, lines=True) == text
    for shown in (r"out\x1b[2J\nput", r"odd\nreason\x1b[2J", r"files of other kinds (.od\nd)"):
        assert shown in text
