"""The demo: right on the whole of CDNOW, and able to fail."""

import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis

from tests.support.pipeline import cli, environment_of
from tests.support.shared_data import lifetimes_data
from valuetide.streams.cli import cli as command
from valuetide.streams.demo import run as demo
from valuetide.streams.local import local_settings
from valuetide.streams.partitioner import partition_of
from valuetide.streams.reader import Reader
from valuetide.streams.settings import Settings
from valuetide.streams.store.redis import customer_key, months_key

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]

FEW_LINES = 400


def bare_environment() -> dict[str, str]:
    given = environment_of(Settings())
    return {name: value for name, value in given.items() if not name.startswith("VALUETIDE_")}


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    done = cli(bare_environment(), "demo", "--json", seconds=150)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_the_demo_finds_all_of_cdnow_right(whole: dict[str, Any]) -> None:
    result = whole
    assert result["events"] == 69_659
    assert result["customers"] == result["customers_checked"] == 23_570
    assert (result["dead_letters"], result["duplicates"], result["differences"]) == (0, 0, 0)
    assert result["totals"]["revenue"] == 2_500_315.63
    assert sum(month["orders"] for month in result["months"].values()) == 69_659
    assert min(result["events_per_second"], result["redis_bytes_per_customer"]) > 0
    assert result["worker_cpu_us_per_event"] > 0
    assert list(result["equity"]) == [
        "1997-04-01", "1997-07-01", "1997-10-01", "1998-01-01", "1998-04-01", "1998-07-01",
    ]  # fmt: skip
    assert result["equity"]["1998-07-01"]["clv_273d"] == pytest.approx(
        result["model"]["equity"]["clv_273d"], abs=0.01
    )


def test_the_demo_foresees_at_week_39_what_comes(whole: dict[str, Any]) -> None:
    deciles = whole["foreseen"]
    assert sum(one["customers"] for one in deciles) == 23_570
    # Days with an order from 1997-10-01 on, counted with awk.
    assert sum(one["realised"] for one in deciles) == 19_684
    predicted = [one["predicted"] for one in deciles]
    assert predicted == sorted(predicted)
    # Batch MBG/NBD is as far off: the shop sold more after the freeze than before.
    assert 14_000 < sum(predicted) < 19_684
    assert deciles[-1]["realised"] > 8_000


def test_the_demo_fails_where_anything_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Behind the worker's back: a score, a whole customer and a month are altered.

    Without a sweep, which would write the true ones again before they are looked at.
    """
    lines = lifetimes_data("CDNOW_master.txt").read_text().splitlines()[: FEW_LINES + 1]
    file = tmp_path / "CDNOW_master.txt"
    file.write_text("\n".join(lines) + "\n")
    orders = Counter(line.split()[0] for line in lines[1:])
    altered, gone, *_ = [who for who, count in orders.items() if count > 1]
    wait = Reader.wait_for_positions

    async def wait_and_tamper(
        self: Reader, positions: Mapping[tuple[str, int], int], timeout_seconds: float
    ) -> bool:
        made = await wait(self, dict(positions), timeout_seconds)
        settings = self._settings

        def key(customer: str) -> str:
            partition = partition_of(customer, settings.partitions)
            return customer_key(settings.key_prefix, partition, customer)

        with Redis.from_url(settings.redis_url.get_secret_value()) as client:
            client.hincrbyfloat(key(altered), "revenue", 0.01)
            client.delete(key(gone))
            client.delete(months_key(settings.key_prefix, 0))
        return made

    monkeypatch.setattr(demo, "cdnow_file", lambda: file)
    monkeypatch.setattr(demo, "local_settings", partial(local_settings, refresh_seconds=0))
    monkeypatch.setattr(Reader, "wait_for_positions", wait_and_tamper)
    result = CliRunner().invoke(command, ["demo", "--json"])
    assert result.exit_code == 1
    assert f"differs: {altered}: revenue" in result.stderr
    assert f"differs: {gone}: missing" in result.stderr
    assert ": monthly sums" in result.stderr
    assert "differences from the batch program" in result.stderr.splitlines()[-1]
    summary = json.loads(result.stdout)
    assert summary["differences"] >= 3
    assert summary["events"] == FEW_LINES
