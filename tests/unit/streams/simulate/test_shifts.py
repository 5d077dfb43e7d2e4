from typing import Any

import pytest
from pydantic import ValidationError

from valuetide.streams.simulate.shifts import Campaign, Shift


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("level:-20%@200", {"kind": "level", "size": -0.2, "start_day": 200}),
        (
            "level:-30%@250+14,channel=web",
            {"kind": "level", "size": -0.3, "start_day": 250, "lasts_days": 14, "channel": "web"},
        ),
        (
            "slope:40%@100+60d,source=social,metric=amount",
            {"kind": "slope", "size": 0.4, "start_day": 100, "lasts_days": 60, "source": "social",
             "metric": "amount"},
        ),
        ("variance:+100%@150", {"kind": "variance", "size": 1.0, "start_day": 150}),
        (
            "outage:orders@300.5+6h",
            {"kind": "outage", "topic": "orders", "start_day": 300.5, "lasts_days": 0.25},
        ),
        (
            "feedback@3+2",
            {"kind": "outage", "topic": "feedback", "start_day": 3, "lasts_days": 2},
        ),
    ],
)  # fmt: skip
def test_a_text_says_the_same_as_its_fields(text: str, fields: dict[str, Any]) -> None:
    assert Shift.model_validate(text) == Shift.model_validate(fields)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not like"),
        ("jump:-20%@200", "is not like"),
        ("level:-20@200", "is not like"),
        ("level:-20%", "is not like"),
        ("level:-20%@200,colour=red", "what follows a comma"),
        ("level:-20%@200,channel=", "what follows a comma"),
        ("level:0%@200", "must not be 0"),
        ("level:-120%@200", "more than 100 %"),
        ("level:-20%@200.5", "whole days"),
        ("level:-20%@200+6h", "whole days"),
        ("slope:-20%@200", "a slope has a length"),
        ("variance:50%@200,metric=amount", "of the metric orders"),
        ("orders@300", "a topic and a length"),
        ("scores@300+6h", "'orders', 'interactions' or 'feedback'"),
        ("level:-20%@200,metric=colour", "metric"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Shift.model_validate(text)


def test_an_outage_has_neither_size_nor_scope() -> None:
    fields = {"kind": "outage", "topic": "orders", "start_day": 1, "lasts_days": 1}
    assert Shift.model_validate(fields).end_day == 2
    with pytest.raises(ValidationError, match="of a whole topic"):
        Shift.model_validate({**fields, "channel": "web"})
    with pytest.raises(ValidationError, match="only of an outage"):
        Shift.model_validate({**fields, "kind": "level", "size": 1})


def test_satisfaction_may_fall_by_more_than_one_standard_deviation() -> None:
    assert Shift.model_validate("level:-150%@9,metric=satisfaction").size == -1.5


def test_a_campaign_is_read_from_a_text() -> None:
    want = Campaign(name="spring", start_day=120, days=21, lift=0.15)
    assert Campaign.model_validate("spring:+15%@120+21") == want
    assert Campaign.model_validate("spring:+15%@120").days == 14
    with pytest.raises(ValidationError, match="is not like"):
        Campaign.model_validate("spring@120")
    with pytest.raises(ValidationError, match="days"):
        Campaign.model_validate("spring:+15%@120+6h")
