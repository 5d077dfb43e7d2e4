"""An environment of its own for each peer, under build/peers."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "peers"
INSTALL_SECONDS = 900


class NotInstalledError(RuntimeError):
    """An environment could not be made; the text has what the installer said."""


def environment(name: str, requirements: tuple[str, ...]) -> Path:
    """Give the Python of an environment with these packages, made where it is not there yet."""
    mark = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:12]
    folder = FOLDER / f"{name}-{mark}"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", *requirements])
        done.touch()
    return python


def _run(command: list[str]) -> None:
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if result.returncode:
        raise NotInstalledError(f"{' '.join(command)}\n{result.stdout[-2_000:]}")
