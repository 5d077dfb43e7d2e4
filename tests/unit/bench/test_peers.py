"""The peers' code runs elsewhere; here it is held to what bench/README.md says of it."""

from pathlib import Path

import pytest

from bench.peer import PEERS, SCRIPTS, Peer, peer_load


@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_a_peer_is_a_script_of_less_than_150_lines(peer: Peer) -> None:
    assert len((SCRIPTS / peer.script).read_text().splitlines()) < 150


@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_a_peer_says_what_of_the_job_it_does_not_do(peer: Peer) -> None:
    assert peer.scores in {"event", "batch"}
    assert "dedup" in peer.misses
    assert "learner" in peer.misses


@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_versions_are_pinned(peer: Peer) -> None:
    assert all("==" in requirement for requirement in peer.requirements)
    assert peer.requirements or Path(peer.script).suffix == ".java"


def test_a_slow_peer_gets_fewer_events_of_as_many_customers() -> None:
    slow = Peer("slow", "x.py", (), "event", "", slow=4, warm=10)
    assert len(peer_load(slow, 4_000, 1).sequence) == 1_010
