from datetime import date
from pathlib import Path
from typing import Any

import pytest

from valuetide.streams.simulate.errors import ScenarioError
from valuetide.streams.simulate.scenario import Scenario, make_scenario

FILE = """
customers = 500
seed = 4
shifts = ["level:-20%@20", { kind = "variance", size = 0.5, start_day = 30 }]

[channels]
web = 3
kiosk = 1

[noise]
late = 0.5
bad = 0.25

[season.holidays.fair]
dates = ["05-01", "2024-06-03"]
factor = 3.0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (path := tmp_path / "scenario.toml").write_text(FILE)
    return path


def test_options_win_over_the_file_and_shifts_are_added(file: Path) -> None:
    given = {"seed": 5, "noise": {"late": 0.0}, "shifts": ["level:-30%@25,channel=kiosk"]}
    scenario = make_scenario(file, given)
    assert (scenario.customers, scenario.seed) == (500, 5)
    assert (scenario.noise.late, scenario.noise.bad) == (0.0, 0.25)
    assert [shift.size for shift in scenario.shifts] == [-0.2, 0.5, -0.3]
    assert list(scenario.channels) == ["web", "kiosk"]


def test_holidays_are_in_the_calendar_by_their_dates(file: Path) -> None:
    calendar = make_scenario(file, {"days": 300, "warm_up_days": 250}).calendar()
    epoch = date(1970, 1, 1)
    named = {date.fromordinal(day + epoch.toordinal()) for day in calendar.holidays}
    assert named == {date(2024, 5, 1), date(2024, 6, 3)} | {date(2023, 5, 1)}
    assert calendar.names == ("fair",)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"customers": 0}, "customers: Input should be greater"),
        ({"colour": 1}, "colour: Extra inputs"),
        ({"shifts": ["level:-20%@900"]}, "day 900 is after the last day"),
        ({"shifts": ["level:-20%@9,channel=kiosk"]}, "kiosk is none of web, app"),
        ({"shifts": ["level:-20%@9,source=moon"]}, "moon is none of search"),
        ({"campaigns": ["a:1%@1", "a:1%@2"]}, "a name of its own"),
        ({"campaigns": ["a:1%@400"]}, "a starts after the last day"),
        ({"channels": {"web": 0}}, "channels: at least one weight"),
        ({"spend": {"p": 6, "q": 1, "gamma": 15}}, "q: is above 1"),
        ({"purchases": {"r": 0, "alpha": 5, "a": 1, "b": 2}}, "parameters are 0.001"),
        ({"season": {"hours": [0] * 24}}, "season: hours: at least one weight"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ScenarioError, match=text):
        make_scenario(None, fields)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"none\.toml: .*No such file"):
        make_scenario(tmp_path / "none.toml")
    (broken := tmp_path / "broken.toml").write_text("customers =")
    with pytest.raises(ScenarioError, match=r"broken\.toml: Invalid value"):
        make_scenario(broken)


def test_ids_begin_with_the_name_or_tell_scenarios_apart() -> None:
    one, same, other = Scenario(seed=1), Scenario(seed=1), Scenario(seed=1, days=9)
    assert one.prefix == same.prefix != other.prefix
    assert Scenario(name="mine").prefix == "mine"
