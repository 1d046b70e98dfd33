"""The network over which the ranks of several nodes find each other."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Sequence

from slurm.queue import ask, parse_fields

CARD = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915
_ANY_PORT = 9


def address_of(host: str) -> str:
    """A name or address of `host` that resolves; SLURM knows the address of nodes that the resolver does not."""
    try:
        socket.getaddrinfo(host, None)
        return host
    except OSError:
        return parse_fields(ask("scontrol", "show", "node", host, "--oneliner"))["NodeAddr"]


def name_the_card(nodes: Sequence[str], own: str) -> None:
    """Exports the network card towards the other nodes, where gloo would take the loopback.

    Gloo listens at the address of the machine's own name, which Debian and Ubuntu write down as 127.0.1.1, where no
    other node reaches it. A card that is named already stays.

    Args:
        nodes: the job's, the first one's first.
        own: this one's name among them.
    """
    others = [node for node in nodes if node != own]
    if not others or CARD in os.environ or not _is_loopback(socket.gethostname()):
        return
    card = card_towards(address_of(others[0]))
    if card is not None:
        os.environ[CARD] = card


def card_towards(host: str) -> str | None:
    """The network card over which this machine sends to a host; None where that cannot be told (IPv6, no route)."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((host, _ANY_PORT))  # sends nothing
        own = sender.getsockname()[0]
        return next((name for _, name in socket.if_nameindex() if _address_of_card(name) == own), None)
    return None


def _is_loopback(name: str) -> bool:
    try:
        return socket.gethostbyname(name).startswith("127.")
    except OSError:
        return True  # gloo falls back to it


def _address_of_card(name: str) -> str | None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        answer = fcntl.ioctl(asker.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        return socket.inet_ntoa(answer[20:24])
    return None
