"""Files: opened whether compressed or not, and recognised when seen again."""

import codecs
import gzip
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, TextIO

from valuetide.streams.replay.errors import ReplayError, ReplayUsageError

Kind = Literal["csv", "text", "jsonl", "parquet"]

_KINDS: Final[dict[str, Kind]] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_SAMPLE_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Tells whether a file is the one it was.

    Attributes
    ----------
    size
        Bytes.
    modified_ns
        Time of the last change, nanoseconds since 1970.
    digest
        Of the size and of the first and last 64 KiB: the same for a copy of the file.
    """

    size: int
    modified_ns: int
    digest: str

    def as_dict(self) -> dict[str, int | str]:
        """Give the attributes by name, for JSON."""
        return asdict(self)


def fingerprint(path: Path) -> Fingerprint:
    """Give the fingerprint of a file; costs two short reads, whatever its size."""
    stat = path.stat()
    digest = hashlib.blake2b(str(stat.st_size).encode(), digest_size=16)
    with path.open("rb") as file:
        digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(0, stat.st_size - _SAMPLE_BYTES))
        digest.update(file.read(_SAMPLE_BYTES))
    return Fingerprint(stat.st_size, stat.st_mtime_ns, digest.hexdigest())


def replace_file(path: Path, text: str) -> None:
    """Write a file; a crash leaves the old one or the new one, never half of one.

    Raises
    ------
    ReplayError
        When it cannot be written.
    """
    beside = path.with_name(f"{path.name}.new")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise ReplayError(f"{path}: cannot be written: {error.strerror}") from None


def kind_of(path: Path) -> Kind:
    """Tell the kind of a file by its name.

    Raises
    ------
    ReplayUsageError
        When the name has none of the endings that are known.
    """
    name = path.name.lower().removesuffix(".gz")
    for ending, kind in _KINDS.items():
        if name.endswith(ending) and not (kind == "parquet" and path.name.endswith(".gz")):
            return kind
    known = ", ".join(_KINDS)
    raise ReplayUsageError(
        f"{path.name}: its name must end in one of {known} (all but .parquet also with .gz)"
    )


@contextmanager
def open_text(path: Path, encoding: str = "utf-8-sig") -> Iterator[TextIO]:
    """Open a text file, uncompressing it where its name ends in ``.gz``.

    Raises
    ------
    ReplayError
        Also while reading: when the file cannot be read, is cut short or has another encoding.
    """
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise ReplayUsageError(f"--encoding: there is no encoding {encoding}") from None
    try:
        opener = gzip.open if path.name.lower().endswith(".gz") else open
        with opener(path, "rt", encoding=encoding, newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ReplayError(
            f"{path.name}: is not {error.encoding}; give its encoding, e.g. --encoding cp1252"
        ) from None
    except (OSError, EOFError) as error:
        raise ReplayError(f"{path.name}: cannot be read: {error}") from None
