"""Scores of pairs, near-duplicates, folds and lists, on arrays."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from search.curate.correspondence import MOST_CLIPS, _by_clip, _weights, correspondence
from search.curate.duplicates import Duplicates, agreement, find_duplicates, linked
from search.curate.folds import assign_folds, fold_config
from search.curate.reading import Samples
from search.curate.run import default_folds
from search.curate.verdicts import Verdicts, nearest_copies, superfluous
from settings import Config, DataConfig, DictionaryConfig, PoolConfig, TrainConfig
from settings.recipe import FEWEST_STEPS


def pairs_of_classes(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [n, 16] whose video and sound share the class of their sample, but not their space."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 12, n)
    video, audio = (rng.normal(size=(12, 16))[classes] + 0.4 * rng.normal(size=(n, 16)) for _ in range(2))
    return video, audio


def scored(video: np.ndarray, audio: np.ndarray) -> np.ndarray:
    """Scores of samples of one clip each."""
    return correspondence(list(video[:, None]), list(audio[:, None]), np.arange(len(video)), temperature=0.1)


def test_a_score_is_the_mean_distance_from_other_sounds_and_other_videos_in_their_deviations():
    rng = np.random.default_rng(0)
    video, audio = (rows[:, None] + 0.3 * rng.normal(size=(40, 3, 16)) for rows in pairs_of_classes(40))

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    def expected(near: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        weights = np.exp(near @ near.T / 0.1)
        np.fill_diagonal(weights, 0)
        return unit(weights @ wanted)

    v, a = (unit(rows.mean(axis=1) - rows.mean(axis=(0, 1))) for rows in (video, audio))
    by_others = expected(v, a) @ a.T + v @ expected(a, v).T
    clips = [unit(rows - rows.mean(axis=(0, 1))) for rows in (video, audio)]
    by_clip = np.einsum("icd,jcd->ij", *clips) / 3
    off = ~np.eye(40, dtype=bool)
    both = np.stack([by_others, by_clip])
    fisher = np.linalg.solve(np.cov(both[:, off], ddof=0), both[:, ~off].mean(axis=1) - both[:, off].mean(axis=1))
    similarity = np.tensordot(np.maximum(fisher, 0), both, 1)
    others = np.where(off, similarity, np.nan)
    own = np.diag(similarity)
    distances = [(own - np.nanmean(others, axis=axis)) / np.nanstd(others, axis=axis) for axis in (0, 1)]
    found = correspondence(list(video), list(audio), np.arange(40), temperature=0.1)
    np.testing.assert_allclose(found, np.mean(distances, axis=0), rtol=1e-4)


def test_the_way_that_separates_pairs_counts_and_one_that_does_not_has_no_negative_weight():
    rng = np.random.default_rng(0)
    side = rng.normal(size=(200, 16))
    useful = (side, side + rng.normal(size=(200, 16)))
    useless = (rng.normal(size=(200, 16)), rng.normal(size=(200, 16)))
    opposite = (side, -useful[1])
    weights = _weights([useful, useless])
    assert weights[0] > 5 * weights[1] >= 0
    assert _weights([useless, opposite])[1] == 0
    # Where nothing separates, both count alike, in units of their deviations.
    apart = (10 * rng.normal(size=(200, 16)), -rng.normal(size=(200, 16)))
    worst = [opposite, (-apart[0], apart[0])]
    weights = _weights(worst)
    spread = [(left @ right.T)[~np.eye(200, dtype=bool)].std() for left, right in worst]
    np.testing.assert_allclose(weights * spread, 1, rtol=1e-6)


def test_pairs_that_only_the_order_of_their_clips_tells_apart_are_found():
    rng = np.random.default_rng(0)
    # Every sample has the same twelve contents, each in its own order.
    contents = rng.normal(size=(12, 16))
    orders = np.stack([rng.permutation(12) for _ in range(200)])
    video = [contents[order] + 0.5 * rng.normal(size=(12, 16)) for order in orders]
    audio = [contents[order] + 0.5 * rng.normal(size=(12, 16)) for order in orders]
    wrong = np.arange(0, 200, 10)
    for sample, other in zip(wrong, np.roll(wrong, 1), strict=True):
        audio[sample] = contents[orders[other]] + 0.5 * rng.normal(size=(12, 16))
    # Only eight of the twelve clips are compared.
    scores = correspondence(video, audio, np.arange(200), temperature=0.1)
    assert roc_auc_score(~np.isin(np.arange(200), wrong), scores) > 0.95


def test_scores_of_very_few_or_equal_samples_stay_within_reason():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 6):
        video, audio = (list(rng.normal(size=(n, 3, 8))) for _ in range(2))
        assert np.abs(correspondence(video, audio, np.arange(n), temperature=0.1)).max() < 100
    same = [np.ones((2, 8))] * 6
    assert not correspondence(same, same, np.arange(6), temperature=0.1).any()


def test_clips_are_compared_one_by_one_whatever_their_number():
    rng = np.random.default_rng(0)
    lengths = [1, 3, MOST_CLIPS, 2 * MOST_CLIPS - 1]
    clips = [rng.normal(size=(length, 8)) for length in lengths]
    rows = _by_clip(clips)
    assert rows.shape == (4, MOST_CLIPS * 8)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert not rows[1, 3 * 8 :].any()
    # Of the longest every second clip is taken, from the first to the last.
    centred = clips[3] - np.concatenate(clips).mean(axis=0)
    places = rows[3].reshape(MOST_CLIPS, 8)
    cosines = [places[place] @ centred[2 * place] for place in range(MOST_CLIPS)]
    np.testing.assert_allclose(np.sqrt(MOST_CLIPS) * np.array(cosines), np.linalg.norm(centred[::2], axis=1), rtol=1e-5)


def test_planted_mismatches_score_lowest_and_scales_and_offsets_do_not_matter():
    video, audio = pairs_of_classes(300)
    wrong = np.arange(0, 300, 10)
    audio[wrong] = audio[np.roll(wrong, 1)]
    is_wrong = np.isin(np.arange(300), wrong)
    scores = scored(video, audio)
    assert roc_auc_score(~is_wrong, scores) > 0.9
    assert abs(np.median(scores[is_wrong])) < 0.8
    np.testing.assert_allclose(scored(5 * video + 3.0, audio - 1.5), scores, atol=1e-9)


def test_a_copy_does_not_vouch_for_a_pair():
    video, audio = pairs_of_classes(100)
    audio[0] = -audio[0]
    both = [np.concatenate([rows, rows[:1]]) for rows in (video, audio)]
    groups = np.append(np.arange(100), 0)
    clips = [list(rows[:, None]) for rows in both]
    alone = correspondence(*clips, groups, temperature=0.1)[0]
    assert alone < correspondence(*clips, np.arange(101), temperature=0.1)[0] - 0.5


def test_many_pairs_are_compared_with_some_of_the_others(monkeypatch):
    video, audio = pairs_of_classes(300)
    monkeypatch.setattr("search.curate.correspondence.MOST_REFERENCES", 150)
    monkeypatch.setattr("search.curate.correspondence._BLOCK_ROWS", 64)
    fewer = scored(video, audio)
    monkeypatch.undo()
    assert np.corrcoef(fewer, scored(video, audio))[0, 1] > 0.9


def traces(n: int, *, seed: int = 0) -> Samples:
    """Samples of 40 frames: smooth random pictures and spectra, and embeddings of noise."""
    rng = np.random.default_rng(seed)

    def smooth(width: int) -> list[np.ndarray]:
        steps = rng.normal(0, 12, (n, 40, width)).cumsum(axis=1)
        return list(np.clip(128 + 30 * rng.normal(size=(n, 1, width)) + steps, 0, 255).astype(np.uint8))

    vectors = [rng.normal(size=(5, 8)).astype(np.float32) for _ in range(2 * n)]
    return Samples(
        video=vectors[:n],
        audio=vectors[n:],
        pictures=smooth(64),
        spectra=smooth(20),
        loudness=np.full(n, -20.0),
        motion=np.full(n, 9.0),
    )


def copied(samples: Samples, source: int, *, cut: int, noise: float, seed: int) -> Samples:
    """A sample that starts `cut` frames later, with noise."""
    rng = np.random.default_rng(seed)

    def changed(trace: np.ndarray) -> list[np.ndarray]:
        return [np.clip(trace[cut:] + rng.normal(0, noise, trace[cut:].shape), 0, 255).astype(np.uint8)]

    return Samples(
        video=[samples.video[source] + 0.01],
        audio=[samples.audio[source] + 0.01],
        pictures=changed(samples.pictures[source]),
        spectra=changed(samples.spectra[source]),
        loudness=np.array([-20.0]),
        motion=np.array([9.0]),
    )


def test_copies_are_found_however_they_are_cut_and_nothing_else():
    samples = traces(60)
    planted = {(7, 60): 0, (20, 61): 3, (41, 62): 9}
    for seed, ((source, _), cut) in enumerate(planted.items()):
        samples = samples.joined(copied(samples, source, cut=cut, noise=8.0, seed=seed))
    found = find_duplicates(samples, fps=10.0)
    assert {tuple(pair) for pair in found.pairs.tolist()} == set(planted)
    assert (found.likeness > 0.9).all()
    assert (agreement(found.likeness) > found.limit).all()
    assert found.groups[[7, 60, 8, 61]].tolist() == [7, 7, 8, 20]


def test_the_same_picture_with_another_sound_is_no_duplicate():
    samples = traces(40)
    copy = copied(samples, 3, cut=0, noise=2.0, seed=0)
    copy.spectra[0] = traces(1, seed=9).spectra[0]
    assert not len(find_duplicates(samples.joined(copy), fps=10.0).pairs)


def test_silent_and_still_samples_are_no_duplicates_of_each_other():
    samples = traces(30)
    for sample in (4, 11):
        samples.pictures[sample] = np.full((40, 64), 90, np.uint8)
        samples.spectra[sample] = np.zeros((40, 20), np.uint8)
    assert not len(find_duplicates(samples, fps=10.0).pairs)


def test_pairs_link_samples_into_groups():
    assert linked(6, np.array([[3, 4], [1, 3], [0, 5]])).tolist() == [0, 1, 2, 1, 1, 0]
    assert linked(3, np.zeros((0, 2), np.int64)).tolist() == [0, 1, 2]


def test_folds_keep_groups_together_are_balanced_and_depend_on_names_only():
    names, groups = [f"{number}.mp4" for number in range(50)], np.arange(50)
    groups[[10, 20, 30]] = 5
    folds = assign_folds(names, groups, folds=3)
    assert len(set(folds[[5, 10, 20, 30]])) == 1
    assert sorted(np.bincount(folds).tolist()) == [16, 17, 17]
    back = assign_folds(names[::-1], groups[::-1], folds=3)[::-1]
    assert np.array_equal(back, folds)


def test_few_samples_are_divided_into_more_folds():
    assert [default_folds(samples) for samples in (20, 599, 600, 240_000)] == [5, 5, 3, 3]


def test_the_settings_of_a_fold_fit_its_part_of_the_data(tmp_path: Path):
    run = Config(
        data=DataConfig(path="old", split="train", leave_out="old.txt", shuffle_pairs=True),
        train=TrainConfig(epochs=7, batch_size=32),
        pool=PoolConfig(size=640),
        dictionary=DictionaryConfig(size=256),
    )
    paths = {"shards": tmp_path / "shards", "folder": tmp_path / "0", "leave_out": tmp_path / "0.csv"}
    small = fold_config(run, **paths, samples=100, steps=0)
    assert (small.data.split, small.data.shuffle_pairs, small.data.leave_out) == ("", False, str(tmp_path / "0.csv"))
    assert small.train.batch_size + small.dictionary.size <= 100
    assert (small.train.epochs, small.train.steps) == ("auto", FEWEST_STEPS)
    longer = fold_config(replace(run, train=replace(run.train, epochs=400)), **paths, samples=100, steps=0)
    assert (longer.train.epochs, longer.train.steps) == (400, 0)
    large = fold_config(run, **paths, samples=5000, steps=30)
    assert (large.train.batch_size, large.pool.size, large.dictionary.size) == (32, 640, 256)
    assert large.train.steps == 30


def verdicts(**changes) -> Verdicts:
    values = {
        "sources": ["a, b.mp4", "b.mp4", "c.mp4", "d.mp4"],
        "splits": ["train", "test", "", "train"],
        "folds": np.array([0, 1, 0, -1]),
        "scores": np.array([2.5, -0.3, 1.0, 0.2]),
        "loudness": np.array([-20.0, -20.0, -90.0, -20.0]),
        "motion": np.array([5.0, 5.0, 0.1, 5.0]),
        "duplicate_of": ["d.mp4", "", "", "a, b.mp4"],
        "likeness": np.array([[0.99, 0.97], [np.nan] * 2, [np.nan] * 2, [0.99, 0.97]]),
        "superfluous": np.array([False, False, False, True]),
        "lowest_score": 0.0,
    }
    return Verdicts(**(values | changes))


def test_tables_say_what_is_wrong_with_each_sample(tmp_path: Path):
    found = verdicts()
    found.write(tmp_path)
    assert found.counts() == {"mismatched": 1, "duplicate": 1, "silent": 1, "static": 1, "all": 3}
    with open(tmp_path / "pairs.csv", newline="") as file:
        rows = {row["source"]: row for row in csv.DictReader(file)}
    assert rows["a, b.mp4"]["duplicate_of"] == "d.mp4"
    assert (rows["a, b.mp4"]["picture_likeness"], rows["a, b.mp4"]["leave_out"]) == ("0.990", "")
    assert (rows["d.mp4"]["fold"], rows["b.mp4"]["fold"], rows["b.mp4"]["score"]) == ("", "1", "-0.300")
    with open(tmp_path / "leave_out.csv", newline="") as file:
        listed = {row["source"]: row["reason"] for row in csv.DictReader(file)}
    assert listed == {"b.mp4": "mismatched", "c.mp4": "silent;static", "d.mp4": "duplicate"}


def test_of_duplicates_the_one_that_is_tested_on_is_kept():
    groups = np.array([0, 0, 2, 2, 4, 4, 6, 0])
    splits = ["train", "test", "train", "train", "train", "", "test", "train"]
    assert superfluous(groups, splits, fixed=0).tolist() == [True, False, False, True, False, True, False, True]
    # The last sample is of other data: it stays, and those of its group go.
    assert superfluous(groups, splits, fixed=1)[[0, 1, 7]].tolist() == [True, True, False]


def test_the_most_alike_copy_is_named():
    pairs = np.array([[0, 1], [0, 2]])
    found = Duplicates(pairs=pairs, likeness=np.array([[0.9, 0.95], [0.97, 0.96]]), groups=np.zeros(3), limit=3.0)
    copies, likeness = nearest_copies(found, ["a", "b", "c"])
    assert copies == ["c", "a", "a"]
    assert likeness[0].tolist() == [0.97, 0.96]
