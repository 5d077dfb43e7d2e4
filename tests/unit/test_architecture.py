"""Imports point one way: schemas <- scoring <- streams <- dashboard; scoring does no I/O.

Every module is parsed, none is imported, so a violation inside a function is found as well.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "valuetide"


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ALLOWED = {
    "": ("valuetide.streams.cli",),  # __main__ alone
    "schemas": ("valuetide.schemas",),
    "scoring": ("valuetide.schemas", "valuetide.scoring"),
    "streams": (
        "valuetide.__version__",
        "valuetide.schemas",
        "valuetide.scoring",
        "valuetide.streams",
    ),
    "dashboard": ("valuetide.schemas", "valuetide.streams.reader", "valuetide.dashboard"),
}
"""What of ours the modules of each part may import."""

IMPURE = words(
    "aiohttp aiokafka asyncio builtins concurrent ctypes faust fcntl ftplib getpass glob http "
    "importlib io kafka logging mmap multiprocessing nicegui os pathlib platform "
    "prometheus_client pydantic_settings random redis requests sched secrets select selectors "
    "shutil signal smtplib socket socketserver sqlite3 ssl structlog subprocess sys tempfile "
    "threading time urllib uuid valkey zoneinfo"
)
"""Packages that reach the world outside: files, network, clock, environment, chance, threads."""

IMPURE_CALLS = words(
    "open input print exec eval compile __import__ globals "
    "datetime.now datetime.utcnow datetime.today date.today "
    "datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today datetime.date.today "
    "np.load np.save np.savez np.fromfile np.loadtxt np.memmap"
)
UNSEEDED = words(
    "np.random.default_rng numpy.random.default_rng default_rng np.random.PCG64 "
    "np.random.SeedSequence np.random.Generator"
)
"""Sources of chance that take a seed; without an argument they take one from the machine."""


def module_name(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.Module, file: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Give line and full name of everything that is imported, relative forms resolved.

    ``from a import b`` gives ``a.b``: b may be a module.
    """
    here = module_name(file, package).split(".")
    parent = here if file.name == "__init__.py" else here[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parent[: len(parent) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{stem}.{name.name}") for name in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def direction_violations(package: Path) -> list[str]:
    """Give every import that points the wrong way, as file, line and name."""
    found = []
    for file in sorted(package.rglob("*.py")):
        relative = file.relative_to(package)
        part = relative.parts[0] if len(relative.parts) > 1 else ""
        allowed = ALLOWED.get(part, ())
        for line, name in imported(ast.parse(file.read_text("utf-8")), file, package):
            if within(name, package.name) and not any(within(name, one) for one in allowed):
                found.append(f"{relative}:{line} imports {name}")
    return found


def impurities(package: Path) -> list[str]:
    """Give everything in scoring/ that reaches outside or keeps global state."""
    found = []
    for file in sorted((package / "scoring").rglob("*.py")):
        relative = file.relative_to(package)
        tree = ast.parse(file.read_text("utf-8"))
        for line, name in imported(tree, file, package):
            if name.split(".")[0] in IMPURE or within(name, "numpy.random.mtrand"):
                found.append(f"{relative}:{line} imports {name}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                found += [f"{relative}:{node.lineno} calls {name}" for name in impure_call(node)]
            elif isinstance(node, ast.Global):
                found.append(f"{relative}:{node.lineno} keeps global state")
    return found


def impure_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = bool(call.args or call.keywords)
    legacy = re.fullmatch(r"(np|numpy)\.random\.\w+", name) and name not in UNSEEDED
    if name in IMPURE_CALLS or legacy or (name in UNSEEDED and not given):
        yield name


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Give an empty package of our shape."""
    package = tmp_path / "valuetide"
    for part in ("", "schemas", "scoring", "streams", "dashboard"):
        (package / part).mkdir()
        (package / part / "__init__.py").write_text("")
    return package


def test_imports_point_one_way() -> None:
    assert direction_violations(PACKAGE) == []


def test_scoring_reaches_nothing_outside() -> None:
    assert impurities(PACKAGE) == []


def test_every_part_is_known() -> None:
    parts = {p.name for p in PACKAGE.iterdir() if p.is_dir() and any(p.rglob("*.py"))}
    assert parts <= ALLOWED.keys()
    assert {"schemas", "scoring", "streams"} <= parts


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("schemas/a.py", "import valuetide.scoring"),
        ("schemas/a.py", "from valuetide import streams"),
        ("schemas/a.py", "from .. import scoring"),
        ("schemas/a.py", "from ..scoring.fold import fold"),
        ("schemas/__init__.py", "from ..streams import app"),
        ("schemas/a.py", "import valuetide"),
        ("scoring/a.py", "from valuetide.streams.settings import Settings"),
        ("scoring/a.py", "def f():\n    from valuetide.streams import app"),
        ("scoring/deep/a.py", "from ...streams import app"),
        ("scoring/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
         "    import valuetide.streams.app"),
        ("streams/a.py", "import valuetide.dashboard.pages"),
        ("dashboard/a.py", "from valuetide.streams.store import Store"),
        ("dashboard/a.py", "from valuetide.scoring import fold"),
        ("dashboard/a.py", "from valuetide.streams.readers import Reader"),
        ("__init__.py", "from valuetide.schemas import events"),
    ],
)  # fmt: skip
def test_a_planted_import_the_wrong_way_is_caught(planted: Path, file: str, text: str) -> None:
    (planted / file).parent.mkdir(exist_ok=True)
    (planted / file).write_text(text)
    assert len(direction_violations(planted)) == 1


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("schemas/a.py", "from valuetide.schemas.events import Order\nfrom . import topics"),
        ("scoring/a.py", "from ..schemas import events\nfrom .state import State"),
        ("streams/a.py", "from valuetide.scoring import fold\nimport valuetide.schemas.events"),
        ("dashboard/a.py", "from valuetide.streams.reader import Reader"),
        ("dashboard/a.py", "from valuetide.streams import reader"),
        ("__main__.py", "from valuetide.streams.cli import main"),
        ("schemas/a.py", "import valuetide_tools"),
    ],
)
def test_an_import_the_right_way_is_let_through(planted: Path, file: str, text: str) -> None:
    (planted / file).write_text(text)
    assert direction_violations(planted) == []


@pytest.mark.parametrize(
    "text",
    [
        "import redis",
        "import redis.asyncio as r",
        "from aiokafka import AIOKafkaConsumer",
        "import faust",
        "from kafka.admin import KafkaAdminClient",
        "import os",
        "from os import environ",
        "def f():\n    import time",
        "import socket",
        "import asyncio",
        "import random",
        "from pathlib import Path",
        "from datetime import datetime\nx = datetime.now()",
        "import datetime\nx = datetime.datetime.now(datetime.UTC)",
        "import numpy as np\ng = np.random.default_rng()",
        "import numpy as np\nx = np.random.normal(0, 1)",
        "import numpy as np\nnp.random.seed(1)",
        "def f():\n    return open('x')",
        "x = 0\ndef f():\n    global x\n    x = 1",
    ],
)
def test_a_planted_impurity_in_scoring_is_caught(planted: Path, text: str) -> None:
    (planted / "scoring" / "a.py").write_text(text)
    assert len(impurities(planted)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "import math\nimport numpy as np\nfrom scipy.special import hyp2f1",
        "import numpy as np\ndef f(seed: int): return np.random.default_rng(seed).normal()",
        "import numpy as np\ndef f(g: np.random.Generator): return g.normal()",
        "from datetime import UTC, datetime\nx = datetime.fromtimestamp(0, UTC)",
    ],
)
def test_pure_mathematics_is_let_through(planted: Path, text: str) -> None:
    (planted / "scoring" / "a.py").write_text(text)
    assert impurities(planted) == []
