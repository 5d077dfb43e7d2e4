"""An environment of its own for each peer, under build/peers: packages from PyPI, or jars."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "peers"
INSTALL_SECONDS = 900
JAVA_OPTIONS = (
    "-Xmx1g",
    # Flink reaches into these, as its own scripts allow it to.
    *(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in ("lang", "util", "time")),
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


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

    The jars are those of ``pom.xml`` beside it; ``Job.java`` from the folder above is part of it.
    """
    pom = source.with_name("pom.xml")
    sources = [source, source.parents[1] / "Job.java"]
    jars = FOLDER / f"{source.stem}-jars-{_mark([pom])}"
    classes = FOLDER / f"{source.stem}-{_mark([pom, *sources])}"
    if not (jars / "fetched").exists():
        shutil.rmtree(jars, ignore_errors=True)
        into = ("dependency:copy-dependencies", f"-DoutputDirectory={jars}")
        _run(["mvn", "-q", "-B", "-f", str(pom), *into, "-DincludeScope=runtime"])
        (jars / "fetched").touch()
    if not (classes / "compiled").exists():
        shutil.rmtree(classes, ignore_errors=True)
        _run(["javac", "-cp", f"{jars}/*", "-d", str(classes), *map(str, sources)])
        (classes / "compiled").touch()
    return ["java", *JAVA_OPTIONS, "-cp", f"{classes}:{jars}/*", source.stem]


def _mark(files: list[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


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
