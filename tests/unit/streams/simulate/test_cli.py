"""The command, as far as it goes without a broker."""

import json
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from valuetide.streams.cli.simulate import simulate
from valuetide.streams.simulate.scenario import Scenario
from valuetide.streams.simulate.shifts import Campaign, Shift
from valuetide.streams.simulate.shop import Shop

NOWHERE = "127.0.0.1:9"
FEW = ("--customers", "60", "--days", "20", "--seed", "4")


def invoke(*arguments: object, **environment: str) -> Result:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(simulate, words, env=environment)


def test_the_shifts_and_campaigns_in_the_help_are_ones() -> None:
    text = invoke("--help").output
    shifts = re.findall(r"--(?:shift|outage) (\S+@\d\S+)", text)
    assert [Shift.model_validate(shift).kind for shift in shifts] == ["level", "level", "outage"]
    (campaign,) = re.findall(r"--campaign (\S+@\d\S+)", text)
    assert Campaign.model_validate(campaign).lift == 0.15


def test_the_command_of_the_readme_is_one() -> None:
    text = (Path(__file__).parents[4] / "README.md").read_text("utf-8").replace("\\\n", "")
    (line,) = re.findall(r"^valuetide simulate (.*)$", text, re.M)
    words = shlex.split(line)
    place = words.index("--truth")
    result = invoke(*words[:place], *words[place + 2 :], "--dry-run")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 10


def test_a_dry_run_prints_the_first_events_writes_the_truth_and_asks_no_broker(
    tmp_path: Path,
) -> None:
    file = tmp_path / "truth.json"
    result = invoke(*FEW, "--dry-run", "--truth", file, "--broker", NOWHERE)
    assert result.exit_code == 0, result.output
    shop = Shop(Scenario(customers=60, days=20, seed=4))
    sent = [f"{role:<12}  {event.value.decode()}" for role, event in shop.events()]
    assert result.stdout.splitlines() == sent[:10]
    truth = json.loads(file.read_text())
    assert truth == json.loads(json.dumps(shop.truth()))
    assert truth["complete"]
    assert list(tmp_path.iterdir()) == [file]


def test_options_reach_the_scenario(tmp_path: Path) -> None:
    (toml := tmp_path / "shop.toml").write_text('seed = 9\nshifts = ["level:-10%@3"]\n')
    file = tmp_path / "truth.json"
    result = invoke(
        *FEW, "--scenario", toml, "--dry-run", "--truth", file, "--start", "2025-02-03",
        "--shift", "level:+10%@4,channel=web", "--outage", "orders@2+6h", "--campaign", "a:5%@1+3",
        "--duplicates", "3%", "--late", "0.04", "--bad", "1%", "--name", "mine",
        VALUETIDE_VOCABULARY__BASE_CURRENCY="SEK",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    scenario = Scenario.model_validate(json.loads(file.read_text())["scenario"])
    assert (scenario.seed, scenario.customers, scenario.days) == (4, 60, 20)
    assert [shift.kind for shift in scenario.shifts] == ["level", "level", "outage"]
    assert (scenario.noise.duplicates, scenario.noise.late, scenario.noise.bad) == (
        0.03,
        0.04,
        0.01,
    )
    assert (scenario.name, scenario.currency, scenario.campaigns[0].name) == ("mine", "SEK", "a")
    assert scenario.start.isoformat() == "2025-02-03"


def test_until_today_ends_with_yesterday(tmp_path: Path) -> None:
    file = tmp_path / "truth.json"
    before = datetime.now(UTC).date()
    assert invoke(*FEW, "--until-today", "--dry-run", "--truth", file).exit_code == 0
    last = json.loads(file.read_text())["days"]["date"][-1]
    assert last in {
        (day - timedelta(days=1)).isoformat() for day in (before, datetime.now(UTC).date())
    }


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--shift", "jump:3%@4"], "'jump:3%@4' is not like level:-20%@200"),
        (["--shift", "level:3%@400"], "day 400 is after the last day"),
        (["--outage", "orders@3"], "a topic and a length"),
        (["--late", "3"], "3 is no share"),
        (["--bad", "much"], "much is no share"),
        (["--days", "36000"], "workers take no event from the future"),
        (["--until-today", "--start", "2024-01-01"], "not with --start"),
        (["--scenario", "none.toml"], "none.toml: "),
    ],
)
def test_wrong_usage_ends_with_two_and_says_why(arguments: list[str], text: str) -> None:
    result = invoke(*arguments, "--broker", NOWHERE)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())


def test_a_truth_that_cannot_be_written_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "none" / "truth.json"
    result = invoke(*FEW, "--truth", file, "--broker", NOWHERE)
    assert result.exit_code == 1
    assert result.stderr.strip() == f"Error: {file}: cannot be written: No such file or directory"


def test_a_broker_that_is_not_there_is_named_and_the_position_kept(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    result = invoke(*FEW, "--resume", state, "--broker", NOWHERE)
    assert result.exit_code == 1
    assert f"{NOWHERE} cannot be reached" in result.stderr
    assert json.loads(state.read_text())["acknowledged"] == 0


def test_a_position_of_another_scenario_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    invoke(*FEW, "--resume", state, "--broker", NOWHERE)
    result = invoke(*FEW, "--bad", "1%", "--resume", state, "--broker", NOWHERE)
    assert result.exit_code == 1
    assert "other options" in result.stderr


def test_what_these_settings_would_not_accept_is_warned_of(tmp_path: Path) -> None:
    (toml := tmp_path / "shop.toml").write_text('currency = "SEK"\n')
    text = invoke(*FEW, "--scenario", toml, "--dry-run").stderr
    assert text.startswith("warning: these settings lack an exchange rate for SEK; a worker")
    assert not invoke(*FEW, "--dry-run").stderr
