"""docs/security.md names the settings of all doors, and none that is not there."""

import re
from pathlib import Path

from valuetide.schemas.topics import TopicNames
from valuetide.streams.settings import Settings

TEXT = (Path(__file__).parents[2] / "docs" / "security.md").read_text("utf-8")
DOORS = re.compile(r"^(broker_|redis_|http_)")


def test_every_setting_of_a_door_is_there() -> None:
    named = set(re.findall(r"`([a-z_]+)`", TEXT))
    doors = {name for name in Settings.model_fields if DOORS.match(name)}
    assert doors <= named
    assert {name for name in named if DOORS.match(name)} <= doors


def test_environment_variables_are_settings() -> None:
    for name in re.findall(r"VALUETIDE_([A-Z_]+)", TEXT):
        assert name.lower() in Settings.model_fields, name


def test_every_topic_has_its_rights() -> None:
    assert set(re.findall(r"--topic (\S+)", TEXT)) == set(TopicNames().model_dump().values())
