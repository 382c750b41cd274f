"""The run's page: what it holds, that nothing in a run can become script, and how it behaves in a browser."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from training.report import __main__ as command
from training.report import run_page
from training.report.curves import panel_data, thin
from training.report.page import ASSETS, LIBRARY, LIBRARY_SHA256, build_page, page_data
from training.report.runs import Run, read_runs
from training.report.words import dictionary_health, warnings_of

NASTY = "</script><img src=x onerror=alert(1)> {{title}} {{data}} <!-- \u2028 & \" ' \\ \x1b"
LINES = [
    {
        "step": step,
        "loss": 8.0 / (step + 1),
        "retrieval_v2a": 0.1 * step,
        "step_seconds": 30.0,
        "video/selected": 61.0 if step == 1 else 64.0,
        "video/missing": 3.0 if step == 1 else 0.0,
        "video/near_duplicates": 0.003,
        "video/distinct_ids": 250.0,
    }
    for step in range(4)
]
RESULT = {
    "title": "linear on kind",
    "caption": "12 test samples",
    "notes": ["12 test samples are few."],
    "rows": [
        {"encoder": "pre-trained", "modality": "video", "accuracy": 0.75, "accuracy_interval": [0.47, 0.91], "C": 10.0},
        {"encoder": "random-initialised", "modality": "video", "accuracy": 0.25, "accuracy_interval": [0.09, 0.53]},
    ],
}


def data_of(page):
    """The data of a page, which is well-formed JSON."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(found[1])


def make_run(folder, lines=LINES):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text("dictionary: {size: 256}\n")
    (folder / "environment.json").write_text('{"total_steps": 4, "gpu": null}')
    (folder / "evaluation-linear-kind.json").write_text(json.dumps(RESULT))
    return folder


def nasty_run(tmp_path):
    line = {"step": 0, "loss": 1.0, NASTY: 2.0, f"video/{NASTY}": 3.0}
    folder = make_run(tmp_path / "run", [line])
    (folder / "config.yaml").write_text(json.dumps({NASTY: NASTY}))
    (folder / "environment.json").write_text(json.dumps({NASTY: NASTY}))
    rows = [{"encoder": "pre-trained", "modality": NASTY, NASTY: 1.0}]
    result = {"title": NASTY, "caption": NASTY, "notes": [NASTY], "rows": rows}
    (folder / "evaluation-x.json").write_text(json.dumps(result))
    return folder


def test_headline_numbers_are_those_of_the_files(tmp_path):
    data = page_data(read_runs([make_run(tmp_path / "run")]))
    headline = {label: cells[0] for label, cells in data["headline"].items()}
    assert headline["Steps"] == {"text": "3", "note": "of 4", "exact": "3"}
    assert headline["Training time"] == "2 min 0 s"
    assert headline["InfoNCE loss, both directions"] == {"text": "2", "note": "8 at step 0", "exact": "2.0"}
    assert headline["Retrieval in the batch, video → audio"]["exact"] == repr(0.1 * 3)
    assert headline["linear on kind: accuracy, video"] == {
        "text": "0.750 [0.470, 0.910]",
        "note": "random weights: 0.250 [0.090, 0.530]",
        "exact": "0.75",
    }
    table = data["evaluations"][0]
    assert table["columns"] == ["encoder", "modality", "accuracy", "C"]
    assert table["rows"][0]["cells"] == ["pre-trained", "video", "0.750 [0.470, 0.910]", "10"]
    assert table["notes"] == ["12 test samples", "12 test samples are few."]


def test_the_dictionary_and_what_deserves_attention_are_put_into_words(tmp_path):
    run = read_runs([make_run(tmp_path / "run", [*LINES, {"step": 9, "data_wait": 0.5, "bad_samples": 2}])])[0]
    assert dictionary_health(run) == [
        "Video: 64 of 64 picks, 0.3 % near-duplicates in the last selection that was logged.",
        "The video dictionary holds 250 distinct clips in 256 rows.",
    ]
    assert [text.partition(":")[0] for text in warnings_of(run)] == [
        "1 of 4 logged selections of video keys picked fewer than they were asked for, first at step 1",
        "2 samples could not be read; bad_samples.jsonl lists them.",
        "The last steps spent 50% of their time waiting for data.",
    ]


def test_warnings_from_before_the_first_step_are_on_the_page(tmp_path):
    folder = make_run(tmp_path / "run")
    said = ["optim.warmup_steps=500 is not shorter than the run", NASTY]
    (folder / "environment.json").write_text(json.dumps({"gpu": None, "warnings": said}))
    data = page_data(read_runs([folder]))
    assert data["warnings"][0][:2] == said
    assert "warnings" not in data["environment"]
    for broken in ("text", [3, None], {"a": 1}):
        (folder / "environment.json").write_text(json.dumps({"warnings": broken}))
        assert len(page_data(read_runs([folder]))["warnings"][0]) == 1


