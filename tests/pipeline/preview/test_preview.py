"""The preview shows the clips that training receives, and reports errors in one line."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from pipeline.batch import VIDEO_MEAN, VIDEO_STD
from pipeline.loader import make_loader
from pipeline.preview import __main__ as preview
from pipeline.preview import contact_sheet
from pipeline.preview.collect import collect
from pipeline.preview.contact_sheet import View, write_picture
from settings import ConfigError
from tests.pipeline.preview.clips import make_clip

SETTINGS = ["clip.frames=8", "clip.size=48", "data.threads=1"]


def test_the_clips_shown_are_the_first_of_the_epoch(corpus):
    config = corpus.config("dali-vp9")
    trained = next(make_loader(config).epoch(2))
    clips = collect(config, [], count=4, epoch=2, compare=None)
    assert [int(re.match(r"#(\d+)", clip.title).group(1)) for clip in clips] == trained.ids.tolist()
    for b, clip in enumerate(clips):
        assert clip.start == trained.start[b]
        pixels = trained.video[b].permute(1, 2, 3, 0).numpy() * VIDEO_STD + VIDEO_MEAN
        assert np.abs(clip.views[0].frames / 255 - pixels.clip(0, 1)).max() < 0.003
        normalised = (clip.views[0].decibels - config.audio.mean_db) / config.audio.std_db
        np.testing.assert_allclose(normalised, trained.audio[b, 0].numpy(), atol=1e-4)


def test_titles_name_the_augmentation(corpus):
    certain = {"flip": 1.0, "gray": 1.0, "crop_area": [1.0, 1.0]}
    (clip,) = collect(corpus.config("dali-vp9", augment=certain), [2], count=1, epoch=0, compare=None)
    assert clip.title.startswith("#2 video2.mp4   kind=k2   split=train   crop ")
    assert "flipped   grey" in clip.title
    assert np.ptp(clip.views[0].frames.astype(int), axis=3).max() <= 2
    (plain,) = collect(corpus.config("dali-vp9", augment={"enabled": False}), [2], count=1, epoch=0, compare=None)
    assert "flipped" not in plain.title
    assert "grey" not in plain.title


def test_titles_of_shuffled_pairs_name_the_sample_of_the_audio(corpus):
    config = corpus.config("dali-vp9", data={"shuffle_pairs": True})
    (clip,) = collect(config, [4], count=1, epoch=0, compare=None)
    assert re.search(r"audio of #(?!4\b)\d", clip.title)


AUDIO = {"mix": 0.5, "gain_db": 12.0, "shift_seconds": 0.3, "time_masks": 1, "frequency_masks": 1}


def test_augmented_audio_is_shown_named_and_played(corpus):
    config = corpus.config("dali-vp9", audio_augment=AUDIO)
    loader = make_loader(config)
    plan = loader.planner.train(np.array([4]), epoch=0, purpose="train")
    (clip,) = collect(config, [4], count=1, epoch=0, compare=None)
    (plain,) = collect(corpus.config("dali-vp9"), [4], count=1, epoch=0, compare=None)
    share, other, gain = plan.audio.mixed_share[0], plan.audio.mixed_ids[0], 20 * np.log10(plan.audio.gain[0])
    assert clip.title == f"{plain.title}   gain {gain:+.1f} dB   mixed with {share:.0%} of #{other}"
    assert clip.pcm.dtype == np.int16
    assert np.array_equal(clip.pcm, loader.waveforms(plan)[0])
    first, end = plan.audio.frequency_masks[0, 0]
    np.testing.assert_allclose(clip.views[0].decibels[first:end], config.audio.mean_db, atol=1e-4)


def test_all_clips_of_a_sample_are_shown(corpus):
    config = corpus.config("dali-vp9", clip={"per_sample": 2})
    clips = collect(config, [4, 2], count=1, epoch=0, compare=corpus.raw)
    assert [clip.title.split()[0] for clip in clips] == ["#4", "#4", "#2", "#2"]
    assert ["clip 2" in clip.title for clip in clips] == [False, True, False, True]


def test_parts_of_files_are_shown_but_not_compared(corpus, prepared):
    shards = prepared(corpus.raw, storage={"short_side": 72, "codec": "jpeg"}, windows=1.0)
    config = corpus.config("dali-vp9")
    config = replace(config, data=replace(config.data, path=str(shards), split=""))
    (clip,) = collect(config, [3], count=1, epoch=0, compare=None)
    assert "video1.mp4#t=" in clip.title
    with pytest.raises(ConfigError, match=r"but video1\.mp4#t=\S+ was cut from one: leave --compare out"):
        collect(config, [3], count=1, epoch=0, compare=corpus.raw)


def test_the_decord_loader_gives_nearly_the_same_audio_when_that_is_augmented(corpus):
    config = corpus.config("dali-vp9", audio_augment=AUDIO)
    for clip in collect(config, [5, 1, 8], count=1, epoch=0, compare=corpus.raw):
        dali, decord = clip.views
        assert np.median(np.abs(dali.decibels - decord.decibels)) < 2
        assert np.array_equal(dali.decibels == config.audio.mean_db, decord.decibels == config.audio.mean_db)


def test_the_decord_loader_gives_nearly_the_same_clips(corpus):
    config = corpus.config("dali-vp9", data={"shuffle_pairs": True})
    for clip in collect(config, [5, 1, 8], count=1, epoch=0, compare=corpus.raw):
        dali, decord = clip.views
        assert decord.loader == "decord"
        assert np.abs(dali.frames.astype(int) - decord.frames.astype(int)).mean() < 10
        assert np.median(np.abs(dali.decibels - decord.decibels)) < 2


def test_the_picture_has_a_row_for_each_stream_of_eachmake_clip(tmp_path):
    one = imread(write_picture([make_clip()], tmp_path / "one.png"))
    two = imread(write_picture([make_clip(), make_clip()], tmp_path / "two.png"))
    assert one.shape[1] == two.shape[1] == 1600
    assert abs(two.shape[0] - 2 * one.shape[0]) <= 2


def test_frames_are_aligned_with_the_audio_in_time(tmp_path):
    red = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    red[:, :, :, 0] = 255
    view = View(loader="dali", frames=red, decibels=None)
    picture = imread(write_picture([make_clip(views=[view])], tmp_path / "red.png"))[..., :3]
    columns = np.flatnonzero(((picture[..., 0] > 0.9) & (picture[..., 1:].max(axis=2) < 0.1)).any(axis=0))
    left, right = (1600 * edge for edge in (contact_sheet.LEFT, contact_sheet.RIGHT))
    # Audio from 0.9 s to 1.5 s, frames from 1.0 s to 1.4 s.
    assert columns[0] == pytest.approx(left + (right - left) / 6, abs=4)
    assert columns[-1] == pytest.approx(left + (right - left) * 5 / 6, abs=4)


def test_only_every_nth_frame_of_a_long_clip_is_drawn():
    assert contact_sheet._step(np.zeros((64, 2, 2, 3), np.uint8)) == 4


def test_any_file_name_can_be_drawn(tmp_path):
    assert write_picture([make_clip(title="#1 $x_{^ 🦊 <b>&.mp4")], tmp_path / "odd.png").exists()


@pytest.mark.parametrize("streams", ["audio", "video"])
def test_data_with_one_stream_shows_its_test_clips(corpus, prepared, tmp_path, streams):
    shards = prepared(corpus.raw, streams=streams, storage={"short_side": 72})
    out = tmp_path / "one.png"
    assert preview.main([str(shards), "--out", str(out), "--html", "--count", "2", *SETTINGS]) == 0
    assert out.exists()
    assert ("data:audio/wav" in out.with_suffix(".html").read_text()) == (streams == "audio")


def test_the_command_writes_what_it_prints(corpus, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    arguments = [str(corpus.jpeg), "--out", str(out), "--html", "--ids", "3,7", *SETTINGS]
    assert preview.main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [str(out), str(out.with_suffix(".html"))]
    assert "#7 video7.mp4" in out.with_suffix(".html").read_text()


def test_an_html_suffix_writes_both_page_and_picture(corpus, tmp_path, capsys):
    out = tmp_path / "sheet.html"
    assert preview.main([str(corpus.jpeg), "--out", str(out), "--ids", "3", *SETTINGS]) == 0
    assert capsys.readouterr().out.splitlines() == [str(out.with_suffix(".png")), str(out)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ids", "99"], "id 99 is not in the data set"),
        (["--count", "0"], "--count must be at least 1"),
        (["--out", "sheet.xyz"], "xyz"),
        (["clip.sise=3"], "did you mean size"),
        (["clip.fps=7"], "clip.fps=7"),
        (["--compare", "nowhere"], "holds no video"),
    ],
)
def test_mistakes_are_reported_in_one_line(corpus, monkeypatch, tmp_path, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert preview.main([str(corpus.vp9), "--count", "2", *SETTINGS, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("preview: ")
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_folder_without_shards_is_explained(tmp_path, capsys):
    assert preview.main([str(tmp_path)]) == 2
    assert "python -m pipeline.prepare" in capsys.readouterr().err
