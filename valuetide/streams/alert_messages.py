"""From what was found about series and producers to ``alerts`` messages."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from valuetide.schemas.alert import Alert, Cause, Reason, Rule
from valuetide.schemas.errors import FaultError
from valuetide.scoring.series import HOUR_MS, ROLES
from valuetide.scoring.trends.decision import State, Transition, fingerprint
from valuetide.scoring.trends.explanation import Explanation
from valuetide.scoring.trends.metrics import METRICS
from valuetide.scoring.trends.panel import Finding
from valuetide.streams.store import AlertStep

STATES = {
    State.FIRING: "firing",
    State.RECOVERING: "recovering",
    State.NONE: "resolved",
    State.PENDING: "resolved",
}
PREFIXES = {
    "fired": "",
    "back": "Near normal: ",
    "again": "Not back after all: ",
    "resolved": "Back to normal: ",
    "accepted": "Normal from now on: ",
    "reminder": "Still so, and the acknowledgement has expired: ",
}
ENDINGS = ("back", "resolved", "accepted")
OUTAGE_METRIC = "events"
"""Metric of the rule about producers."""


def series_alert(
    found: Finding, point: int, bucket_ms: int, currency: str, points_per_day: int
) -> Alert:
    """Give the message about a series.

    Parameters
    ----------
    found
        What the panel found.
    point, bucket_ms
        Number and length of the bucket that made it.
    currency
        Of money.
    points_per_day
        Of the series.
    """
    metric, (dimension, element) = METRICS[found.metric], found.segment
    noise, reason = found.rule == "variance", found.transition.reason
    explained = Explanation(
        metric=f"noise of {metric.label}" if noise else metric.label,
        segment=f"{dimension} {element}" if dimension else "",
        since=_time(found.transition.since * bucket_ms),
        expected=found.expected,
        actual=found.actual,
        unit=currency if metric.money else "",
        stake_per_day=found.stake,
        currency=currency,
        run_length_days=found.run_length / points_per_day,
        causes=found.causes,
    )
    causes: list[Cause] = [
        {
            "dimension": cause.dimension,
            "element": cause.element,
            "power": cause.power,
            "surprise": cause.surprise,
            "expected": cause.expected,
            "actual": cause.actual,
        }
        for cause in found.causes
    ]
    sentence = explained.ending() if reason in ENDINGS else explained.sentence()
    if found.kin is not None:
        sentence += f" It was told of as a change of {METRICS[found.kin].label}."
    return _message(
        found.rule,
        found.fingerprint,
        found.transition,
        at=_time((point + 1) * bucket_ms),
        since=explained.since,
        metric=found.metric,
        dimension=dimension,
        element=element,
        expected=found.expected,
        actual=found.actual,
        unit=explained.unit,
        stake_per_day=found.stake,
        currency=currency,
        run_length_days=explained.run_length_days,
        causes=causes,
        sentence=PREFIXES[reason] + sentence,
    )


def outage_fingerprint(role: int) -> str:
    """Give the fingerprint of the alert about a producer, by number of its role."""
    return fingerprint("outage", ROLES[role], -1)


def outage_alert(
    step: Transition, topic: str, hour: int, expected: float, events: int, currency: str
) -> Alert:
    """Give the message about a producer.

    Parameters
    ----------
    step
        What became of its alert.
    topic
        That it writes to.
    hour
        That made the step, since 1970.
    expected, events
        Events of that hour.
    currency
        The base currency.
    """
    since = _time(step.since * HOUR_MS)
    text = f"No events on {topic} since {since:%Y-%m-%d %H:%M} UTC, where about {expected:.0f} "
    text += "an hour are expected; figures about value are not judged meanwhile."
    if step.after == State.NONE:
        over = "events come again" if events else "it is taken for switched off"
        text = f"No events came on {topic} from {since:%Y-%m-%d %H:%M} UTC on; {over}."
    return _message(
        "outage",
        outage_fingerprint(step.row),
        step,
        at=_time((hour + 1) * HOUR_MS),
        since=since,
        metric=OUTAGE_METRIC,
        dimension="topic",
        element=topic,
        expected=expected,
        actual=float(events),
        unit="",
        stake_per_day=0.0,
        currency=currency,
        run_length_days=None,
        causes=[],
        sentence=text,
    )


def withdrawn(alert: Alert) -> Alert:
    """Give the last step of an alert that nobody watches any more, since settings have changed."""
    name, since = alert["fingerprint"], str(alert["since"])
    return {
        **alert,
        "id": _id(name, since, "withdrawn"),
        "state": "resolved",
        "reason": "accepted",
        "notify": False,
        "sentence": f"No longer watched, settings have changed. {alert['sentence']}",
    }


def alert_step(alert: Alert) -> AlertStep:
    """Give what the store keeps of a message.

    Raises
    ------
    FaultError
        When a figure is NaN or infinite: JSON has neither, and no reader would take it.
    """
    try:
        text = json.dumps(alert, ensure_ascii=False, default=_text, allow_nan=False)
    except ValueError:
        raise FaultError(
            f"alert {alert['id']} has a figure that is no number; please report this: "
            f"{alert['sentence']}"
        ) from None
    return AlertStep(alert["fingerprint"], text, alert["state"] != "resolved")


def _message(
    rule: Rule,
    name: str,
    step: Transition,
    *,
    at: datetime,
    since: datetime,
    metric: str,
    dimension: str,
    element: str,
    expected: float,
    actual: float,
    unit: str,
    stake_per_day: float,
    currency: str,
    run_length_days: float | None,
    causes: Sequence[Cause],
    sentence: str,
) -> Alert:
    reason: Reason = step.reason  # type: ignore[assignment]
    return {
        # The same step is made again after a crash: its name comes from what it is, not from when.
        "id": _id(name, since.isoformat(), at.isoformat(), reason),
        "fingerprint": name,
        "rule": rule,
        "state": STATES[step.after],  # type: ignore[typeddict-item]
        "reason": reason,
        "notify": step.notify,
        "at": at,
        "since": since,
        "metric": metric,
        "dimension": dimension,
        "element": element,
        "customer_id": None,
        "direction": "down" if step.direction < 0 else "up",
        "expected": expected,
        "actual": actual,
        "change_share": (actual - expected) / expected if expected else 0.0,
        "unit": unit,
        "stake_per_day": stake_per_day,
        "currency": currency,
        "run_length_days": run_length_days,
        "causes": list(causes),
        "sentence": sentence,
    }


def _id(*parts: str) -> str:
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).hexdigest()


def _time(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} has no JSON form")
