"""Any text given as settings is either accepted, and then read back equal, or refused with a ConfigError."""

from __future__ import annotations

import contextlib

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from settings import Config, ConfigError, PrepareConfig, load_config, to_dict

QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# A command line cannot hold a NUL, and UTF-8 cannot encode lone surrogates.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)


def keys_of(tree: dict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        keys += keys_of(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return keys


@QUICK
@given(key=st.sampled_from(keys_of(to_dict(Config()))) | TEXT, value=TEXT | st.integers().map(str))
def test_any_override_is_accepted_or_raises_a_config_error(key, value):
    with contextlib.suppress(ConfigError):
        load_config(Config, None, [f"{key}={value}"])


@QUICK
@given(data=st.binary(max_size=60) | TEXT.map(str.encode))
@pytest.mark.parametrize("settings_class", [Config, PrepareConfig])
def test_any_yaml_is_accepted_or_raises_a_config_error(tmp_path, settings_class, data):
    path = tmp_path / "config.yaml"
    path.write_bytes(data)
    message = str(path)
    try:
        load_config(settings_class, path)
    except ConfigError as error:
        message = str(error)
    assert str(path) in message


@QUICK
@given(
    run_dir=st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20),
    seed=st.integers(-(2**63), 2**63 - 1), lr=st.floats(1e-300, 1e300), flag=st.booleans(),
    area=st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1.0)),
    options=st.dictionaries(TEXT, st.integers(-5, 5) | st.booleans() | TEXT | st.none(), max_size=4),
)  # fmt: skip
def test_overrides_set_their_values_and_settings_are_read_back_equal(tmp_path, run_dir, seed, lr, flag, area, options):
    values = {
        **{"run_dir": run_dir, "seed": seed, "optim.lr": lr, "train.compile": flag},
        **{"augment.crop_area": list(area), "sampler.options": options},
    }
    config = load_config(Config, None, [f"{key}={yaml.safe_dump(value)}" for key, value in values.items()])
    tree = to_dict(config)
    for key, value in values.items():
        node = tree
        for part in key.split("."):
            node = node[part]
        assert node == value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert load_config(Config, path) == config
