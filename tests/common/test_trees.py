"""Joining nested keys with dots."""

from common.trees import flatten


def test_a_tree_becomes_dotted_keys() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None, "f": {}}) == {"a.b": 1, "a.c.d": [2], "e": None}
