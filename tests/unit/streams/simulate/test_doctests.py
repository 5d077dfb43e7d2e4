"""The examples in the docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

from valuetide.streams import simulate


@pytest.mark.parametrize(
    "name", [module.name for module in pkgutil.iter_modules(simulate.__path__)]
)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"valuetide.streams.simulate.{name}")
    assert doctest.testmod(module).failed == 0
