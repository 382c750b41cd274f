from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.corpora.av_mnist import FREQUENT, held_out_speakers, make_av_mnist
from experiments.corpora.omniglot import HELD_OUT, make_omniglot, read_alphabets
from experiments.corpora.tuxpaint import (
    LANGUAGES,
    STAMPS,
    TUNING_LANGUAGE,
    _contents,
    make_tuxpaint,
    read_stamps,
    unseen,
)
from settings.errors import ConfigError


def test_omniglot_pairs_are_next_characters_of_distinct_alphabets(real_data: Path):
    folder = real_data / "omniglot"
    alphabets = sorted(read_alphabets(folder, 24), key=len, reverse=True)
    assert sorted(len(a) for a in alphabets) == [17, 22, 24, 24, 26, 40, 42, 47]
    corpus = make_omniglot(folder, characters=3, cell=24, train=50, held_out=40, seed=0)
    pairs, learned = corpus.train, 20 - HELD_OUT
    assert pairs.video.shape == (50, 1, 24, 72)
    for row in range(50):
        for cell in range(3):
            shown = int(pairs.classes[row, cell])
            window = slice(24 * cell, 24 * cell + 24)
            drawings, following = alphabets[cell][shown], alphabets[cell][(shown + 1) % len(alphabets[cell])]
            assert (drawings[:learned] == pairs.video[row, 0, :, window]).flatten(1).all(1).any()
            # This undoes the normalisation of make_omniglot.
            sound = pairs.audio[row, :, window] * 0.25 + 0.1
            assert torch.isclose(following[:learned] / 255, sound, atol=1e-4).flatten(1).all(1).any()


def test_omniglot_test_drawings_are_seen_nowhere_else(real_data: Path):
    corpus = make_omniglot(real_data / "omniglot", characters=1, cell=24, train=3000, held_out=512, seed=0)
    seen = {row.numpy().tobytes() for pairs in (corpus.train, corpus.probe) for row in pairs.video}
    unseen = [row.numpy().tobytes() not in seen for row in corpus.test.video]
    assert all(unseen)


def test_omniglot_is_a_function_of_the_seed(real_data: Path):
    def classes(seed: int) -> torch.Tensor:
        folder = real_data / "omniglot"
        return make_omniglot(folder, characters=2, cell=16, train=64, held_out=8, seed=seed).train.classes

    assert torch.equal(classes(0), classes(0))
    assert not torch.equal(classes(0), classes(1))
    with pytest.raises(ConfigError, match="characters"):
        make_omniglot(real_data / "omniglot", characters=9, cell=16, train=8, held_out=8, seed=0)


def test_av_mnist_is_skewed_in_training_only_and_its_digits_move(real_data: Path):
    corpus = make_av_mnist(real_data, train=2000, held_out=600, seed=0, skew=0.9)
    frequent = torch.isin(corpus.train.classes, torch.tensor(FREQUENT)).float().mean()
    assert float(frequent) == pytest.approx(0.9, abs=0.02)
    counts = torch.bincount(corpus.test.classes[:, 0], minlength=10)
    assert counts.min() > 30
    assert corpus.train.video.shape[1:] == (4, 32, 32)
    assert corpus.train.audio.shape[1:] == (32, 49)
    moved = (corpus.train.video[:, 0] != corpus.train.video[:, -1]).flatten(1).any(1)
    assert moved.float().mean() > 0.95
    heard = {row.numpy().tobytes() for pairs in (corpus.train, corpus.probe) for row in pairs.audio}
    assert not any(row.numpy().tobytes() in heard for row in corpus.test.audio)


@pytest.mark.parametrize("part", ["tuning", "test"])
def test_tuning_and_test_have_no_speaker_picture_or_drawing_in_common(real_data: Path, part: str):
    other = "test" if part == "tuning" else "tuning"
    seeds = range(1000, 1006)
    speakers = {p: {s for seed in seeds for s in held_out_speakers(p, seed)} for p in ("tuning", "test")}
    assert speakers == {"tuning": {"lucas", "nicolas"}, "test": {"george", "jackson", "theo", "yweweler"}}
    assert len({held_out_speakers("test", seed) for seed in seeds}) == 6
    made = {
        p: make_av_mnist(real_data, train=600, held_out=600, seed=1000, skew=0.9, frequent=(7, 8, 9), part=p)
        for p in (part, other)
    }
    assert float((made[part].train.classes >= 7).float().mean()) == pytest.approx(0.9, abs=0.05)
    heard = [{row.numpy().tobytes() for row in corpus.test.audio} for corpus in made.values()]
    assert not heard[0] & heard[1]
    strips = {
        p: make_omniglot(real_data / "omniglot", characters=1, cell=24, train=8, held_out=600, seed=0, part=p)
        for p in (part, other)
    }
    seen = [{row.numpy().tobytes() for row in corpus.test.video} for corpus in strips.values()]
    assert not seen[0] & seen[1]


@pytest.mark.skipif(not STAMPS.is_dir(), reason="needs the package tuxpaint-stamps-default")
def test_stamps_of_a_test_are_neither_seen_nor_heard_in_training():
    folder = STAMPS / "food"  # all stamps take most of a minute
    stamps = read_stamps(folder)
    assert len(stamps.pictures) == len(stamps.classes) > 50
    assert set(stamps.languages) == set(LANGUAGES)
    corpus = make_tuxpaint(train=4000, held_out=600, seed=1003, part="test", folder=folder)
    language, folds = unseen("test", 1003)
    assert language != TUNING_LANGUAGE
    assert not set(folds) & {0, 1}
    learnt = set(corpus.train.contents.tolist()) | set(corpus.probe.contents.tolist())
    assert not learnt & set(corpus.test.contents.tolist())
    assert set(corpus.other_tests["language"].contents.tolist()) <= set(stamps.contents.tolist()) - set(
        corpus.test.contents.tolist()
    )
    assert corpus.train.video.shape[1:] == (4, 48, 48)
    assert corpus.train.audio.shape[1:] == (40, 64)
    tuned = {c for c, fold in zip(stamps.contents.tolist(), stamps.folds.tolist(), strict=True) if fold in (0, 1)}
    for seed in range(1000, 1024):
        assert not tuned & {
            c for c, f in zip(stamps.contents, stamps.folds, strict=True) if f in unseen("test", seed)[1]
        }


def test_things_with_a_name_in_common_are_one_content_also_by_way_of_others():
    names = [{("en", "a pear")}, {("en", "a sloe"), ("fr", "une prune")}, {("fr", "une prune"), ("ca", "una pruna")}]
    names += [{("ca", "una pruna"), ("en", "a plum")}, {("fr", "a pear")}]
    assert _contents(names).tolist() == [0, 1, 1, 1, 2]


def test_without_the_package_the_error_names_the_command_that_installs_it(tmp_path: Path):
    with pytest.raises(ConfigError, match="apt-get install tuxpaint-stamps-default"):
        read_stamps(tmp_path)
