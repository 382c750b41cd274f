"""Loading clips of several data sets with weights, of different codecs and frame rates."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.load.dali_runner import DecodeError
from pipeline.load.decoder import InFlight
from pipeline.load.mixed import MixedDecoder
from pipeline.load.sets import describe_selection, mixture_parts, select_sets
from pipeline.loader import make_loader
from pipeline.plan.batch_plan import BatchPlan
from pipeline.plan.mixed_planner import shift_ids
from pipeline.shards.mix import MixedManifest
from settings import Config, ConfigError, from_dict
from tests.pipeline.load.test_bad_samples import spoil_payload
from tests.pipeline.shards.formats import without_checksums


@pytest.fixture(scope="module")
def folders(corpus, demo_shards, prepared) -> dict[str, Path]:
    """The corpus as JPEG at 10 frames/s, other videos as JPEG, and the corpus as VP9 at 20 frames/s."""
    fast = prepared(
        corpus.raw,
        storage={"fps": 20.0, "short_side": 64, "gop": 8, "codec": "vp9"},
        shard_samples=4,
    )
    return {"jpeg": corpus.jpeg, "demo": demo_shards, "fast": fast}


def config(folders: dict[str, Path], **sections) -> Config:
    weights = {"jpeg": 0.5, "demo": 0.2, "fast": 0.3}
    mix = {name: {"path": str(folder), "weight": weights[name]} for name, folder in folders.items()}
    data = {"mix": mix, "threads": 1, "idle_priority": False, "max_bad_fraction": 0.5}
    tree = {"data": data, "clip": {"frames": 8, "size": 48}, "train": {"batch_size": 8}}
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return from_dict(Config, tree)


def alone(folder: Path, mixed: Config):
    data = mixed.data.without_split(path=str(folder))
    return make_loader(replace(mixed, data=data))


def set_of(ids: np.ndarray) -> np.ndarray:
    return np.searchsorted([10, 40], ids, side="right")


def test_clips_equal_those_of_the_data_sets_alone(folders):
    mixed = make_loader(config(folders))
    seen = Counter()
    for batch in mixed.steps(0, 6):
        plan = batch.plan
        for number, (name, first) in enumerate(zip(folders, (0, 10, 40), strict=True)):
            rows = np.flatnonzero(set_of(plan.ids) == number)
            if not len(rows):
                continue
            (expected,) = alone(folders[name], mixed.config).carry_out(shift_ids(plan[rows], by=-first))
            assert torch.equal(batch.video[rows], expected.video)
            assert torch.equal(batch.audio[rows], expected.audio)
            seen[name] += len(rows)
        assert batch.video.is_contiguous(memory_format=torch.channels_last_3d)
    assert seen == dict(zip(folders, mixed.mixture.counts(48).tolist(), strict=True))
    starts = batch.plan.start[set_of(batch.plan.ids) == 2]
    frames = batch.plan.start_frame[set_of(batch.plan.ids) == 2]
    assert np.allclose(starts, frames / 20)
    assert mixed.planner.strides == [1, 1, 2]


def test_random_numbers_are_those_of_the_first_data_set_alone_and_others_of_the_further_ones(folders):
    mixed, first = make_loader(config(folders)), alone(folders["jpeg"], config(folders))
    ids = np.arange(10)
    ours, theirs = (loader.planner.train(ids, epoch=3, purpose="train") for loader in (mixed, first))
    assert all(np.array_equal(getattr(ours, name), getattr(theirs, name)) for name in vars(ours) if name != "audio")
    second = mixed.planner.train(ids + 10, epoch=3, purpose="train")
    assert not (second.color == ours.color).all(axis=(1, 2)).any()
    two = dict(list(folders.items())[:2])
    shorter = make_loader(config(two)).planner.train(ids + 10, epoch=3, purpose="train")
    assert np.array_equal(second.window, shorter.window)


def test_ranks_share_the_same_batches_and_a_run_resumes_at_any_step(folders):
    settings = config(folders)
    whole = list(make_loader(settings).steps(0, 10))
    for world in (1, 2, 4):
        ranks = [make_loader(settings, rank=rank, world_size=world).steps(7, 10) for rank in range(world)]
        for step, parts in enumerate(zip(*ranks, strict=True), start=7):
            assert torch.equal(torch.cat([part.ids for part in parts]), whole[step].ids)
            assert torch.equal(torch.cat([part.video for part in parts]), whole[step].video)
            assert torch.equal(torch.cat([part.audio for part in parts]), whole[step].audio)
    assert all(len(set(batch.ids.tolist())) == 8 for batch in whole)


def test_several_clips_per_sample(folders):
    loader = make_loader(config(folders, clip={"frames": 8, "size": 48, "per_sample": 2}))
    batch = next(iter(loader.steps(0, 1)))
    assert torch.equal(batch.ids[::2], batch.ids[1::2])
    assert batch.plan.number.tolist() == [0, 1] * 4
    assert len(loader) == 50 * 2 // 8


@pytest.mark.parametrize("how", ["decoding", "reading"])
def test_bad_samples_are_replaced_by_samples_of_their_data_set(folders, tmp_path: Path, how: str):
    copies = {name: Path(shutil.copytree(folder, tmp_path / name)) for name, folder in folders.items()}
    for name in ("jpeg", "fast"):
        without_checksums(copies[name])
    damaged = {}
    loader = make_loader(config(copies))
    expected = list(make_loader(config(folders)).steps(0, 12))
    for name, first in (("jpeg", 0), ("fast", 40)):
        manifest = loader.dataset.parts[name]
        path = copies[name] / manifest.shards[int(manifest.shard[5])]
        bad = spoil_payload(path, manifest) if how == "decoding" else {4, 5, 6, 7}
        if how == "reading":
            path.unlink()
        damaged |= {first + i: str(path) for i in bad}
    for batch, good in zip(loader.steps(0, 12), expected, strict=True):
        wrong = np.isin(good.ids.numpy(), list(damaged))
        assert torch.equal(batch.ids[~wrong], good.ids[~wrong])
        assert torch.equal(batch.video[~wrong], good.video[~wrong])
        assert np.array_equal(set_of(batch.ids.numpy()), set_of(good.ids.numpy()))
        assert not np.isin(batch.ids.numpy(), list(damaged)).any()
    found = {bad.sample: bad.file for bad in loader.bad_samples}
    assert found == damaged


def test_audio_of_others_comes_from_the_same_data_set(folders):
    settings = config(folders, audio_augment={"mix": 0.4})
    settings = replace(settings, data=replace(settings.data, shuffle_pairs=True))
    loader = make_loader(settings)
    for batch in loader.steps(0, 4):
        plan = batch.plan
        assert (plan.audio_ids != plan.ids).all()
        assert np.array_equal(set_of(plan.audio_ids), set_of(plan.ids))
        assert np.array_equal(set_of(plan.audio.mixed_ids), set_of(plan.ids))
        assert loader.waveforms(plan).shape[0] == 8


def test_labels_are_those_of_all_data_sets(folders):
    mixed = MixedManifest.open(config(folders).data.mix)
    assert (len(mixed), mixed.label_columns[:2]) == (50, ["kind", "split"])
    names, codes = mixed.label_names("kind"), mixed.labels("kind")
    own = [part.label_names("kind") for part in list(mixed.parts.values())[:2]]
    assert names == sorted({*own[0], *own[1]})
    for part, first in ((mixed.parts["jpeg"], 0), (mixed.parts["demo"], 10)):
        expected = [part.label_names("kind")[code] for code in part.labels("kind")]
        assert [names[code] for code in codes[first : first + len(part)]] == expected
    assert (codes[40:] == -1).all()
    splits = mixed.labels("split")
    assert {mixed.label_names("split")[code] for code in splits[:40]} == {"train", "test"}
    assert mixed.source(10) == mixed.parts["demo"].source(0)


def test_splits_lists_and_weights_of_each_data_set(folders, tmp_path: Path):
    (tmp_path / "list").write_text("00003.mp4\n")
    demo = make_loader(from_dict(Config, {"data": {"path": str(folders["demo"])}, "train": {"batch_size": 4}}))
    rows = [f"{demo.dataset.source(i)},{i % 3}" for i in range(30)]
    (tmp_path / "w.csv").write_text("\n".join(["source,weight", *rows]))
    settings = config(folders)
    mix = {name: vars(one) for name, one in settings.data.mix.items()}
    mix["jpeg"] = {**mix["jpeg"], "split": "train"}
    mix["demo"] = {**mix["demo"], "leave_out": str(tmp_path / "list"), "weights": str(tmp_path / "w.csv")}
    settings = config(folders, data={"mix": mix, "threads": 1})
    loader = make_loader(settings)
    assert [len(one.ids) for one in loader.sets] == [8, 20, 10]
    assert loader.ids[8:28].tolist() == [10 + i for i in range(30) if i % 3 and i != 3]
    assert loader.left_out
    assert loader.weighed
    assert len(loader) == 38 // 8
    assert mixture_parts(loader.sets) == ((8, 0.5), (15, 0.2), (10, pytest.approx(0.3)))
    lines = describe_selection(select_sets(loader.dataset, settings.data), settings.data)
    assert re.search("list and .*w.csv leave out 10 samples; training on the other 20", "\n".join(lines))
    assert "by data.mix.demo.weights=" in lines[2]
    assert "holds 15 of the 20 samples" in lines[2]
    assert "50.0% of the clips from 8 samples, each about 2.38 times per epoch" in lines[0]


@pytest.mark.parametrize("order", ["global", "shards"])
def test_weights_of_a_single_data_set(folders, tmp_path: Path, order: str):
    (tmp_path / "w.csv").write_text("source,weight\n" + "".join(f"video{i}.mp4,{i % 4}\n" for i in range(10)))
    data = {"path": str(folders["jpeg"]), "weights": str(tmp_path / "w.csv"), "threads": 1, "order": order}
    settings = from_dict(Config, {"data": data, "clip": {"frames": 8, "size": 48}, "train": {"batch_size": 2}})
    loader = make_loader(settings)
    assert loader.ids.tolist() == [1, 2, 3, 5, 6, 7, 9]
    assert (len(loader), loader.mixture.drawn.tolist()) == (3, [4])
    ids = torch.cat([batch.ids for batch in loader.steps(0, 60)]).numpy()
    counts = np.bincount(ids, minlength=10)
    assert np.abs(counts - 120 / 13 * (np.arange(10) % 4)).max() < 4
    assert loader.mixture.metrics(10) == {}
    assert loader.planner.train(np.array([1]), epoch=0, purpose="train").epoch.tolist() == [0]


def change(folders, name: str, **fields) -> Config:
    mix = {key: vars(one) for key, one in config(folders).data.mix.items()}
    mix[name] = {**mix[name], **fields}
    return config(folders, data={"mix": mix, "threads": 1})


def test_mistakes_name_the_data_set(folders, tmp_path: Path):
    (tmp_path / "all").write_text("\n".join(f"video{i}.mp4" for i in range(10)))
    copy = shutil.copytree(folders["jpeg"], tmp_path / "copy")
    cases = [
        (change(folders, "fast", split="train"), "data.mix.fast.split='train' needs a label column named split"),
        (change(folders, "jpeg", split="tain"), "data.mix.jpeg.split='tain' is not a value .* did you mean train"),
        (change(folders, "jpeg", leave_out=str(tmp_path / "all")), "data.mix.jpeg.path: no sample of .* is left"),
        (change(folders, "fast", path=str(copy)), "data.mix.fast.path and data.mix.jpeg.path hold the same samples"),
        (
            change(folders, "jpeg", weights="kind"),
            "data.mix.jpeg.weights=kind gives 'video0.mp4' the weight 'k0', which",
        ),
        (change(folders, "jpeg", weights="no"), "data.mix.jpeg.weights='no' is neither a label column"),
        (config(folders, clip={"frames": 8, "size": 48, "fps": 20.0}), "data.mix.jpeg.path=.*: clip.fps=20 must be"),
        (config(folders, audio={"sample_rate": 22050}), "audio.sample_rate=22050 but .* was prepared at 16000 Hz"),
        (config(folders, train={"batch_size": 40}), "a batch holds up to 20 samples of the data set at data.mix.jpeg"),
    ]
    for settings, message in cases:
        with pytest.raises(ConfigError, match=message):
            make_loader(settings)


def test_errors_of_decoders_are_about_rows_of_the_batch(folders):
    loader = make_loader(config(folders))

    class Refusing:
        depth = 2

        def submit(self, item: InFlight) -> None: ...

        def result(self, item: InFlight) -> None:
            raise DecodeError("no", [0, 8, 15])

    decoder = MixedDecoder(dataset=loader.dataset, strides=[1, 1, 2], config=loader.config, make=lambda *_: Refusing())
    plan = loader.planner.train(np.array([41, 3, 42, 5, 4]), epoch=0, purpose="train")
    item = InFlight(plan=BatchPlan(plan), parts=[(0, np.array([1, 3, 4]), InFlight(plan=BatchPlan(plan[1:3])))])
    with pytest.raises(DecodeError) as caught:
        decoder.result(item)
    assert caught.value.samples == [1, 3]  # 8 frames per JPEG clip
