"""What receivers read: the message as it is, Slack's text, Alertmanager's alerts."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.alerts import AT_RISK, LEVEL, alert
from valuetide.schemas.alert import Alert
from valuetide.streams.alerts import parse_alert
from valuetide.streams.webhooks.formats import body_of
from valuetide.streams.webhooks.hook import Webhook
from valuetide.streams.webhooks.signature import delivery_headers

NOW = datetime(2026, 4, 1, 12, tzinfo=UTC)
CUSTOMER = AT_RISK["customer_id"]
FORMATS = ("generic", "slack", "alertmanager")


def parsed(message: dict[str, Any]) -> Alert:
    return parse_alert(json.dumps(message))


def body(message: dict[str, Any], format_: str, **hook: Any) -> Any:
    one = Webhook(name="ops", url="http://h/", format=format_, **hook)
    return json.loads(body_of(one, parsed(message), NOW))


def test_generic_is_an_envelope_around_the_message() -> None:
    assert body(LEVEL, "generic") == {
        "type": "alert.fired",
        "timestamp": LEVEL["at"],
        "data": LEVEL,
    }


@pytest.mark.parametrize("format_", FORMATS)
def test_who_a_customer_is_stays_here_unless_the_hook_says_so(format_: str) -> None:
    text = json.dumps(body(AT_RISK, format_))
    assert CUSTOMER not in text
    assert "A customer is at risk: worth 255 EUR" in text
    other = json.dumps(body(AT_RISK | {"sentence": f"{CUSTOMER} goes."}, format_))
    assert CUSTOMER not in other
    assert "A customer: at risk." in other
    assert CUSTOMER in json.dumps(body(AT_RISK, format_, customer_ids=True))


def test_slack_reads_a_sentence_and_what_to_do_next() -> None:
    text = body(LEVEL, "slack")["text"]
    assert text.startswith(f"*Alert:* {LEVEL['sentence']}\nsince 2026-03-27 00:00 UTC")
    assert "\n1 EUR a day at stake" in body(AT_RISK, "slack", customer_ids=True)["text"]
    assert "`valuetide alerts show a4d1c09be2357f68`" in text


def test_a_segments_name_mentions_nobody_in_slack() -> None:
    text = body(alert(1, sentence="<!channel> <https://evil|here> & @here"), "slack")["text"]
    assert "&lt;!channel&gt; &lt;https://evil|here&gt; &amp; @\u200bhere" in text


def test_alertmanager_is_told_that_it_goes_on_for_a_while() -> None:
    (told,) = body(LEVEL, "alertmanager", resend_seconds=30)
    assert told["labels"] == {
        "alertname": "ValuetideLevel",
        "rule": "level",
        "metric": "revenue",
        "segment": "all",
        "direction": "down",
        "fingerprint": LEVEL["fingerprint"],
    }
    assert told["annotations"]["summary"] == LEVEL["sentence"]
    assert told["annotations"]["causes"] == "channel=web"
    assert (told["startsAt"], told["endsAt"]) == (
        "2026-03-27T00:00:00.000Z",
        "2026-04-01T12:02:00.000Z",
    )


def test_alertmanager_takes_the_end_for_an_end() -> None:
    """Not before the start, which it refuses, nor after now, which it takes for going on."""
    for at, since, ends in (
        ("2026-03-31T00:00:00Z", "2026-03-27T00:00:00Z", "2026-03-31T00:00:00.000Z"),
        ("2026-03-31T00:00:00Z", "2026-03-31T06:00:00Z", "2026-03-31T06:00:00.000Z"),
        ("2026-04-02T00:00:00Z", "2026-03-27T00:00:00Z", "2026-04-01T12:00:00.000Z"),
        ("2026-04-02T00:00:00Z", "2026-04-02T00:00:00Z", "2026-04-01T12:00:00.000Z"),
    ):
        over = alert(2, state="resolved", reason="resolved", at=at, since=since)
        (told,) = body(over, "alertmanager")
        assert told["endsAt"] == ends
        assert told["startsAt"] <= ends


def test_the_labels_of_an_alert_stay_the_same_while_it_lasts() -> None:
    steps = [
        alert(n, state=state, reason=reason, actual=9_000.0 + n, stake_per_day=1.0 + n,
              at=(NOW + timedelta(days=n)).isoformat())
        for n, (state, reason) in enumerate(
            [("firing", "fired"), ("recovering", "back"), ("firing", "again"),
             ("firing", "reminder"), ("resolved", "resolved")]
        )
    ]  # fmt: skip
    labels = [body(step, "alertmanager")[0]["labels"] for step in steps]
    assert labels == labels[:1] * len(steps)


def test_the_segment_is_a_label_and_customers_are_told_apart_without_their_ids() -> None:
    (told,) = body(alert(1, dimension="channel", element="web"), "alertmanager")
    assert told["labels"]["segment"] == "channel=web"
    one, two = (
        body(AT_RISK | {"fingerprint": f"{n:016x}", "customer_id": f"id-{n}"}, "alertmanager",
             customer_ids=True)[0]
        for n in (1, 2)
    )  # fmt: skip
    assert one["labels"] != two["labels"]
    assert "id-" not in json.dumps([one["labels"], two["labels"]])


def test_the_signature_is_that_of_the_reference_implementation() -> None:
    """Made with standardwebhooks 1.1.0 of PyPI from the same id, time, body and key."""
    key = Webhook(
        name="ops", url="http://h/", secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAAA"
    ).signing_key
    body = '{"test": 2432232314, "ü": "漢"}'.encode()
    assert delivery_headers("5b0c7f21d4e98a13", 1_614_265_330, body, key) == {
        "webhook-id": "5b0c7f21d4e98a13",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,Za0bp+U609g/1wKKviyIsRa46r5Bftm8tsRiUZB1Izk=",
    }
