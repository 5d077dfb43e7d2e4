"""What a webhook's body says: generic JSON, Slack's, or that of Alertmanager's API v2.

Who a customer is goes to a receiver only where its hook says so. Elsewhere the sentence begins
without the name.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from valuetide.schemas.alert import Alert
from valuetide.streams.alerts import alert_as_json
from valuetide.streams.webhooks.hook import Webhook

HOLDS_RESENDS: Final = 4
"""Alertmanager takes an alert for resolved when it was not told of it for so many intervals."""

TITLES: Final = {
    "fired": "Alert",
    "back": "Near normal again",
    "again": "Alert, again",
    "resolved": "Resolved",
    "accepted": "Resolved",
    "reminder": "Still there, and no longer acknowledged",
}


def body_of(hook: Webhook, alert: Alert, now: datetime) -> bytes:
    """Give the body for a step, in the hook's form.

    Parameters
    ----------
    hook
        Its form, and whether it may know customers.
    alert
        The step.
    now
        The moment of delivery, UTC.
    """
    if hook.format == "slack":
        return _json(_slack(hook, alert))
    if hook.format == "alertmanager":
        return alertmanager_body(hook, [alert], now)
    return _json(_generic(hook, alert))


def alertmanager_body(hook: Webhook, alerts: Sequence[Alert], now: datetime) -> bytes:
    """Give the body of Alertmanager's POST /api/v2/alerts.

    Labels say which alert it is, and are few; what changes while it lasts, and who a customer is,
    are annotations. ``fingerprint`` keeps alerts about different customers apart.
    """
    return _json([_prometheus(hook, alert, now) for alert in alerts])


def sentence_of(hook: Webhook, alert: Alert) -> str:
    """Give the alert's sentence, or one that does not say which customer it is about."""
    if alert["customer_id"] is None or hook.customer_ids:
        return alert["sentence"]
    # The name stands at the beginning and nowhere else: see ``customer_alert_steps``. What another
    # release wrote may differ.
    _, name, said = alert["sentence"].partition(f"Customer {alert['customer_id']} ")
    return f"A customer {said}" if name else f"A customer: {alert['rule'].replace('_', ' ')}."


def _generic(hook: Webhook, alert: Alert) -> dict[str, Any]:
    data = alert_as_json(alert) | {"sentence": sentence_of(hook, alert)}
    if not hook.customer_ids:
        data["customer_id"] = None
    return {"type": f"alert.{alert['reason']}", "timestamp": data["at"], "data": data}


def _slack(hook: Webhook, alert: Alert) -> dict[str, Any]:
    facts = [
        f"since {alert['since']:%Y-%m-%d %H:%M} UTC",
        f"`valuetide alerts show {alert['fingerprint']}`",
    ]
    if alert["customer_id"] is not None and alert["stake_per_day"] >= 1.0:
        # Of series the sentence says it.
        facts.insert(0, f"{alert['stake_per_day']:,.0f} {alert['currency']} a day at stake")
    title = TITLES[alert["reason"]]
    return {"text": f"*{title}:* {_inert(sentence_of(hook, alert))}\n{_inert(' · '.join(facts))}"}


def _prometheus(hook: Webhook, alert: Alert, now: datetime) -> dict[str, Any]:
    words = alert["rule"].split("_")
    segment = f"{alert['dimension']}={alert['element']}" if alert["dimension"] else "all"
    if alert["state"] == "resolved":
        # It must lie in the past, or Alertmanager takes the alert for one that goes on.
        end = min(max(alert["at"], alert["since"]), now)
    else:
        end = now + timedelta(seconds=HOLDS_RESENDS * hook.resend_seconds)
    annotations = {
        "summary": sentence_of(hook, alert),
        "expected": f"{alert['expected']:.6g}",
        "actual": f"{alert['actual']:.6g}",
        "unit": alert["unit"],
        "stake_per_day": f"{alert['stake_per_day']:.2f} {alert['currency']}",
        "causes": ", ".join(f"{one['dimension']}={one['element']}" for one in alert["causes"]),
    }
    if hook.customer_ids and alert["customer_id"] is not None:
        annotations["customer_id"] = alert["customer_id"]
    return {
        "labels": {
            "alertname": "Valuetide" + "".join(map(str.capitalize, words)),
            "rule": alert["rule"],
            "metric": alert["metric"],
            "segment": segment,
            "direction": alert["direction"],
            "fingerprint": alert["fingerprint"],
        },
        "annotations": {name: text for name, text in annotations.items() if text},
        "startsAt": _rfc3339(min(alert["since"], end)),
        "endsAt": _rfc3339(end),
    }


def _inert(text: str) -> str:
    """Give text that mentions nobody and links nowhere, whatever segments are called."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Slack mentions by <!here>, others by @here: a space without width breaks that.
    return escaped.replace("@", "@\u200b")


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
