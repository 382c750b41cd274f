"""The command search.localise: what it writes, what it refuses, and the page in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from model import build_model
from pipeline.demo.corpus import make_demo, write_mp4
from pipeline.demo.scene import render
from search.localise.__main__ import main
from search.localise.overlay import strengths
from search.localise.page import build_page
from search.localise.video import HeatedVideo, heat_video
from settings import ClipConfig, Config, ModelConfig, to_dict
from training.checkpoint import CheckpointStore

CONFIG = Config(clip=ClipConfig(frames=4, size=32), model=ModelConfig(video="tiny", audio="tiny", dim=8, hidden=16))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder with untrained encoders."""
    folder = tmp_path_factory.mktemp("run")
    model = build_model(CONFIG.model, audio=CONFIG.audio, seed=0)
    (folder / "checkpoints").mkdir()
    store = CheckpointStore(folder / "checkpoints", keep=1)
    store.save({"config": to_dict(CONFIG), "data": "", "model": model.state_dict()}, step=7)
    store.finish()
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("video") / "one & <b>two.mp4"
    frames, sound, _ = render(3, 1, (0, 1))
    write_mp4(path, frames, sound)
    return path


def test_the_command_writes_an_overlay_with_sound_and_a_page(
    run: Path, video: Path, tmp_path: Path, capsys, in_browser
):
    assert main([str(run), str(video), "--out", str(tmp_path / "new" / "out")]) == 0
    page, overlay = map(Path, capsys.readouterr().out.splitlines())
    with av.open(str(overlay)) as container:
        assert (container.streams.video[0].name, container.streams.audio[0].name) == ("vp9", "opus")
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 80
    assert frames[0].shape == (240, 320, 3)
    with av.open(str(overlay)) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert len(heard) == pytest.approx(4 * 48000, rel=0.02)
    assert np.sqrt(np.mean(heard**2)) > 0.01
    probe = """
    const [x, y] = draw(), shown = screen.getContext("2d").getImageData(0, 0, screen.width, screen.height).data;
    const opaque = () => draw() && screen.getContext("2d").getImageData(0, 0, screen.width, screen.height)
      .data.filter((_, k) => k % 4 === 3).reduce((a, b) => a + b, 0);
    const before = opaque();
    $("opacity").value = 0; $("opacity").dispatchEvent(new Event("input"));
    return {title: document.querySelector("h1").textContent, bold: document.querySelectorAll("b").length,
      cells: [rows, columns, times.length, strengths.length], point: [x, y], before, after: opaque(),
      source: video.src.slice(0, 16), now: $("now").value};
    """
    told = in_browser(page.read_text(encoding="utf-8"), probe)
    assert (told["title"], told["bold"]) == (video.name, 0)
    assert told["cells"] == [30, 40, 10, 10 * 1200]
    assert all(0 < share < 1 for share in told["point"])
    assert told["before"] > told["after"] == 0
    assert told["source"] == "data:video/webm;"
    assert told["now"].startswith("0.0 s, hottest at")


def test_heat_covers_the_whole_video_and_a_map_is_interpolated_in_time(run: Path, video: Path, tmp_path: Path):
    model = build_model(CONFIG.model, audio=CONFIG.audio, seed=0).eval()
    heated = heat_video(video, CONFIG, model, scratch=tmp_path)
    assert heated.times[0] < 0.2
    assert heated.times[-1] > 3.5
    assert (np.diff(heated.times) > 0).all()
    middle = (heated.times[2] + heated.times[3]) / 2
    np.testing.assert_allclose(heated.at(middle), (heated.heat[2] + heated.heat[3]) / 2, rtol=1e-4, atol=1e-6)
    assert np.array_equal(heated.at(-1.0), heated.heat[0])
    assert np.array_equal(heated.at(99.0), heated.heat[-1])
    drawn = strengths(heated, heated.heat)
    assert drawn.min() == 0
    assert drawn.max() == 1
    assert (np.median(drawn, axis=(1, 2)) < 0.01).all()


def test_a_flat_heat_map_is_drawn_as_nothing():
    still = HeatedVideo(
        images=[], fps=10.0, pcm=np.zeros(0, np.int16), sample_rate=16000, times=np.zeros(1), heat=np.ones((1, 3, 4))
    )
    assert not strengths(still, still.heat).any()
    assert "</script><b>" not in build_page(still, b"", title="</script><b>", notes=["</script><b>"])


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_a_file_that_is_no_video_is_refused_in_words(run: Path, tmp_path: Path, capsys, content: bytes):
    (tmp_path / "broken.mp4").write_bytes(content)
    assert main([str(run), str(tmp_path / "broken.mp4"), "--out", str(tmp_path / "out")]) == 2
    assert "broken.mp4 cannot be used: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pointing_is_measured_on_the_demo_corpus(run: Path, demo_shards: Path, tmp_path: Path, capsys):
    make_demo(tmp_path / "two", videos=1, seed=0)
    out = ["--out", str(tmp_path / "out")]
    assert main([str(run), str(demo_shards), "--score", str(demo_shards.parent / "videos"), *out]) == 0
    rows = {row["encoder"]: row for row in json.loads((tmp_path / "out" / "score.json").read_text())["rows"]}
    assert next(iter(rows)) == "pre-trained"
    assert rows["chance"]["hits"] == pytest.approx(0.15, abs=0.03)
    assert all(0 <= row["hits"] <= 1 for row in rows.values())
    assert "finds heard" in capsys.readouterr().out
    assert main([str(run), str(demo_shards), "--score", str(tmp_path), *out]) == 2
    assert "--score must be a folder that pipeline.demo made, with demo.json" in capsys.readouterr().err
