import gzip
import os
import shutil
from pathlib import Path

import pytest

from valuetide.streams.replay.errors import ReplayError, ReplayUsageError
from valuetide.streams.replay.files import fingerprint, kind_of, open_text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.csv", "csv"),
        ("a.CSV.gz", "csv"),
        ("a.tsv", "csv"),
        ("a.txt", "text"),
        ("a.b.jsonl.gz", "jsonl"),
        ("a.parquet", "parquet"),
    ],
)
def test_the_end_of_the_name_tells_the_kind(name: str, kind: str) -> None:
    assert kind_of(Path(name)) == kind


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.gz", "a.parquet.gz", "csv"])
def test_an_unknown_kind_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ReplayUsageError, match=r"\.csv, \.tsv, \.txt"):
        kind_of(Path(name))


def test_a_fingerprint_sees_a_change_at_either_end_and_in_time(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"a" * 200_000)
    os.utime(file, ns=(1, 1))
    before = fingerprint(file)
    assert fingerprint(file) == before
    for change in (b"b" + b"a" * 199_999, b"a" * 199_999 + b"b", b"a" * 200_001):
        file.write_bytes(change)
        os.utime(file, ns=(1, 1))
        assert fingerprint(file).digest != before.digest
    file.write_bytes(b"a" * 200_000)
    os.utime(file, ns=(2, 2))
    assert fingerprint(file) != before
    assert fingerprint(file).digest == before.digest


def test_a_copy_has_the_same_digest(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("x")
    copy = Path(shutil.copy(file, tmp_path / "b.csv"))
    assert fingerprint(copy).digest == fingerprint(file).digest


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(os.urandom(10_000))[:5_000])
    latin = tmp_path / "latin.csv"
    latin.write_bytes("Müller".encode("latin-1"))
    for file, text in ((cut, "cannot be read"), (latin, "--encoding cp1252")):
        with pytest.raises(ReplayError, match=text), open_text(file, "utf-8") as f:
            f.read()
    with open_text(latin, "latin-1") as f:
        assert f.read() == "Müller"
    with (
        pytest.raises(ReplayUsageError, match="there is no encoding klingon"),
        open_text(cut, "klingon"),
    ):
        pass
