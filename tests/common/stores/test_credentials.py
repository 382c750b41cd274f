"""Settings for clients of S3 from the files of the AWS command line."""

from __future__ import annotations

import pytest

from common.stores.credentials import s3_options


def test_one_file_may_hold_the_config_and_the_credentials(tmp_path, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SKIP_SIGNATURE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "aws"
    file.write_text(
        "[profile lab]\nregion = eu-west-1\nendpoint_url = http://store\n"
        "[lab]\naws_access_key_id = name\naws_secret_access_key = word\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    expected = {"endpoint": "http://store", "region": "eu-west-1", "access_key_id": "name", "secret_access_key": "word"}
    assert s3_options() == expected
