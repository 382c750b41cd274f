"""The streams of random numbers determine the results of a run, so their numbers must not change."""

from __future__ import annotations

import numpy as np
import torch

from common.randomness import (
    numpy_generator,
    random_key,
    torch_generator,
    torch_seed,
    uniform_of_text,
    uniforms,
    weight_seed,
)


def test_streams_of_different_purposes_differ() -> None:
    assert random_key(1, 2, "train") != random_key(1, 2, "pool")
    # Seed 1 with epoch 23 and seed 12 with epoch 3 have the same digits.
    assert random_key(1, 23, "train") != random_key(12, 3, "train")


def test_all_streams_keep_their_numbers() -> None:
    assert random_key(0, 0, "train") == 0xDAB34176F5CDBB9293798131208AFCD
    assert numpy_generator(3, 7, "train").random(3).tolist() == [
        0.2973429797420447,
        0.29317804783475476,
        0.9306251850852425,
    ]
    assert numpy_generator(0, 0, "order").permutation(8).tolist() == [6, 4, 1, 3, 5, 2, 7, 0]
    assert uniforms(np.array([0, 5, 10**6]), 2, seed=1, epoch=2, purpose="train").tolist() == [
        [0.6817952575164867, 0.2471987519588973],
        [0.9636129163802117, 0.16924337092225106],
        [0.29008026533229303, 0.06571690162957267],
    ]
    assert torch.randperm(8, generator=torch_generator("0/video/select/12")).tolist() == [5, 6, 1, 7, 4, 0, 3, 2]
    assert torch_seed(0, 0, "finetune") == 6153189842637642048
    assert weight_seed(0, "video tiny") == 6907882511762443955
    assert weight_seed(5, "audio resnet18") == 5858382937899782886
    assert uniform_of_text("a/b.mp4") == 0.34001539542867537
    assert uniform_of_text("\udcff.mp4") == 0.8818869555530889
