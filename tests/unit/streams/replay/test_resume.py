from dataclasses import replace
from pathlib import Path

import pytest

from valuetide.streams.replay.errors import ReplayError
from valuetide.streams.replay.files import Fingerprint
from valuetide.streams.replay.resume import Position, load_position, save_position

FILE = Fingerprint(10, 20, "abc")
POSITION = Position(FILE, "plan", 5, 1.5)


def test_a_position_is_read_as_it_was_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    save_position(state, POSITION)
    save_position(state, replace(POSITION, acknowledged=6))
    assert load_position(state, FILE, "plan") == replace(POSITION, acknowledged=6)
    assert list(tmp_path.iterdir()) == [state]


def test_no_file_is_no_position(tmp_path: Path) -> None:
    assert load_position(tmp_path / "none", FILE, "plan") is None


@pytest.mark.parametrize(
    ("file", "plan", "text"),
    [
        (replace(FILE, size=11), "plan", "the file has changed"),
        (replace(FILE, modified_ns=21), "plan", "the file has changed"),
        (replace(FILE, digest="abd"), "plan", "the file has changed"),
        (FILE, "another", "other options"),
    ],
)
def test_another_file_or_plan_is_refused(
    tmp_path: Path, file: Fingerprint, plan: str, text: str
) -> None:
    save_position(state := tmp_path / "state.json", POSITION)
    with pytest.raises(ReplayError, match=text):
        load_position(state, file, plan)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 1'])
def test_a_broken_state_is_refused(tmp_path: Path, text: str) -> None:
    (state := tmp_path / "state.json").write_text(text)
    with pytest.raises(ReplayError, match="no position of a replay; start from the beginning"):
        load_position(state, FILE, "plan")


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    save_position(state := tmp_path / "state.json", replace(POSITION, version=2))
    with pytest.raises(ReplayError, match="has version 2"):
        load_position(state, FILE, "plan")


def test_a_state_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="cannot be written: No such file"):
        save_position(tmp_path / "none" / "state.json", POSITION)
