"""Messages about alerts are JSON that everybody reads."""

from typing import Any, cast

import pytest

from tests.support.alerts import LEVEL
from valuetide.schemas.alert import Alert
from valuetide.schemas.errors import FaultError
from valuetide.streams.alert_messages import alert_step
from valuetide.streams.alerts import ALERT, parse_alert


def message(**changes: Any) -> Alert:
    return cast("Alert", ALERT.validate_python(LEVEL) | changes)


def test_a_message_is_read_as_it_was_written() -> None:
    assert parse_alert(alert_step(message()).text) == message()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_json_does_not_have_is_never_written(value: float) -> None:
    with pytest.raises(FaultError, match=f"alert {LEVEL['id']} has a figure that is no number"):
        alert_step(message(stake_per_day=value))
