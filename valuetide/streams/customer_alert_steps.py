"""Steps in the lives of alerts about customers: when an alert ends, and what each step says."""

import hashlib
from typing import Any, Final, Literal, cast

import msgspec
import numpy as np

from valuetide.schemas.alert import Alert
from valuetide.scoring.arrays import DAY_MS
from valuetide.scoring.lifetime.moved import PARTS
from valuetide.scoring.trends.decision import fingerprint
from valuetide.streams.records import format_times
from valuetide.streams.settings import Settings
from valuetide.streams.store import AlertStep

Rule = Literal["at_risk", "growth", "won_back"]
_SAID: Final[dict[Rule, tuple[str, str]]] = {
    "at_risk": ("is at risk", "is no longer at risk"),
    "growth": ("has grown", "has lost that growth"),
    "won_back": ("is won back", "is lost again"),
}
"""What a sentence says of a customer when an alert fires and when it is resolved."""

_WHY: Final = dict(
    zip(
        PARTS,
        ("orders", "returns", "silence", "what was learned", "interactions", "feedback"),
        strict=True,
    )
)
"""How the parts of a change are called in a sentence."""


class Steps:
    """Makes the steps.

    Parameters
    ----------
    settings
        When an alert is accepted, the horizon of lifetime value, and the currency.
    """

    def __init__(self, settings: Settings) -> None:
        self._accept_ms = settings.customer_alerts.accept_days * DAY_MS
        self._days = settings.horizons_days[-1]
        self._currency = settings.vocabulary.base_currency
        self._scale = 10.0**settings.vocabulary.minor_digits

    def fire(
        self,
        rule: Rule,
        customer: str,
        *,
        since_ms: int,
        now_ms: int,
        before: float,
        now: float,
        part: int,
    ) -> Alert:
        """Give the first step of an alert.

        Parameters
        ----------
        since_ms
            Of the newest order.
        before, now
            Lifetime value that was to be expected, 1 or more, and is; minor units.
        part
            Number of what did most of it, among ``PARTS``.
        """
        down = rule == "at_risk"
        at, since = _times(now_ms, since_ms)
        fields = {
            "fingerprint": fingerprint(rule, customer, -1 if down else 1),
            "rule": rule,
            "state": "firing",
            "reason": "fired",
            "notify": True,
            "at": at,
            "since": since,
            "metric": "clv",
            "dimension": "",
            "element": "",
            "customer_id": customer,
            "direction": "down" if down else "up",
            "expected": before / self._scale,
            "unit": self._currency,
            "currency": self._currency,
            "run_length_days": None,
            "causes": [],
        }
        said = f"Customer {customer} {_SAID[rule][0]}"
        return self._fill(fields, now, said, f", by {_WHY[PARTS[part]]}")

    def end(self, alert: Alert, now: float, now_ms: int) -> Alert | None:
        """Give the last step of an alert that was fired; ``None`` where it goes on.

        Parameters
        ----------
        now
            Lifetime value, minor units; NaN of a customer who has no order any more, and so no
            value to come back to.
        """
        expected, actual = alert["expected"] * self._scale, alert["actual"] * self._scale
        middle = (expected + actual) / 2.0
        begin, over = _SAID[cast("Rule", alert["rule"])]
        # A comparison with NaN is false.
        if now >= middle if actual < expected else now <= middle:
            reason, said = "resolved", over
        elif np.isnan(now) or now_ms - _as_ms(alert["at"]) >= self._accept_ms:
            reason, said = "accepted", f"{begin}, which is the new normal"
        else:
            return None
        change = {
            "state": "resolved",
            "reason": reason,
            # That nothing more happens is nothing to be told of.
            "notify": reason == "resolved",
            "at": _times(now_ms)[0],
        }
        value = 0.0 if np.isnan(now) else now
        return self._fill({**alert, **change}, value, f"Customer {alert['customer_id']} {said}")

    def _fill(self, fields: dict[str, Any], now: float, said: str, why: str = "") -> Alert:
        """Add all that depends on the value now."""
        expected, actual = fields["expected"], now / self._scale
        worth = f"worth {_money(actual)} {self._currency} in the next {self._days} days"
        # The moment is not part of it: what is done again after a crash may be so later.
        content = (fields["fingerprint"], fields["since"], fields["reason"])
        change = {
            "id": hashlib.blake2b("\x1f".join(content).encode(), digest_size=8).hexdigest(),
            "actual": actual,
            "change_share": (actual - expected) / expected,
            "stake_per_day": abs(actual - expected) / self._days,
            "sentence": f"{said}: {worth} instead of {_money(expected)}{why}.",
        }
        return cast("Alert", fields | change)


def as_step(alert: Alert) -> AlertStep:
    """Give a step as it is committed and published."""
    text = msgspec.json.encode(alert).decode()
    return AlertStep(alert["fingerprint"], text, alert["state"] != "resolved")


def _times(*at_ms: int) -> list[str | None]:
    return format_times(np.array(at_ms, np.int64))


def _as_ms(at: object) -> int:
    return int(np.datetime64(str(at).removesuffix("Z"), "ms").astype(np.int64))


def _money(amount: float) -> str:
    """Write an amount for people: whole units, or all digits where it is small."""
    return f"{amount:,.0f}" if abs(amount) >= 10.0 else f"{amount:,.2f}"  # noqa: PLR2004
