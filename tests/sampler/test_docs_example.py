"""The example sampler of docs/samplers.md, added as a reader would add it."""

import re
from pathlib import Path

import pytest
import torch

from sampler import SAMPLERS, build_sampler
from settings.errors import ConfigError
from tests.sampler.distribution import random_pool

DOCS = Path(__file__).parents[2] / "docs" / "samplers.md"


@pytest.fixture
def example(monkeypatch):
    source = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL).group(1)
    namespace = {"__name__": "example"}
    exec(source, namespace)
    monkeypatch.setitem(SAMPLERS, "newest_and_uniform", namespace["NewestAndUniform"])
    return source


@pytest.mark.usefixtures("example")
def test_the_documented_sampler_works_with_its_options():
    sampler = build_sampler("newest_and_uniform", {"newest": 0.25})
    selection = sampler.select(random_pool(100), 20, generator=torch.Generator().manual_seed(0))
    assert selection.indices[:5].tolist() == [99, 98, 97, 96, 95]
    assert len(set(selection.indices.tolist())) == 20
    with pytest.raises(ConfigError, match=r"newest must be in \[0, 1\]"):
        build_sampler("newest_and_uniform", {"newest": 2.0})


def test_the_documented_sampler_is_about_twenty_lines(example):
    body = example[example.index("@dataclass") :]
    assert len([row for row in body.splitlines() if row.strip()]) <= 20


def test_the_table_lists_every_backend():
    listed = set(re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), re.MULTILINE))
    assert listed == set(SAMPLERS)
