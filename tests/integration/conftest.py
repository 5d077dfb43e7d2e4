"""Fixtures of the tests that run the whole pipeline."""

import pytest

from tests.support.pipeline import Pipeline, make_pipeline


@pytest.fixture
def pipeline(broker: str, redis_url: str, fresh_prefix: str) -> Pipeline:
    """Give topics, group and keys of this test's own; the topics exist."""
    return make_pipeline(broker, redis_url, fresh_prefix)
