"""Ranks of several nodes find each other, whatever a node's own name resolves to."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm import network
from slurm.network import CARD, card_towards, name_the_card

RANK = """
import datetime, os, sys
from slurm.network import address_of, name_the_card
os.environ["MASTER_ADDR"] = address_of("nodea")
name_the_card(["nodea", "nodeb"], own=sys.argv[1])
import torch
from torch import distributed
distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
number = torch.tensor([distributed.get_rank() + 1])
distributed.all_reduce(number)
print(number.item(), os.environ.get("GLOO_SOCKET_IFNAME"))
"""


def test_the_card_is_that_of_the_route() -> None:
    assert card_towards("127.0.0.1") == "lo"
    assert card_towards("no such host") is None


@pytest.mark.parametrize(
    ("nodes", "own_address", "named", "card"),
    [
        (["a", "b"], "127.0.1.1", None, "lo"),
        (["a", "b"], None, None, "lo"),
        (["a", "b"], "10.0.0.1", None, None),
        (["a"], "127.0.1.1", None, None),
        (["a", "b"], "127.0.1.1", "ib0", "ib0"),
    ],
    ids=["loopback", "no-address", "address", "one-node", "named"],
)
def test_a_card_is_named_only_where_gloo_would_take_the_loopback(
    nodes: list[str], own_address: str | None, named: str | None, card: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def own(_: str) -> str:
        if own_address is None:
            raise socket.gaierror
        return own_address

    monkeypatch.setattr(socket, "gethostbyname", own)
    monkeypatch.setattr(network, "address_of", lambda _: "127.0.0.1")
    monkeypatch.delenv(CARD, raising=False)
    if named:
        monkeypatch.setenv(CARD, named)
    name_the_card(nodes, own="a")
    assert os.environ.get(CARD) == card


@pytest.fixture
def two_machines() -> Iterator[list[str]]:
    """Two network namespaces with a cable between them, whose own names mean 127.0.1.1, as Debian writes it down."""
    if os.getuid() or not shutil.which("ip"):
        pytest.skip("namespaces need root and iproute2")
    spaces = [f"harness-{os.getpid()}-{letter}" for letter in "ab"]
    places = [Path("/etc/netns") / space for space in spaces]
    cards = [f"v{letter}{os.getpid()}" for letter in "ab"]
    try:
        for space in spaces:
            _do("ip", "netns", "add", space)
        _do("ip", "link", "add", cards[0], "netns", spaces[0], "type", "veth", "peer", cards[1], "netns", spaces[1])
        for i, (space, card, place) in enumerate(zip(spaces, cards, places)):
            _do("ip", "-n", space, "addr", "add", f"10.9.0.{i + 1}/24", "dev", card)
            for device in ("lo", card):
                _do("ip", "-n", space, "link", "set", device, "up")
            place.mkdir(parents=True)
            other = 1 - i
            hosts = f"127.0.0.1 localhost\n127.0.1.1 node{'ab'[i]}\n10.9.0.{other + 1} node{'ab'[other]}\n"
            (place / "hosts").write_text(hosts)
        yield spaces
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no namespaces here: {error.stderr.strip()}")
    finally:
        for space, place in zip(spaces, places):
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)
            shutil.rmtree(place, ignore_errors=True)


def _do(*words: str) -> None:
    subprocess.run(words, capture_output=True, text=True, check=True)


@pytest.mark.slurm
def test_two_machines_whose_names_mean_the_loopback_add_up(two_machines: list[str]) -> None:
    ranks = []
    for i, (space, name) in enumerate(zip(two_machines, ("nodea", "nodeb"))):
        own = f'hostname {name}; exec "$@"'
        python = [sys.executable, "-c", RANK, name]
        words = ["ip", "netns", "exec", space, "unshare", "--uts", "sh", "-c", own, "sh", *python]
        variables = {"RANK": str(i), "WORLD_SIZE": "2", "MASTER_PORT": "23456", "PYTHONPATH": str(Path.cwd())}
        environment = {key: value for key, value in os.environ.items() if key != CARD} | variables
        ranks.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True))
    said = [rank.communicate(timeout=120)[0].split() for rank in ranks]
    # Without a card they try 127.0.1.1, where nobody listens.
    assert said == [["3", f"va{os.getpid()}"], ["3", f"vb{os.getpid()}"]]
