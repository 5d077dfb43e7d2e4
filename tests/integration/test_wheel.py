"""The wheel: it installs and runs where there is no checkout."""

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(180)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # Where the build tool is there already it is taken; else pip fetches it.
    isolation = ["--no-isolation"] if find_spec("hatchling") else []
    build = (sys.executable, "-m", "build", "--wheel")
    run(*build, *isolation, "--outdir", folder, ROOT, cwd=folder)
    (made,) = folder.glob("valuetide-*.whl")
    return made


def test_what_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        text = archive.read(entry_points).decode()
    assert {"valuetide/py.typed", "valuetide/streams/store/commit.lua"} <= names
    assert "valuetide/streams/guard.py" in names
    assert "[faust.transports]\nvaluetide = valuetide.streams.transport:Transport" in text
    assert "[console_scripts]\nvaluetide = valuetide.streams.cli:main" in text
    packages = {name.split("/")[0] for name in names}
    assert len(packages) == 2, "the package and its description, no tests"
    source = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "valuetide").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert source <= names


def test_it_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own; what it depends on is lent by the one that tests run in."""
    target = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", "--target", target, wheel, cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    lent = [path for path in sys.path if path.endswith("site-packages")]
    # -S: no .pth file, and so no editable install, has a say.
    paths = os.pathsep.join((str(target), *lent))
    python = (sys.executable, "-S")
    where = "import valuetide; print(valuetide.__file__)"
    found = run(*python, "-c", where, cwd=elsewhere, PYTHONPATH=paths)
    assert Path(found.strip()).is_relative_to(target)

    command = (*python, target / "bin" / "valuetide")
    version = run(*command, "--version", cwd=elsewhere, PYTHONPATH=paths)
    assert version == f"valuetide, version {wheel.name.split('-')[1]}\n"
    usage = run(*command, "topics", "--help", cwd=elsewhere, PYTHONPATH=paths)
    assert usage.startswith("Usage: valuetide topics [OPTIONS]")
    imports = (
        "from importlib.metadata import entry_points as e; import valuetide.streams.worker as w;"
        "print(next(iter(e(group='faust.transports', name='valuetide'))).load().__module__)"
    )
    module = run(*python, "-c", imports, cwd=elsewhere, PYTHONPATH=paths)
    assert module == "valuetide.streams.transport\n"
