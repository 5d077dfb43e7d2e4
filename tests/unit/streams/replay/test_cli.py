"""The command, as far as it goes without a broker."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.shared_data import lifetimes_data
from valuetide.streams.cli.replay import replay
from valuetide.streams.replay.catalog import DATA_SETS

NOWHERE = "127.0.0.1:9"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(replay, [str(argument) for argument in arguments])


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (file := tmp_path / "shop.csv").write_text("who;day;total\na;05.01.2011;2,5\nb;04.01.2011;3\n")
    return file


MAP = [
    *("--map", "customer_id=who", "--map", "occurred_at=day", "--map", "amount=total"),
    *("--map", "order_id=@id", "--set", "kind=placed", "--currency", "EUR"),
    *("--time-format", "%d.%m.%Y"),
]


def test_help_shows_each_preset_with_an_example() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for name, known in DATA_SETS.items():
        assert f"valuetide replay --preset {name} {known.example}" in result.output


def test_a_dry_run_prints_the_first_events_and_asks_no_broker(shop: Path) -> None:
    result = invoke(shop, *MAP, "--dry-run", "--broker", NOWHERE)
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()  # 2,5 is no number
    assert json.loads(line) | {"event_id": "", "order_id": ""} == {
        "occurred_at": 1_294_099_200,
        "event_id": "",
        "customer_id": "b",
        "order_id": "",
        "kind": "placed",
        "amount": 3.0,
        "currency": "EUR",
    }


def test_a_dry_run_prints_ten_events_or_the_limit() -> None:
    file = lifetimes_data("CDNOW_master.txt")
    shown = invoke(file, "--preset", "cdnow", "--dry-run").stdout.splitlines()
    assert len(shown) == 10
    three = invoke(file, "--preset", "cdnow", "--dry-run", "--limit", 3).stdout.splitlines()
    assert three == shown[:3]


def test_a_mapping_file_does_the_same_as_options(shop: Path, tmp_path: Path) -> None:
    (mapping := tmp_path / "m.toml").write_text(
        'time_format = "%d.%m.%Y"\n[map]\ncustomer_id = "who"\noccurred_at = "day"\n'
        'amount = "total"\norder_id = "@id"\n[set]\nkind = "placed"\ncurrency = "EUR"\n'
    )
    by_file = invoke(shop, "--mapping", mapping, "--dry-run")
    assert by_file.exit_code == 0
    assert by_file.stdout == invoke(shop, *MAP, "--dry-run").stdout


def test_strict_stops_with_the_line(shop: Path) -> None:
    result = invoke(shop, *MAP, "--dry-run", "--strict")
    assert result.exit_code == 1
    assert "line 2: amount: is not a number" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--map", "amount"], "--map amount: must be FIELD="),
        (["--set", "kind=a", "--set", "kind=b"], "--set kind: given twice"),
        (["--map", "customer_id=nobody"], "Columns found: who, day, total"),
        ([], "nothing says what amount, currency, customer_id, kind, occurred_at, order_id are"),
        (["--max-gap", "1"], "--max-gap: only with --speed"),
        (["--preset", "cdnow", "--map", "amount=total"], "a preset has its own mapping"),
        (["--speed", "0"], "--speed"),
        (["--preset", "unknown"], "--preset"),
        (["--encoding", "klingon"], "there is no encoding klingon"),
    ],
)
def test_wrong_usage_is_told_and_exits_2(shop: Path, arguments: list[str], text: str) -> None:
    result = invoke(shop, *arguments, "--broker", NOWHERE)
    assert result.exit_code == 2
    assert text in result.stderr


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    assert invoke(tmp_path / "none.csv").exit_code == 2


def test_a_broker_that_is_away_is_one_line_with_its_address(shop: Path) -> None:
    result = invoke(shop, *MAP, "--broker", NOWHERE)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert NOWHERE in line
    assert "Traceback" not in result.output


def test_a_currency_that_the_settings_do_not_know_is_warned_of(shop: Path) -> None:
    result = invoke(shop, *MAP[:-4], "--currency", "USD", *MAP[-2:], "--broker", NOWHERE)
    assert "no exchange rate for USD" in result.stderr
    assert "no exchange rate" not in invoke(shop, *MAP, "--broker", NOWHERE).stderr
