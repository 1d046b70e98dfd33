"""Random fields and curves from which the landscapes are painted: float32 numpy, any size, detail at every scale."""

from __future__ import annotations

import numpy as np

Rng = np.random.Generator


def fractal(
    rng: Rng, height: int, width: int, cell_px: float, roughness: float = 0.5, finest_px: int = 1
) -> np.ndarray:
    """A fractal field of mean about 0 and deviation about 1, height x width.

    Starts from random values about `cell_px` apart; each doubling of the resolution adds values of `roughness` times
    the amplitude of the one before, until they are `finest_px` apart.
    """
    doublings = max(0, round(np.log2(max(cell_px, 1) / finest_px)))
    plain = round(np.log2(finest_px)) if finest_px > 1 else 0
    sizes = [(height, width)]
    for _ in range(doublings + plain):
        sizes.append((sizes[-1][0] // 2 + 3, sizes[-1][1] // 2 + 3))
    amplitude, total = 1.0, 1.0
    field = _white(rng, *sizes[-1])
    for step, (rows, columns) in enumerate(reversed(sizes[:-1])):
        field = _doubled(field)[1 : rows + 1, 1 : columns + 1]
        if step < doublings:
            amplitude *= roughness
            field += _white(rng, rows, columns) * np.float32(amplitude)
            total = 0.5 * total + amplitude**2  # the smoothing of a doubling keeps about half of the variance
    return field * np.float32(1 / np.sqrt(total))


def ridged(field: np.ndarray) -> np.ndarray:
    """Sharp ridges where the field crosses zero: 1 on the ridge, falling to 0."""
    ridge = np.abs(field)
    np.subtract(1, ridge, out=ridge)
    return np.maximum(ridge, 0, out=ridge)


def curve(rng: Rng, length: int, cell_px: float, roughness: float = 0.5) -> np.ndarray:
    """A fractal curve of mean about 0 and deviation about 1."""
    doublings = max(1, round(np.log2(max(cell_px, 2))))
    lengths = [length]
    for _ in range(doublings):
        lengths.append(lengths[-1] // 2 + 3)
    amplitude, total = 1.0, 1.0
    values = _white(rng, 1, lengths[-1])[0]
    for size in reversed(lengths[:-1]):
        values = _doubled_rows(values[:, None])[1 : size + 1, 0]
        amplitude *= roughness
        values += _white(rng, 1, size)[0] * np.float32(amplitude)
        total = 0.7 * total + amplitude**2
    return values * np.float32(1 / np.sqrt(total))


def step(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between (the usual cubic)."""
    t = np.clip((values - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)


def relief(height: np.ndarray, strength: float, down: float = 0.5) -> np.ndarray:
    """Light on a height field from the left and, by `down`, from above: about 0, positive where it is lit."""
    slope = np.empty_like(height)
    slope[:, 1:] = height[:, 1:] - height[:, :-1]
    slope[:, 0] = slope[:, 1]
    slope[1:] += (height[1:] - height[:-1]) * np.float32(down)
    slope *= np.float32(strength)
    return np.clip(slope, -1, 1, out=slope)


def _white(rng: Rng, rows: int, columns: int) -> np.ndarray:
    """Uniform values of mean 0 and deviation 1."""
    values = rng.random((rows, columns), dtype=np.float32)
    values -= np.float32(0.5)
    values *= np.float32(12**0.5)
    return values


def _doubled(field: np.ndarray) -> np.ndarray:
    """Twice as many rows and columns (less the border), by cubic B-spline subdivision."""
    return _doubled_rows(_doubled_rows(field).T).T


def _doubled_rows(field: np.ndarray) -> np.ndarray:
    result = np.empty((2 * len(field) - 3, field.shape[1]), np.float32)
    middle = result[1::2]
    np.add(field[:-2], field[2:], out=middle)
    middle *= np.float32(0.125)
    middle += field[1:-1] * np.float32(0.75)
    np.add(field[:-1], field[1:], out=result[0::2])
    result[0::2] *= np.float32(0.5)
    return result