def test_long_curves_keep_their_extremes_and_gaps_and_the_page_stays_below_2_mb(tmp_path):
    n = 60_000
    values = np.sin(np.arange(n) / 3000)
    values[[41, 30_000, 59_998]] = [7.0, np.nan, -7.0]
    kept = thin(values, 500)
    assert {0, 41, 30_000, 59_998, n - 1} <= set(kept)
    assert len(kept) <= 510
    curves = {f"metric {k}": (np.arange(n) * 20.0 + 1e6, values * 1.2345678e-5 * k) for k in range(1, 45)}
    run = Run(name="long", path=tmp_path, curves=curves)
    first = panel_data([run])[0]["curves"][0]
    assert first["x"][-1] == 2_199_980
    assert len(first["mean_x"]) < len(first["x"]) <= 2000
    assert None in first["y"]
    assert len(build_page([run]).encode()) < 2e6


def test_nothing_in_a_run_can_become_markup_or_script(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(build_page(read_runs([nasty_run(tmp_path)])), encoding="utf-8")
    text = page.read_text()
    assert text.count("</script>") == 2
    assert "<img src=x" not in text
    assert "default-src 'none'" in text
    data = data_of(page)
    assert data["evaluations"][-1]["title"] == NASTY.replace("\x1b", "\\x1b").replace("\u2028", "\\u2028")


def test_the_library_is_the_file_that_was_published():
    assert hashlib.sha256((ASSETS / LIBRARY).read_bytes()).hexdigest() == LIBRARY_SHA256
    assert (ASSETS / LIBRARY).read_text(encoding="utf-8").splitlines()[1].endswith("v4.1.1")
    assert "MIT" in (ASSETS / "plotly.LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "content", ["[", "[1]", '{"rows": []}', '{"rows": [1]}', "[" * 9999, '{"rows": [{}], "x": "' + "x" * 2**18]
)
def test_results_that_cannot_be_shown_are_left_out_with_the_reason(tmp_path, capsys, content):
    folder = make_run(tmp_path / "run")
    (folder / "evaluation-a.json").write_text(content)
    (folder / "evaluation-b.json").write_text('{"rows": [{"a": NaN, "b": [1e400, {}], "c": 1' + "0" * 400 + "}]}")
    data = page_data(read_runs([folder]))
    assert [table["title"] for table in data["evaluations"]] == ["evaluation", "linear on kind"]
    assert f"ignored {folder / 'evaluation-a.json'}" in capsys.readouterr().err


def test_watching_follows_the_run_until_it_is_interrupted(tmp_path, monkeypatch, capsys):
    folder, page = make_run(tmp_path / "run"), tmp_path / "live.html"
    seen = []

    def sleep(seconds):
        seen.append((data_of(page)["reload"], data_of(page)["headline"]["Steps"][0]["text"]))
        if len(seen) == 3:
            raise KeyboardInterrupt
        if len(seen) == 1:
            with (folder / "metrics.jsonl").open("a") as file:
                file.write('{"step": 8, "loss": 1.0}\n')

    monkeypatch.setattr(command.time, "sleep", sleep)
    assert command.main([str(folder), "--watch", "--out", str(page)]) == 130
    assert seen == [(5, "3"), (5, "8"), (5, "8")]
    assert data_of(page)["reload"] == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_page_that_cannot_be_written_is_one_logged_sentence(tmp_path, caplog):
    run_page.write_run_page(tmp_path / "missing")
    folder = make_run(tmp_path / "run")
    run_page.write_run_page(folder)
    assert data_of(folder / "report.html")["runs"] == ["run"]
    assert not caplog.records
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    run_page.write_run_page(folder)
    assert len(caplog.records) == 1
    assert "report.html was not written" in caplog.text


BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


@pytest.mark.skipif(not BROWSER, reason="no chromium on this machine")
def test_the_page_draws_zooms_and_reads_values_in_a_browser(tmp_path):
    probe = """<script>
    const count = what => document.querySelectorAll(what).length;
    const plot = document.querySelector(".plot"), keys = key => new KeyboardEvent("keydown", {key, bubbles: true});
    setTimeout(() => {
      plot.focus();
      plot.dispatchEvent(keys("End"));
      const from = document.getElementById("from");
      from.value = "1"; from.dispatchEvent(new Event("change"));
      document.title = ["drawn", count(".plot .trace") > 0, "injected", count("img"), "zoomed", plot.layout.xaxis.range,
        "said", document.getElementById("said").textContent,
        "exact", document.querySelector("#headline [data-exact='2.0']").textContent].join(" ");
    }, 500);
    </script></body>"""
    page = tmp_path / "page.html"
    (nasty := nasty_run(tmp_path)).joinpath("metrics.jsonl").write_text(
        "".join(json.dumps(line | {NASTY: 1.0}) + "\n" for line in LINES)
    )
    page.write_text(build_page(read_runs([nasty])).replace("</body>", probe), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run(
        [BROWSER, *options, "--virtual-time-budget=4000", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    title = re.search("<title>(drawn.*?)</title>", shown.stdout)
    assert title, shown.stdout[:300]
    assert title[1].startswith("drawn true injected 0 zoomed 1,3 said Step 3: video → audio 30.0 %")
    assert title[1].endswith("exact 28 at step 0")
