"""The loss of a step: its directions, its false negatives and its temperature, on cases that can be checked by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from model.loss import info_nce
from model.objective import Negatives, symmetric_loss
from settings import LossConfig

B, K, D = 5, 9, 12


def unit(rows, seed):
    return F.normalize(torch.randn(rows, D, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture
def problem():
    """Queries, keys and negatives of both modalities; the first negative is excluded for all clips."""
    queries, keys = ({"video": unit(B, seed), "audio": unit(B, seed + 1)} for seed in (0, 2))
    excluded = torch.zeros(B, K, dtype=torch.bool)
    excluded[:, 0] = True
    rows = {"video": unit(K, 4), "audio": unit(K, 5)}
    negatives = {
        "video": Negatives(rows["video"], rows["audio"], excluded),
        "audio": Negatives(rows["audio"], rows["video"], excluded),
    }
    return queries, keys, negatives


def test_each_direction_is_info_nce_against_the_other_modalitys_dictionary(problem):
    queries, keys, negatives = problem
    loss, metrics = symmetric_loss(queries, keys, negatives, config=LossConfig(temperature=0.3), step=0)
    mask = negatives["audio"].excluded
    v2a, accuracy = info_nce(queries["video"], keys["audio"], negatives["audio"].keys, temperature=0.3, mask=mask)
    a2v, _ = info_nce(queries["audio"], keys["video"], negatives["video"].keys, temperature=0.3, mask=mask)
    torch.testing.assert_close(loss, v2a + a2v)
    torch.testing.assert_close(metrics["accuracy_v2a"], accuracy)
    assert set(metrics) == {"loss", "loss_v2a", "loss_a2v", "accuracy_v2a", "accuracy_a2v"}


@pytest.mark.parametrize("rule", ["one_way", "two_way"])
def test_false_negatives_leave_the_sum_but_not_the_accuracy(problem, rule):
    queries, keys, negatives = problem
    loss, metrics = symmetric_loss(
        queries, keys, negatives, config=LossConfig(temperature=0.3, false_negatives=rule), step=0
    )
    expected, left_out = 0.0, 0
    for query, key in (("video", "audio"), ("audio", "video")):
        for i in range(B):
            own = float(queries[query][i] @ keys[key][i])
            back = float(queries[key][i] @ keys[query][i])
            total = math.exp(own / 0.3)
            for n in range(1, K):
                cosine = float(queries[query][i] @ negatives[key].keys[n])
                returned = float(queries[key][i] @ negatives[key].partners[n])
                if cosine > own and (rule == "one_way" or returned > back):
                    left_out += 1
                else:
                    total += math.exp(cosine / 0.3)
            expected -= math.log(math.exp(own / 0.3) / total) / B
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    shares = float(metrics["false_negatives_v2a"] + metrics["false_negatives_a2v"])
    assert shares * B * (K - 1) == pytest.approx(left_out)
    assert left_out > 0
    _, kept = symmetric_loss(queries, keys, negatives, config=LossConfig(temperature=0.3), step=0)
    assert metrics["accuracy_v2a"] == kept["accuracy_v2a"] < 1


def test_two_way_finds_a_copy_and_keeps_a_hard_negative():
    # Clip 0's positive is a little off its query. Negative 0 is a copy of the clip that is nearer in both directions;
    # negative 1 only looks like it, and sounds different.
    query = torch.tensor([[1.0, 0.0, 0.0]])
    near, nearer, far = torch.tensor([[0.9, 0.4359, 0.0], [0.99, 0.1411, 0.0], [0.0, 0.0, 1.0]])
    negatives = Negatives(
        torch.stack([nearer, nearer]), torch.stack([nearer, far]), torch.zeros(1, 2, dtype=torch.bool)
    )
    queries, keys = {"video": query, "audio": query}, {"video": near[None], "audio": near[None]}
    shares = {}
    for rule in ("one_way", "two_way"):
        config = LossConfig(false_negatives=rule)
        _, metrics = symmetric_loss(queries, keys, {"video": negatives, "audio": negatives}, config=config, step=0)
        shares[rule] = float(metrics["false_negatives_v2a"])
    assert shares == {"one_way": 1.0, "two_way": 0.5}


def test_the_temperature_of_a_schedule_is_that_of_the_step(problem):
    queries, keys, negatives = problem
    config = LossConfig(temperature=0.1, temperature_high=0.5, temperature_period=10)
    for step, temperature in ((0, 0.5), (5, 0.1), (10, 0.5)):
        found, _ = symmetric_loss(queries, keys, negatives, config=config, step=step)
        expected, _ = symmetric_loss(queries, keys, negatives, config=LossConfig(temperature=temperature), step=0)
        torch.testing.assert_close(found, expected)


def test_agreement_leaves_out_what_is_near_in_both_modalities(problem):
    queries, keys, negatives = problem
    config = LossConfig(temperature=0.3, false_negatives="agreement", agreement=0.5)
    loss, metrics = symmetric_loss(queries, keys, negatives, config=config, step=0)
    expected, left_out = 0.0, 0
    for query, key in (("video", "audio"), ("audio", "video")):
        for i in range(B):
            near = []
            for modality, rows in ((key, negatives[key].keys), (query, negatives[key].partners)):
                order = sorted(range(1, K), key=lambda n: -float(keys[modality][i] @ rows[n]))
                near.append(set(order[: (K - 1) // 2]))
            false = near[0] & near[1]
            left_out += len(false)
            own = math.exp(float(queries[query][i] @ keys[key][i]) / 0.3)
            kept = [n for n in range(1, K) if n not in false]
            total = own + sum(math.exp(float(queries[query][i] @ negatives[key].keys[n]) / 0.3) for n in kept)
            expected -= math.log(own / total) / B
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert float(metrics["false_negatives_v2a"] + metrics["false_negatives_a2v"]) * B * (K - 1) == pytest.approx(
        left_out
    )
    assert left_out > 0


def test_weights_enter_the_direction_whose_negatives_have_them(problem):
    queries, keys, negatives = problem
    weights = torch.linspace(0.1, 1.9, K)
    weighted = {**negatives, "audio": negatives["audio"]._replace(weights=weights)}
    config = LossConfig(temperature=0.3)
    _, metrics = symmetric_loss(queries, keys, weighted, config=config, step=0)
    _, plain = symmetric_loss(queries, keys, negatives, config=config, step=0)
    expected, _ = info_nce(
        queries["video"],
        keys["audio"],
        negatives["audio"].keys,
        temperature=0.3,
        mask=negatives["audio"].excluded,
        weights=weights,
    )
    torch.testing.assert_close(metrics["loss_v2a"], expected)
    assert metrics["loss_a2v"] == plain["loss_a2v"]
    assert float(metrics["effective_v2a"]) == pytest.approx(float(weights.sum() ** 2 / (weights**2).sum()) / K)
    assert "effective_a2v" not in metrics
