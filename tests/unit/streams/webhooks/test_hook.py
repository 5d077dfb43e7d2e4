"""A webhook's settings: what is wrong is named without its value, secrets stay secret."""

import json
import tomllib
from typing import Any

import pytest

from valuetide.streams.local import _toml
from valuetide.streams.settings import Settings, SettingsError, load_settings
from valuetide.streams.webhooks.hook import REVEAL, Webhook

SECRET = "hunter2-secret"
KEY = "whsec_" + "QUJD" * 8
URL = f"https://hooks.example.com/services/{SECRET}"


def hook(**values: Any) -> Webhook:
    return Webhook(**({"name": "ops", "url": URL} | values))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"url": f"ftp://{SECRET}"}, "url: must be http"),
        ({"url": SECRET}, "url: must be http"),
        ({"url": f"http:///{SECRET}"}, "url: must be http"),
        ({"url": f"http://[{SECRET}/"}, "url: must be http"),
        ({"url": f"http://h:0/{SECRET}"}, "url: must be http"),
        ({"url": f"http://h:99999/{SECRET}"}, "url: must be http"),
        ({"url": f"http://h:{SECRET}/"}, "url: must be http"),
        ({"secret": SECRET}, "secret: must be whsec_"),
        ({"secret": f"whsec_{SECRET}"}, "secret: must be whsec_"),
        ({"secret": "whsec_QUJD"}, "secret: must be whsec_"),
        ({"secret": "whsec_" + "QUJD" * 22}, "secret: must be whsec_"),
        ({"name": SECRET.upper()}, "webhooks.0.name"),
        ({"name": "x" * 33}, "webhooks.0.name"),
        ({"format": SECRET}, "webhooks.0.format"),
        ({"rules": [SECRET]}, "webhooks.0.rules"),
        ({"rules": []}, "webhooks.0.rules"),
        ({"least_stake": -1}, "webhooks.0.least_stake"),
        ({"timeout_seconds": 0}, "webhooks.0.timeout_seconds"),
        ({"adress": SECRET}, "webhooks.0.adress"),
    ],
)
def test_what_is_wrong_is_named_and_not_shown(
    values: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"name": "ops", "url": URL} | values
    monkeypatch.setenv("VALUETIDE_WEBHOOKS", json.dumps([given]))
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert named in str(error.value)
    assert SECRET not in str(error.value)


def test_two_hooks_need_two_names() -> None:
    load_settings(webhooks=[hook(), hook(name="more")])
    with pytest.raises(SettingsError, match="a name of its own"):
        load_settings(webhooks=[hook(), hook()])


def test_secrets_are_masked_unless_a_childs_file_is_written() -> None:
    settings = Settings(webhooks=(hook(secret=KEY),))
    for text in (repr(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert SECRET not in text
        assert KEY not in text
    (dumped,) = settings.model_dump(mode="json", context=REVEAL)["webhooks"]
    assert (dumped["url"], dumped["secret"]) == (URL, KEY)


def test_a_child_reads_the_same_hooks(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    settings = Settings(webhooks=(hook(secret=KEY, rules=("level",)), hook(name="more")))
    file = tmp_path / "valuetide.toml"
    file.write_text(_toml(settings, 1))
    assert len(tomllib.loads(file.read_text())["webhooks"]) == 2
    monkeypatch.setenv("VALUETIDE_CONFIG", str(file))
    assert load_settings().webhooks == settings.webhooks


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://am:9093", "http://am:9093/api/v2/alerts"),
        ("http://am:9093/", "http://am:9093/api/v2/alerts"),
        ("https://am/prefix", "https://am/prefix/api/v2/alerts"),
        ("http://am:9093/api/v2/alerts", "http://am:9093/api/v2/alerts"),
    ],
)
def test_of_alertmanager_the_address_will_do(url: str, target: str) -> None:
    assert str(hook(url=url, format="alertmanager").target) == target
    assert str(hook(url=url).target).rstrip("/") == url.rstrip("/")
