"""Counter-based random numbers: each is a pure function of (seed, purpose, position, draw).

Nothing here has a state, so a resumed run, another number of ranks or another reading order draws the same numbers.
The 64-bit mixing function is SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014), applied twice. NumPy and
torch give the same 24-bit uniforms; the torch versions run on the device without a host synchronisation.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def key(seed: int, *purpose: str | int) -> int:
    """The 63-bit key of a stream: a hash of the seed and of what the numbers are for."""
    text = "/".join([str(seed), *map(str, purpose)]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def bits(stream: int, position: np.ndarray, draw: int = 0) -> np.ndarray:
    """64 random bits (uint64) for each position (any integer array), NumPy version."""
    with np.errstate(over="ignore"):
        x = np.asarray(position).astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(stream)
        x = _mix_numpy(x) + np.uint64(draw) * np.uint64(_GOLDEN)
        return _mix_numpy(x)


def uniform(stream: int, position: np.ndarray, draw: int = 0) -> np.ndarray:
    """Uniform float64 in [0, 1) with 24 bits for each position; equals `uniform_tensor`'s."""
    return (bits(stream, position, draw) >> np.uint64(40)).astype(np.float64) * 2.0**-24


def integers(stream: int, position: np.ndarray, high: int | np.ndarray, draw: int = 0) -> np.ndarray:
    """Integers (int64) in [0, high) for each position."""
    return (((bits(stream, position, draw) >> np.uint64(32)) * np.asarray(high, np.uint64)) >> np.uint64(32)).astype(
        np.int64
    )


def permutation(stream: int, count: int) -> np.ndarray:
    """A permutation of range(count) (int64) that depends on the stream alone."""
    return np.argsort(bits(stream, np.arange(count)), kind="stable")


class DeviceStream(NamedTuple):
    """A stream whose constants lie on a device, where compiled code reads them.

    So one compiled function serves all streams; and torch's compiler would take the number of a draw times a constant
    of 64 bits for an index of 32.
    """

    key: torch.Tensor
    """int64, a scalar"""
    offset_D: torch.Tensor
    """int64: what each draw adds, for at least as many draws as are asked for."""


if TYPE_CHECKING:
    Stream = int | DeviceStream


def on_device(keys: Sequence[int], most_draws: int, device: torch.device) -> list[DeviceStream]:
    """The streams of some keys, for up to so many draws."""
    import torch

    offset_D = _offsets(most_draws, device)
    return [DeviceStream(key, offset_D) for key in torch.tensor(keys, dtype=torch.int64, device=device).unbind()]


def bits_tensor(stream: Stream, position_B: torch.Tensor, num_draws: int) -> torch.Tensor:
    """64 random bits as int64, shape (B, num_draws), on the positions' device; `bits(..., draw=j)` is column j."""
    import torch

    x = position_B.to(torch.int64)[:, None] * _signed(_GOLDEN)
    if isinstance(stream, int):
        return _mix_tensor(_mix_tensor(x + stream) + _offsets(num_draws, position_B.device))
    return _mix_tensor(_mix_tensor(x + stream.key) + stream.offset_D[:num_draws])


def _offsets(num_draws: int, device: torch.device) -> torch.Tensor:
    import torch

    return torch.arange(num_draws, device=device) * _signed(_GOLDEN)


def uniform_tensor(stream: Stream, position_B: torch.Tensor, num_draws: int) -> torch.Tensor:
    """Uniform float32 in [0, 1), shape (B, num_draws); the same numbers as `uniform`."""
    import torch

    x = bits_tensor(stream, position_B, num_draws)
    return ((x >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def draws_of(shape: tuple[int, ...]) -> int:
    """How many draws `normal_tensor` takes for a sample of a shape: two numbers come from each."""
    return (math.prod(shape) + 1) // 2


def normal_tensor(stream: Stream, position_B: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal float32 of shape (B, *shape), by Box and Muller; each sample's numbers depend on it alone."""
    import torch

    count, half = math.prod(shape), draws_of(shape)
    x = bits_tensor(stream, position_B, half)
    radius = torch.sqrt(-2.0 * torch.log((((x >> 40) & 0xFFFFFF).to(torch.float32) + 1.0) * 2.0**-24))
    angle = ((x >> 8) & 0xFFFFFF).to(torch.float32) * (2.0 * math.pi * 2.0**-24)
    both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return both[:, :count].reshape(-1, *shape)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _mix_numpy(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX_2)
    return x ^ (x >> np.uint64(31))


def _mix_tensor(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _signed(_MIX_1)
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _signed(_MIX_2)
    return x ^ ((x >> 31) & (2**33 - 1))
