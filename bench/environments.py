"""An environment of its own for each peer, under build/peers: packages from PyPI, or jars."""

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


def java_program(source: Path) -> list[str]:
    """Give the command that runs a program in Java, its jars fetched and it compiled where need be.

    The jars are those of ``pom.xml`` beside it.
    """
    pom = source.with_name("pom.xml")
    mark = hashlib.sha256(pom.read_bytes() + source.read_bytes()).hexdigest()[:12]
    jars = FOLDER / f"jars-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"
    classes = FOLDER / f"{source.stem}-{mark}"
    if not (jars / "fetched").exists():
        shutil.rmtree(jars, ignore_errors=True)
        into = ("dependency:copy-dependencies", f"-DoutputDirectory={jars}")
        _run(["mvn", "-q", "-B", "-f", str(pom), *into, "-DincludeScope=runtime"])
        (jars / "fetched").touch()
    if not (classes / "compiled").exists():
        shutil.rmtree(classes, ignore_errors=True)
        _run(["javac", "-cp", f"{jars}/*", "-d", str(classes), str(source)])
        (classes / "compiled").touch()
    return ["java", "-Xmx1g", "-cp", f"{classes}:{jars}/*", source.stem]


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
