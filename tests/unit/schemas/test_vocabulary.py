"""The vocabulary: no cent is lost, and a wrong word is refused by its field's name."""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from valuetide.schemas.events import Amount
from valuetide.schemas.vocabulary import RfmBands, Vocabulary

AMOUNT: TypeAdapter[float] = TypeAdapter(Amount)
LARGEST = 1_000_000_000


def as_text(minor_units: int, digits: int) -> str:
    return format(Decimal(minor_units).scaleb(-digits), "f")


@st.composite
def amounts(draw: st.DrawFn) -> tuple[str, int]:
    """Draw the text of an amount up to 1e9 and the number of decimals it may have."""
    digits = draw(st.integers(0, 4))
    decimals = draw(st.integers(0, digits))
    return as_text(draw(st.integers(0, LARGEST * 10**decimals)), decimals), digits


@given(amounts())
def test_an_amount_becomes_its_exact_minor_units(amount: tuple[str, int]) -> None:
    text, digits = amount
    vocabulary = Vocabulary(minor_digits=digits, max_amount=LARGEST)
    number = AMOUNT.validate_json(text)
    exact = Decimal(text).scaleb(digits)
    assert Decimal(round(number * vocabulary.minor_per_unit["EUR"])) == exact


@pytest.mark.parametrize("digits", range(5))
def test_the_largest_amounts_keep_every_minor_unit(digits: int) -> None:
    """The doubles just below 1e9 are the furthest apart: a million of them, in a row."""
    scale = Vocabulary(minor_digits=digits).minor_per_unit["EUR"]
    exact = LARGEST * 10**digits - np.arange(1_000_000)
    number = exact / scale  # the division rounds to the nearest double, as reading the text does
    assert float(as_text(int(exact[-1]), digits)) == number[-1]
    assert (np.rint(number * scale).astype(np.int64) == exact).all()


def test_ten_million_random_amounts_sum_to_the_exact_decimal() -> None:
    seed = 20_260_314
    generator = np.random.default_rng(seed)
    texts = [as_text(int(m), 2) for m in generator.integers(0, LARGEST * 100, size=20_000)]
    drawn = generator.integers(0, len(texts), size=10_000_000)
    numbers = np.array([AMOUNT.validate_json(text) for text in texts])[drawn]
    scale = Vocabulary(max_amount=LARGEST).minor_per_unit["EUR"]
    total = int(np.rint(numbers * scale).astype(np.int64).sum())
    times = np.bincount(drawn, minlength=len(texts)).tolist()
    exact = sum((Decimal(text) * n for text, n in zip(texts, times, strict=True)), Decimal(0))
    assert Decimal(total).scaleb(-2) == exact, f"seed {seed}"


def test_ten_million_of_the_largest_amount_fit_64_bits() -> None:
    vocabulary = Vocabulary(max_amount=LARGEST)
    largest = round(vocabulary.max_amount * vocabulary.minor_per_unit["EUR"])
    assert 10_000_000 * largest < 2**63


@given(
    st.decimals(Decimal("0.0001"), 1_000_000, places=4),
    st.integers(0, 4),
    st.integers(0, 1_000_000),
)
def test_a_converted_amount_is_off_by_half_a_minor_unit_at_most(
    rate: Decimal, digits: int, units: int
) -> None:
    words = Vocabulary(minor_digits=digits, exchange_rates={"USD": rate})
    exact = units * rate * 10**digits
    rounded = round(units * words.minor_per_unit["USD"])
    # Beyond 2**53 minor units doubles are more than one apart: relative rounding is left.
    assert abs(rounded - exact) <= Decimal("0.5") + abs(exact) * Decimal(2) ** -51


def test_the_base_currency_is_always_accepted() -> None:
    assert Vocabulary().minor_per_unit == {"EUR": 100.0}
    words = Vocabulary(base_currency="JPY", minor_digits=0, exchange_rates={"USD": Decimal(150)})
    assert words.minor_per_unit == {"USD": 150.0, "JPY": 1.0}
    assert Vocabulary(exchange_rates={"EUR": Decimal(1)}).minor_per_unit == {"EUR": 100.0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_currency", "eur"),
        ("base_currency", "EURO"),
        ("minor_digits", -1),
        ("minor_digits", 5),
        ("exchange_rates", {"USD": 0}),
        ("exchange_rates", {"USD": -1}),
        ("exchange_rates", {"USD": "NaN"}),
        ("exchange_rates", {"USD": "Infinity"}),
        ("exchange_rates", {"USD": 1_000_001}),
        ("exchange_rates", {"usd": 1}),
        ("exchange_rates", {"EUR": 2}),
        ("max_amount", 0),
        ("max_amount", 1e10),
        ("max_amount", float("nan")),
        ("interaction_kinds", ()),
        ("interaction_kinds", ("",)),
        ("interaction_kinds", tuple(f"kind {i}" for i in range(65))),
        ("channels", ("c" * 129,)),
        ("needs", tuple(f"need {i}" for i in range(65))),
        ("rfm", {"orders": (2, 3, 5)}),
        ("colours", ("red",)),
    ],
)
def test_a_wrong_vocabulary_is_refused_by_the_fields_name(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as refusal:
        Vocabulary.model_validate({field: value})
    text = str(refusal.value)
    assert field in text


@pytest.mark.parametrize("name", ["recency_days", "orders", "revenue"])
@pytest.mark.parametrize("bounds", [(1, 2, 4, 3), (1, 1, 2, 3)])
def test_rfm_bounds_that_do_not_rise_are_refused(
    name: str, bounds: tuple[float, float, float, float]
) -> None:
    with pytest.raises(ValidationError, match=f"{name}: the four bounds must rise"):
        RfmBands.model_validate({name: bounds})


def test_a_vocabulary_cannot_change_under_the_state_it_made() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Vocabulary(), "minor_digits", 3)  # noqa: B010 - mypy refuses the plain form
