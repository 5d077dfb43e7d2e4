"""Settings come from caller, environment and file, in that order; what is wrong is named."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from valuetide.scoring.trends.decision import Policy
from valuetide.streams.settings import Settings, SettingsError, load_settings, misspelt_variables
from valuetide.streams.watch import plan_of

SECRET = "hunter2-secret"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("VALUETIDE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write the TOML file and have it used."""

    def write(text: str) -> Path:
        file = tmp_path / "valuetide.toml"
        file.write_text(text, "utf-8")
        monkeypatch.setenv("VALUETIDE_CONFIG", str(file))
        return file

    return write


def refused() -> str:
    with pytest.raises(SettingsError) as error:
        load_settings()
    trace = "".join(traceback.format_exception(error.value))
    assert SECRET not in trace
    text = str(error.value)
    assert SECRET not in text
    assert "\n" not in text
    return text


def test_defaults_are_good() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert settings.http_host == "127.0.0.1"
    assert settings.redis_url.get_secret_value() == "redis://127.0.0.1:6379/0"


@pytest.mark.parametrize("text", ["30,365", "[30, 365]", " 30, 365 "])
def test_horizons_are_days_with_commas_or_json(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALUETIDE_HORIZONS_DAYS", text)
    assert load_settings().horizons_days == (30, 365)


@pytest.mark.parametrize("text", ["", "30;365", "30,x", "1.5", "365,30", "30,30", "0"])
def test_horizons_that_are_none_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALUETIDE_HORIZONS_DAYS", text)
    assert "horizons_days" in refused()


def test_caller_before_environment_before_file_before_default(
    config: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config('partitions = 8\ngroup = "file"\nkey_prefix = "file"\n[vocabulary]\nminor_digits = 0\n')
    monkeypatch.setenv("VALUETIDE_GROUP", "environment")
    monkeypatch.setenv("VALUETIDE_KEY_PREFIX", "environment")
    settings = load_settings(key_prefix="caller", group=None)
    assert settings.partitions == 8
    assert settings.group == "environment"
    assert settings.key_prefix == "caller"
    assert settings.vocabulary.minor_digits == 0
    assert settings.replication == 1


def test_nested_settings_merge_over_their_sources(
    config: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config('[vocabulary]\nbase_currency = "USD"\nminor_digits = 3\n[topics]\norders = "o"\n')
    monkeypatch.setenv("VALUETIDE_VOCABULARY__MINOR_DIGITS", "0")
    monkeypatch.setenv("VALUETIDE_TOPICS__SCORES", "s")
    settings = load_settings()
    assert (settings.vocabulary.base_currency, settings.vocabulary.minor_digits) == ("USD", 0)
    assert (settings.topics.orders, settings.topics.scores) == ("o", "s")
    assert settings.topics.feedback == "feedback"


WRONG = {
    "PARTITIONS": ["0", "10001", "four", "1.5", ""],
    "REPLICATION": ["0", "10"],
    "KEY_PREFIX": ["", "a b", "{x}", "a:b", "x" * 33, "a\n"],
    "GROUP": [""],
    "HALF_LIFE_DAYS": ["29.9", "nan", "inf", "x"],
    "CLOCK": ["sun", ""],
    "LIVE_WITHIN_SECONDS": ["0", "-1"],
    "MAX_EVENT_BYTES": ["255"],
    "MAX_BATCH_EVENTS": ["0", "100001"],
    "MAX_BATCHES_IN_FLIGHT": ["0", "65"],
    "MAX_CUSTOMERS_IN_MEMORY": ["999"],
    "FETCH_MAX_WAIT_MS": ["0", "10001"],
    "SESSION_TIMEOUT_SECONDS": ["0", "601"],
    "HEARTBEAT_SECONDS": ["0", "6"],
    "REBALANCE_TIMEOUT_SECONDS": ["0"],
    "RETRY_SECONDS": ["-1"],
    "TOP_SIZE": ["0", "10001"],
    "HTTP_PORT": ["-1", "65536"],
    "LOG_LEVEL": ["loud"],
    "LOG_FORMAT": ["xml"],
    "VOCABULARY__BASE_CURRENCY": ["eur", "EURO"],
    "VOCABULARY__MINOR_DIGITS": ["5", "-1"],
    "VOCABULARY__MAX_AMOUNT": ["0", "1e10"],
    "VOCABULARY__EXCHANGE_RATES": ['{"USD": 0}', '{"usd": 1}', '{"EUR": 2}'],
    "VOCABULARY__UNKNOWN": ["1"],
    "TOPICS__ORDERS": ["", "x" * 129],
    "TOPICS__UNKNOWN": ["x"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_value_in_the_environment_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"VALUETIDE_{name}", value)
    text = refused()
    assert text.startswith("settings: ")
    assert name.lower().split("__")[-1] in text.replace(".", " ").lower()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PARTITIONS", SECRET),
        ("CLOCK", SECRET),
        ("KEY_PREFIX", f"{SECRET} x"),
        ("VOCABULARY", SECRET),
        ("VOCABULARY__BASE_CURRENCY", SECRET),
        ("TOPICS", f'{{"orders": "{SECRET}'),
        ("HTTP_PORT", SECRET),
    ],
)
def test_a_wrong_value_is_never_printed(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"VALUETIDE_{name}", value)
    assert name.split("__", maxsplit=1)[0].lower() in refused()


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALUETIDE_PARTITIONS", "0")
    monkeypatch.setenv("VALUETIDE_TOP_SIZE", "0")
    text = refused()
    assert "partitions: " in text
    assert "top_size: " in text


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("partitons = 4", "partitons"),
        ("[vocabulary]\nbase = 1", "vocabulary.base"),
        ("[topics]\nalarms = 'x'", "topics.alarms"),
        (f"partitions = '{SECRET}'", "partitions"),
        (f"redis_url = ['{SECRET}']", "redis_url"),
        (f"partitions = {SECRET}", "line 1"),
        ("partitions = 4\npartitions = 5", "overwrite"),
    ],
)
def test_a_wrong_file_is_named(config: Callable[[str], Path], toml: str, named: str) -> None:
    config(toml)
    assert named in refused()


