"""The folder of real data that lies beside the checkout; it is no part of the project."""

import os
from pathlib import Path

import pytest

VARIABLE = "VALUETIDE_SHARED_DATA"
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"


def shared_data(name: str) -> Path:
    """Give a file of the shared data; without it skip the test, but fail where CI is set."""
    path = Path(os.environ.get(VARIABLE) or BESIDE) / name
    if path.exists():
        return path
    reason = f"there is no {path}; {VARIABLE} names the folder of the shared data"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def lifetimes_data(name: str) -> Path:
    """Give a data file of the installed package lifetimes, without importing its code."""
    from importlib.util import find_spec

    spec = find_spec("lifetimes")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("datasets") / name
