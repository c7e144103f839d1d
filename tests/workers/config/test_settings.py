"""Settings say what is wrong with them, and not what is secret in them."""

from __future__ import annotations

import traceback

import pytest

from workers.config.settings import load_settings
from workers.errors import SettingsError


@pytest.mark.parametrize("url", ["apf:hunter2@host", "amqp://apf:hunter2@host", "hunter2"])
def test_a_wrong_broker_url_is_explained_without_its_password(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Neither in the message nor in the traceback that a worker leaves behind."""
    monkeypatch.setenv("APF_BROKER_URL", url)
    with pytest.raises(SettingsError, match=r"APF_BROKER_URL: .*must start with redis://") as caught:
        load_settings()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_another_wrong_setting_does_not_show_the_broker_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pydantic would show all values where they do not fit together."""
    monkeypatch.setenv("APF_BROKER_URL", "redis://apf:hunter2@host")
    monkeypatch.setenv("APF_VISIBILITY_TIMEOUT_S", "60")
    with pytest.raises(SettingsError, match="twice") as caught:
        load_settings()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", ["redis://apf:hunter2/x@host", "rediss://apf:hunter2#x@host:6379/0", "redis://h:none"])
def test_a_broker_url_that_cannot_be_taken_apart_is_explained(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("APF_BROKER_URL", url)
    with pytest.raises(SettingsError, match="%2F") as caught:
        load_settings()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_passwords_may_be_percent_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APF_BROKER_URL", "redis://apf:hunter2%2Fx@host:6379/0")
    assert load_settings().broker_url == "redis://apf:hunter2%2Fx@host:6379/0"
