"""train.precision: its meaning per device, and the warning about bf16 on processors without instructions for it."""

import logging

import pytest
import torch

from training import precision
from training.precision import uses_bf16

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("requested", "device", "instructions", "expected"),
    [
        ("auto", CPU, True, False),
        ("auto", GPU, True, True),
        ("auto", GPU, False, False),
        ("fp32", GPU, True, False),
        ("bf16", CPU, True, True),
        ("bf16", CPU, False, True),
    ],
)
def test_precision_follows_the_setting_and_the_processor(
    monkeypatch, caplog, requested, device, instructions, expected
):
    monkeypatch.setattr(precision, "_has_instructions", lambda _: instructions)
    with caplog.at_level(logging.WARNING):
        assert uses_bf16(requested, device) is expected
    warned = "train.precision=fp32" in caplog.text
    assert warned == (requested == "bf16" and not instructions)


def test_only_one_process_warns(monkeypatch, caplog):
    monkeypatch.setattr(precision, "_has_instructions", lambda _: False)
    assert uses_bf16("bf16", CPU, warn=False)
    assert not caplog.records


def test_this_machine_can_be_queried():
    assert uses_bf16("auto", CPU) is False
    assert uses_bf16("bf16", CPU, warn=False) is True
