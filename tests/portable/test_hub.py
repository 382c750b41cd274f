"""Uploads that cannot succeed end with one sentence."""

from __future__ import annotations

import pytest

from common import environment
from portable.hub import HubError, push, require_hub


def test_why_an_upload_failed_is_said_once(monkeypatch, tmp_path):
    def unreachable(*args, **kwargs):
        raise OSError("Connection refused") from OSError("Connection refused")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", unreachable)
    with pytest.raises(HubError, match=r"cannot upload to me/mine at [^ ]+: Connection refused\. The folder"):
        push(tmp_path, "me/mine", private=False, files=[])


@pytest.mark.parametrize("name", ["mine", "me/my/mine", "../mine", "me/", "me/a b", ""])
def test_a_name_that_is_not_a_repository_is_refused(name):
    with pytest.raises(HubError, match="--push must be USER/NAME"):
        require_hub(name)


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    with pytest.raises(HubError, match="needs the package huggingface_hub: pip install -r"):
        require_hub("me/mine")
