"""The words a shop may use, and what its money is: configuration, not code.

Everything that decides which events are acceptable and how amounts become integers stands here,
so that a shop describes itself once, in one frozen model.
"""

from decimal import Decimal
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from valuetide.schemas.events import (
    MAX_ENTRIES,
    MAX_ID_LENGTH,
    MAX_ITEMS,
    CurrencyCode,
    Identifier,
)

DEFAULT_INTERACTION_KINDS = (
    "visit",
    "view",
    "search",
    "cart",
    "click",
    "open",
    "contact",
    "complaint",
    "referral",
    "exposure",
)
DEFAULT_SIGNALS: dict[str, Literal["engagement", "contact"]] = {
    **dict.fromkeys(("visit", "view", "search", "cart", "click", "open", "referral"), "engagement"),
    **dict.fromkeys(("contact", "complaint"), "contact"),
}
DEFAULT_CHANNELS = ("web", "app", "email", "store", "phone", "social", "marketplace")
DEFAULT_NEEDS = ("price", "quality", "convenience", "service", "novelty", "belonging")


class RfmBands(BaseModel):
    """Where the digits of the RFM code change: four bounds make the digits 1 to 5.

    Recency bounds are days and fall in worth as they grow; frequency bounds are orders and
    monetary bounds are revenue in the base currency, and rise in worth.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recency_days: tuple[float, float, float, float] = (30, 90, 180, 365)
    orders: tuple[float, float, float, float] = (2, 3, 5, 10)
    revenue: tuple[float, float, float, float] = (50, 100, 250, 500)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        for name in ("recency_days", "orders", "revenue"):
            bounds = getattr(self, name)
            if list(bounds) != sorted(set(bounds)):
                raise ValueError(f"{name}: the four bounds must rise")
        return self


class Vocabulary(BaseModel):
    """Kinds, channels, currencies and needs of one shop, and the limits of its events.

    Attributes
    ----------
    base_currency
        Currency of every score.
    minor_digits
        Decimal digits of the base currency: 2 for cents. Sums are kept as integers of that unit.
    exchange_rates
        Units of base currency for one unit of another. A currency that is not listed here sends
        its order to the dead letters.
    max_amount
        Largest amount of one event, in base currency.
    max_items, max_needs, max_attributes
        Entries in the lists and mappings of one event. What the schemas say is the most.
    max_id_length
        Characters in an event's, a customer's or an order's id.
    interaction_kinds
        Kinds of interaction that are accepted. The kinds of orders and of feedback have meanings
        in the code and are fixed.
    signals
        Which kinds of interaction may tell whether a customer is still there: those that come by,
        ``engagement``, and those that turn to the shop with a problem, ``contact``. What they
        tell, and whether they do, is learned. Others, as exposure to a campaign, are no signals.
    channels, needs
        The channels and needs the shop distinguishes. An event that names another one counts all
        the same, its channel or need as ``other``: an order is never lost over a new channel.
    rfm
        Bounds of the RFM digits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_currency: CurrencyCode = "EUR"
    minor_digits: Annotated[int, Field(ge=0, le=4)] = 2
    exchange_rates: dict[CurrencyCode, Annotated[Decimal, Field(gt=0, le=1_000_000)]] = {}
    max_amount: Annotated[float, Field(gt=0, le=1e9)] = 1e7
    max_items: Annotated[int, Field(ge=0, le=MAX_ITEMS)] = MAX_ITEMS
    max_needs: Annotated[int, Field(ge=0, le=MAX_ENTRIES)] = MAX_ENTRIES
    max_attributes: Annotated[int, Field(ge=0, le=MAX_ENTRIES)] = MAX_ENTRIES
    max_id_length: Annotated[int, Field(ge=1, le=MAX_ID_LENGTH)] = MAX_ID_LENGTH
    interaction_kinds: Annotated[tuple[Identifier, ...], Field(min_length=1, max_length=64)] = (
        DEFAULT_INTERACTION_KINDS
    )
    signals: dict[Identifier, Literal["engagement", "contact"]] = DEFAULT_SIGNALS
    channels: Annotated[tuple[Identifier, ...], Field(max_length=64)] = DEFAULT_CHANNELS
    needs: Annotated[tuple[Identifier, ...], Field(max_length=64)] = DEFAULT_NEEDS
    rfm: RfmBands = RfmBands()

    @model_validator(mode="after")
    def _one_rate_for_the_base(self) -> Self:
        if self.exchange_rates.get(self.base_currency, Decimal(1)) != 1:
            raise ValueError(f"exchange_rates: {self.base_currency} is the base, its rate is 1")
        return self

    @model_validator(mode="after")
    def _signals_are_kinds(self) -> Self:
        unknown = sorted(set(self.signals) - set(self.interaction_kinds))
        if "signals" in self.model_fields_set and unknown:
            raise ValueError(f"signals: {unknown[0]} is not among interaction_kinds")
        return self

    @cached_property
    def minor_per_unit(self) -> dict[str, float]:
        """Minor units of the base currency for one unit of each currency that is accepted.

        Notes
        -----
        No cent is lost: an amount with at most ``minor_digits`` decimals is the double nearest to
        an integer multiple of the minor unit. With amounts up to 1e9 and four digits that
        integer is below 1e13, where doubles are spaced 0.002 apart, so the product rounds to the
        integer itself. From there on every sum is an integer in 64 bits, which holds 10 million
        orders of the largest amount many times over. A converted amount is rounded once, to the
        nearest minor unit, when it comes in.
        """
        scale = 10.0**self.minor_digits
        rates = {currency: float(rate) * scale for currency, rate in self.exchange_rates.items()}
        return rates | {self.base_currency: scale}
