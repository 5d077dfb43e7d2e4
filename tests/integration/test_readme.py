"""The README's code does what the README says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pipeline import Pipeline, cli, environment_of, make_settings, wait_until
from tests.support.servers import make_broker
from valuetide.schemas.topics import TopicNames
from valuetide.streams.local import prepare

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

README = Path(__file__).resolve().parents[2] / "README.md"


def sending_code() -> str:
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.M | re.S)
    (code,) = (str(block) for block in blocks if "KafkaProducer" in block)
    return code


def test_the_code_that_sends_ones_own_events_sends_them(
    redis_url: str, fresh_prefix: str, tmp_path: Path
) -> None:
    """With the names that topics have by default, and therefore on a broker of its own."""
    code = sending_code()
    (customer,) = re.findall(r'"customer_id": "([^"]+)"', code)
    file = tmp_path / "send.py"
    file.write_text(code)
    with make_broker() as broker:
        settings = make_settings(broker.address, redis_url, fresh_prefix, topics=TopicNames())
        prepare(settings)
        pipeline = Pipeline(settings)
        with pipeline.worker():
            done = subprocess.run(
                [sys.executable, file],
                env={"PATH": os.environ["PATH"], "VALUETIDE_BROKER": broker.address},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            wait_until(lambda: bool(pipeline.progress()), "it is accounted for")
    score = pipeline.state()[customer]
    assert (score["orders"], score["version"]) == (1, 1)
    assert score["profit"] > 0
    assert cli(environment_of(settings), "customer", customer).returncode == 0
