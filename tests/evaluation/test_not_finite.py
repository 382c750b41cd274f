"""Numbers that are not finite are never a score: each protocol refuses them and names the sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import evaluate
from common.finite import NotFiniteError
from evaluation.class_retrieval import first_hits, run_class_retrieval
from evaluation.esc50 import fit_svm
from evaluation.explore.collect import nearest, project
from evaluation.features import Features
from evaluation.finetune import _refuse_loss, top_k
from evaluation.pair_retrieval import pair_ranks, run_pair_retrieval
from evaluation.probes.knn import run_knn
from evaluation.probes.linear import fit_probe, run_linear
from evaluation.ranking import ranking_figures
from evaluation.report import require_finite_rows
from evaluation.statistics import accuracy_row, over_splits
from evaluation.task import Split, Task
from model import build_model
from settings.evaluation import EvaluationConfig
from tests.evaluation.tiny import CONFIG

CODES = np.arange(12) % 3
SPLIT = Split(train=np.arange(12) < 9, test=np.arange(12) >= 9, origin="test")
TASK = Task(label="kind", codes=CODES, split=SPLIT)


def rows(bad=None):
    values = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    if bad is not None:
        values[10, 3] = bad
    return values


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, np.float32(3e38)])
@pytest.mark.parametrize("run", [run_class_retrieval, run_knn, run_linear])
def test_protocols_on_features_name_the_first_bad_row(run, bad):
    features = {"pre-trained": Features(pooled={"video": rows(bad)})}
    with pytest.raises(NotFiniteError, match="video features of the pre-trained encoder are not finite for row 10;"):
        run(features, TASK, EvaluationConfig())


def test_pair_retrieval_names_the_first_bad_row():
    features = {"any": Features(embedding={"video": rows(), "audio": rows(np.nan)})}
    with pytest.raises(NotFiniteError, match="the audio embeddings of the any encoder are not finite for row 10;"):
        run_pair_retrieval(features, SPLIT, EvaluationConfig())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "score",
    [
        lambda x: pair_ranks(x, rows()),
        lambda x: pair_ranks(rows(), x),
        lambda x: first_hits(x, CODES, rows(), CODES),
        lambda x: first_hits(rows(), CODES, x, CODES),
        lambda x: fit_probe(x, CODES, folds=2, seed=0),
        lambda x: fit_svm(x, CODES, groups=CODES),
        lambda x: top_k(x, CODES, 1),
        lambda x: nearest(x, rows()),
        lambda x: nearest(rows(), x),
        lambda x: project(x, method="pca", seed=0),
        lambda x: accuracy_row("any", "video", x[:, 3]),
        lambda x: over_splits([{"accuracy": value} for value in x[:, 3]], tests=12),
        lambda x: ranking_figures(x[:, 2:5], CODES[:, None] == range(3), seed=0),
        lambda x: require_finite_rows([{"encoder": "any", "accuracy": float(x[10, 3])}]),
    ],
)
def test_whatever_ranks_counts_or_averages_refuses(score, bad):
    with pytest.raises(NotFiniteError, match="not finite"):
        score(rows(bad))


def test_rows_of_zeros_have_no_direction_and_rank_last():
    queries, keys = rows(), rows()
    queries[2], keys[5] = 0, 0
    ranks = pair_ranks(queries, keys)
    assert ranks[[2, 5]].tolist() == [12, 12]
    assert (np.delete(ranks, [2, 5]) == 1).all()
    hits = first_hits(queries, CODES, keys[[5, 0]], np.array([2, 0]))
    assert hits[5] == 2  # the only row of its class is the row of zeros, behind the other class


def test_a_loss_that_is_not_finite_names_the_sample():
    class Loader:
        class dataset:
            source = staticmethod("day1/{}.mp4".format)

    seen = [(torch.tensor([4, 7]), torch.tensor([True, True])), (torch.tensor([9, 2]), torch.tensor([False, False]))]
    with pytest.raises(NotFiniteError, match=r"epoch 3 .* not finite for day1/9.mp4 and 1 more of 4; lower finetune"):
        _refuse_loss(seen, Loader(), 3)
    with pytest.raises(NotFiniteError, match="the losses are not finite; lower"):
        _refuse_loss(seen[:1], Loader(), 3)


@pytest.fixture
def diverged(tmp_path, monkeypatch):
    """A run folder whose encoders give NaN, as a diverged run's do."""
    model = build_model(CONFIG.model, audio=CONFIG.audio, seed=0).eval()
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    monkeypatch.setattr(evaluate, "load_model", lambda path: (CONFIG, model))
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["retrieval"],
        ["retrieval", "--label", "kind"],
        ["knn", "--label", "kind"],
        ["linear", "--label", "kind"],
        ["kinetics_linear", "--label", "kind", "finetune.epochs=1", "batch_size=8"],
        ["finetune", "--label", "kind", "finetune.epochs=1", "batch_size=8"],
    ],
    ids=" ".join,
)
def test_evaluate_says_that_a_diverged_run_has_no_score(diverged, shards, capsys, arguments):
    options = ["--checkpoint", str(diverged), "--data", str(shards), "clips=1", "device=cpu"]
    assert evaluate.main([*options, "--protocol", *arguments]) == 2
    printed = capsys.readouterr()
    (sentence,) = (line for line in printed.err.splitlines() if line.startswith("evaluate.py: "))
    assert "not finite for 000" in sentence
    assert ".mp4" in sentence
    assert "│" not in printed.out
    assert not list(diverged.iterdir())
