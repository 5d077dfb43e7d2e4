"""The examples in the docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

from valuetide import scoring

OURS = (
    "arrays",
    "current_value",
    "customer_alerts",
    "customers",
    "decay",
    "fold",
    "ledger",
    "packed",
    "settle",
    "signals",
)


@pytest.mark.parametrize("name", OURS)
def test_examples(name: str) -> None:
    assert name in {module.name for module in pkgutil.iter_modules(scoring.__path__)}
    assert doctest.testmod(importlib.import_module(f"valuetide.scoring.{name}")).failed == 0
