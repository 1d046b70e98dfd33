"""How the landscapes are put together: colours, layers painted over each other, the sky behind them.

Pictures and colours are float32, 3 x H x W (a colour 3 x 1 x 1) in about [0, 1].
"""

from __future__ import annotations

import numpy as np

from harness.data.drawing.noise import Rng, fractal, step


def rgb(red: float, green: float, blue: float) -> np.ndarray:
    """A colour, 3 x 1 x 1."""
    return np.array([red, green, blue], np.float32)[:, None, None]


def mix(low: tuple[float, ...], high: tuple[float, ...], share: np.ndarray) -> np.ndarray:
    """The colour between two, `share` (H x W, 0 to 1) of the way from the first to the second: 3 x H x W."""
    a, b = rgb(*low), rgb(*high)
    result = (b - a) * share
    result += a
    return result


def over(image: np.ndarray, colour: np.ndarray | np.float32, cover: np.ndarray | np.float32) -> None:
    """Paints a colour (or another picture) over the image, in place, as opaque as `cover` says."""
    colours = np.broadcast_to(colour, (3, *np.shape(colour)[1:]))
    difference = np.empty(image.shape[1:], np.float32)
    for plane, tone in zip(image, colours):  # plane by plane: the temporary stays in the processor's cache
        np.subtract(tone, plane, out=difference)
        np.multiply(difference, cover, out=difference)
        plane += difference


def below(skyline: np.ndarray, px: int, top: int, end: int) -> np.ndarray:
    """1 below a skyline (given as a share of the height), 0 above, one pixel soft; rows `top` to `end`."""
    y = np.arange(top, end, dtype=np.float32)[:, None]
    return np.clip(y - (skyline[None, :] * px).astype(np.float32) + np.float32(0.5), 0, 1)


def bands(skylines: list[np.ndarray], px: int) -> list[tuple[int, int]]:
    """First and last row of each layer that the next one, in front of it, leaves to be seen."""
    top = [min(px - 2, max(0, int(px * (skyline.min() - 0.01)))) for skyline in skylines]
    end = [min(px, max(first + 2, int(px * front.max()) + 2)) for first, front in zip(top, skylines[1:])]
    return list(zip(top, [*end, px]))


def sky(
    rng: Rng, px: int, top: tuple[float, float, float], bottom: tuple[float, float, float], cover: float
) -> np.ndarray:
    """A gradient with clouds; `cover` below 0 is nearly clear. Only the upper two thirds have clouds."""
    rows = px * 2 // 3
    down = np.linspace(0, 1, px, dtype=np.float32)[:, None]
    gradient = mix(top, bottom, np.minimum(1, down * 2.2))
    image = np.repeat(gradient, px, axis=2)
    if cover > -0.4:
        small = (rows + 1) // 2, (px + 1) // 2
        cloud = fractal(rng, *small, px / 6, 0.5).repeat(2, axis=0).repeat(2, axis=1)[:rows, :px]
        fade = np.clip(np.linspace(3.6, 0, rows, dtype=np.float32), 0, 0.9)[:, None]
        white = step(cloud, 0.9 - cover, 2.4 - cover) * fade
        lit = mix((0.72, 0.77, 0.85), (1.0, 1.0, 1.0), step(cloud, 0.9 - cover, 3.6 - cover))
        over(image[:, :rows], lit, white)
    return image
