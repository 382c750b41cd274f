"""Errors of `build_sampler`."""

import pytest

from sampler import build_sampler
from settings.errors import ConfigError


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean uniform"):
        build_sampler("unifrom")


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"sampler\.options\.frist_pick; did you mean first_pick"):
        build_sampler("kmeanspp_sequential", {"frist_pick": "norm"})


def test_a_wrong_value_is_refused_with_what_is_allowed():
    with pytest.raises(ConfigError, match="uniform, norm, argmax"):
        build_sampler("kmeanspp_sequential", {"first_pick": "largest"})