def test_a_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VALUETIDE_CONFIG", str(tmp_path / "none.toml"))
    assert refused() == f"VALUETIDE_CONFIG: there is no file {tmp_path / 'none.toml'}"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_beyond_the_loopback_address_a_token_is_needed(host: str) -> None:
    with pytest.raises(SettingsError, match="http_token: needed"):
        load_settings(http_host=host)
    load_settings(http_host=host, http_token=SECRET)


def test_an_empty_token_is_no_token() -> None:
    with pytest.raises(SettingsError, match="http_token: needed"):
        load_settings(http_host="0.0.0.0", http_token="")
    assert load_settings(http_token="").http_token is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_on_the_loopback_address_no_token_is_needed(host: str) -> None:
    assert load_settings(http_host=host).http_token is None


def test_secrets_are_masked_wherever_settings_are_printed() -> None:
    settings = load_settings(redis_url=f"redis://user:{SECRET}@localhost/0", http_token=SECRET)
    for text in (repr(settings), str(settings), str(settings.model_dump()),
                 settings.model_dump_json()):  # fmt: skip
        assert SECRET not in text
        assert "**********" in text


def test_settings_do_not_change_after_the_start() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().__setattr__("partitions", 5)


def test_an_unknown_name_given_by_the_caller_is_refused() -> None:
    with pytest.raises(SettingsError, match="partitons"):
        load_settings(partitons=5)


def test_a_misspelt_variable_is_told_with_the_likeliest_setting() -> None:
    environment = {
        "VALUETIDE_PARTITONS": "9",
        "VALUETIDE_PARTITIONS": "9",
        "VALUETIDE_VOCABULARY__BASE_CURRENCY": "USD",
        "VALUETIDE_CONFIG": "x.toml",
        "VALUETIDE_SERVICE_HOST": "10.0.0.1",
        "VALUETIDE_ALERTS_RUN_LENGTH": "30",
        "VALUETIDE_ALERTS__RUN_LENGTH": "30",
        "VALUETIDE_ALERTS_SERVICE_PORT": "80",
        "PATH": "/bin",
    }
    assert misspelt_variables(environment) == {
        "VALUETIDE_PARTITONS": "VALUETIDE_PARTITIONS",
        "VALUETIDE_ALERTS_RUN_LENGTH": "VALUETIDE_ALERTS__RUN_LENGTH",
    }


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        (
            "[alerts]\nrun_lenght = 3",
            "alerts.run_lenght: there is no such setting, is it run_length?",
        ),
        ("[serie]\nx = 1", "serie: there is no such setting, is it series?"),
        ("[series]\nxyzzy = 1", "series.xyzzy: there is no such setting"),
        (
            f"[[webhooks]]\nname = 'a'\nurl = 'https://x.example'\nsekret = '{SECRET}'",
            "webhooks.0.sekret: there is no such setting, is it secret?",
        ),
    ],
)
def test_a_misspelt_name_in_a_file_is_told_with_the_likeliest(
    toml: str, says: str, config: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALUETIDE_CONFIG", str(config(toml)))
    text = refused()
    assert says in text
    assert SECRET not in text


def test_series_and_alerts_are_set_in_a_file_and_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, config: Callable[[str], Path]
) -> None:
    config('[series]\nbucket = "hour"\nholidays = { 2026-12-25 = "christmas" }\n')
    monkeypatch.setenv("VALUETIDE_SERIES__DIMENSIONS", '["value_tier", "source_code"]')
    monkeypatch.setenv("VALUETIDE_ALERTS__RUN_LENGTH", "180")
    settings = load_settings()
    assert settings.series.bucket == "hour"
    assert settings.series.holiday_names == {20_812: "christmas"}
    assert (settings.series.labels, settings.series.segmented) == (("source_code",), True)
    # What is set counts points, which are hours here; what is not stays as many days as it was.
    lasting = {"patience_points": 8_760, "accept_points": 672, "cool_points": 168}
    assert plan_of(settings).policy == Policy(run_length=180.0, **lasting)
    monkeypatch.delenv("VALUETIDE_ALERTS__RUN_LENGTH")
    assert plan_of(load_settings()).policy == Policy(run_length=2_160.0, **lasting)
    config("")
    # What nobody sets is what the mathematics takes for granted, and was measured with.
    assert plan_of(load_settings()).policy == Policy()


def test_an_unknown_metric_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALUETIDE_SERIES__METRICS", '["profit"]')
    with pytest.raises(SettingsError, match=r"series\.metrics\.0: .*'revenue'"):
        load_settings()
