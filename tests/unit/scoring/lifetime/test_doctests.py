"""The examples in the docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

from valuetide.scoring import lifetime


@pytest.mark.parametrize(
    "name", [module.name for module in pkgutil.iter_modules(lifetime.__path__)]
)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"valuetide.scoring.lifetime.{name}")
    assert doctest.testmod(module).failed == 0
