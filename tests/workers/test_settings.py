"""Settings say what is wrong with them, and not what is secret in them."""

from __future__ import annotations

import traceback

import pytest

from workers.errors import SettingsError
from workers.settings import load_settings


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
