"""Painters of landscapes. Each class has statistics of its own, as photographs of such places have.

- mountain: ridged relief lit from the side, snow that breaks up along a height, forest below, hazy ranges behind;
- desert: oriented dunes with sharp crests, wind ripples across them in perspective, a pale sky;
- sea: swell of a few directions in perspective, foam on the crests, sun glitter;
- beach: a winding shoreline with lacy foam between turquoise water and grained, pebbled sand, seen from above;
- island: a hump of tree crowns over a strip of sand, its reflection in calm water, clouds.

A painter takes a generator and a size and returns float32 3 x H x W in about [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.data.drawing.layers import bands, below, mix, over, rgb, sky
from harness.data.drawing.noise import Rng, curve, fractal, relief, ridged, step

Painter = Callable[[Rng, int], np.ndarray]


def paint(rng: Rng, class_name: str, size_px: int) -> np.ndarray:
    """A landscape as uint8, size_px x size_px x 3."""
    image = PAINTERS[class_name](rng, size_px)
    image *= np.float32(255)
    image += rng.random((size_px, size_px), dtype=np.float32) * np.float32(3) - np.float32(1)  # sensor noise
    levels = np.clip(image, 0, 255, out=image).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


def mountain(rng: Rng, px: int) -> np.ndarray:
    image = sky(rng, px, top=(0.25, 0.45, 0.78), bottom=(0.78, 0.85, 0.93), cover=rng.uniform(-0.5, 0.9))
    haze = rgb(0.62, 0.71, 0.82)
    base = rng.uniform(0.26, 0.4)
    skylines, depths = [], (0.7, 0.35, 0.0)
    for depth in depths:
        peaks = curve(rng, px, px / 3, 0.45)
        skylines.append(base - (0.13 - 0.05 * depth) * (1.0 - 1.3 * np.abs(peaks)) + 0.003 * curve(rng, px, 8, 0.9))
        base += rng.uniform(0.14, 0.2)
    for depth, skyline, (top, end) in zip(depths, skylines, bands(skylines, px)):
        rock = _rock(rng, end - top, px, skyline, top, snow=rng.uniform(0.05, 0.14))
        rock *= np.float32(1 - depth)
        rock += haze * np.float32(depth)
        over(image[:, top:end], rock, below(skyline, px, top, end))
    return image


def _rock(rng: Rng, rows: int, px: int, skyline: np.ndarray, top: int, snow: float) -> np.ndarray:
    """A mountain's flank: spurs and gullies lit from the left, snow that breaks up some way below the skyline."""
    tall = fractal(rng, rows // 2 + 1, px, px / 6, 0.38).repeat(2, axis=0)[:rows]
    spurs = -np.sqrt(tall * tall + np.float32(0.003))
    crags = fractal(rng, rows, px, px / 24, 0.52)
    height = spurs * np.float32(px / 7) + crags * np.float32(0.45)
    shade = 0.5 + 0.5 * relief(height, 0.33, down=0.2)
    depth = (np.arange(top, top + rows, dtype=np.float32)[:, None] / px) - skyline[None, :].astype(np.float32)
    broken = depth + np.float32(0.07) * (spurs + 0.35 * crags + 0.4) - np.float32(0.06) * (shade - 0.5)
    snowy = 1 - step(broken, snow - 0.008, snow + 0.008)
    forest = step(broken, snow + 0.08, snow + 0.14)
    trees = 0.7 + 0.5 * step(crags, -0.6, 0.6)
    colour = mix((0.47, 0.43, 0.4), (0.14, 0.24, 0.12), forest) * ((0.25 + 1.15 * shade) * trees)
    white = mix((0.48, 0.58, 0.78), (1.0, 1.0, 1.0), np.clip(1.5 * shade - 0.1, 0, 1))
    over(colour, white, snowy)
    return colour


def desert(rng: Rng, px: int) -> np.ndarray:
    warm = rng.uniform(0, 1)
    image = sky(rng, px, top=(0.36, 0.56, 0.8), bottom=(0.93, 0.86, 0.74), cover=rng.uniform(-1.2, 0.2))
    sand_lit = rgb(0.95, 0.72 + 0.08 * warm, 0.45 + 0.12 * warm)
    sand_dark = rgb(0.5, 0.29 + 0.05 * warm, 0.16 + 0.06 * warm)
    horizon = rng.uniform(0.2, 0.34)
    skylines, distances = [], []
    crest = horizon
    while crest < 1.0:
        near = (crest - horizon) / (1 - horizon)
        skylines.append(crest + 0.035 * (0.4 + 2 * (crest - horizon)) * curve(rng, px, px / 2, 0.22))
        distances.append((1 - near) ** 2)
        crest += rng.uniform(0.1, 0.2) * (0.5 + near)
    for skyline, distance, (top, end) in zip(skylines, distances, bands(skylines, px)):
        dune = _dune(rng, end - top, px, skyline, top, 1 - distance**0.5)
        colour = (sand_lit - sand_dark) * dune
        colour += sand_dark
        over(colour, rgb(0.9, 0.83, 0.72), np.float32(0.35 * distance))
        over(image[:, top:end], colour, below(skyline, px, top, end))
    return image


def _dune(rng: Rng, rows: int, px: int, skyline: np.ndarray, top: int, near: float) -> np.ndarray:
    """Light on a dune, 0 (the slip face, in shade) to 1; a winding brink parts its faces, ripples run across both."""
    y = np.arange(top, top + rows, dtype=np.float32)[:, None] / px
    depth = y - skyline[None, :].astype(np.float32)
    x = np.arange(px, dtype=np.float32)[None, :] / px
    brink = rng.uniform(0.1, 0.9) + 0.1 * curve(rng, rows, px / 4, 0.3)[:, None].astype(np.float32)
    slip = step(x - brink + rng.uniform(-0.6, 0.6) * depth, -0.004, 0.004)
    warp = fractal(rng, rows, px, px / 5, 0.4, finest_px=8)
    tilt = rng.uniform(-0.5, 0.5)
    frequency = rng.uniform(28, 60) * (1.6 - near)
    phase = (depth + tilt * x * 0.6) * frequency + warp * 0.55
    saw = phase - np.floor(phase)
    ripples = np.minimum(saw * 1.25, (1 - saw) * 5)
    lit = 0.62 + 0.3 * ripples + 0.06 * warp - 0.25 * np.clip(depth, 0, 1)
    dark = 0.12 + 0.1 * ripples
    lit += (dark - lit) * slip
    return lit


def sea(rng: Rng, px: int) -> np.ndarray:
    deep = rng.uniform(0, 1)
    sky_low = (0.8, 0.85, 0.9) if deep > 0.3 else (0.95, 0.75, 0.55)
    image = sky(rng, px, top=(0.3, 0.5, 0.8), bottom=sky_low, cover=rng.uniform(-0.6, 0.8))
    top = int(px * rng.uniform(0.15, 0.35))
    water = _swell(rng, px - top, px, choppiness=rng.uniform(0.6, 1.0))
    dark = rgb(0.02, 0.12 + 0.1 * deep, 0.22 + 0.12 * deep)
    light = rgb(0.3, 0.55, 0.66)
    colour = (light - dark) * np.clip(water * 0.5 + 0.45, 0, 1)
    colour += dark
    spray = fractal(rng, px - top, px, 10, 0.75)
    foam = step(water + 0.35 * spray, 1.2, 1.35)
    over(colour, np.float32(0.95), foam)
    x = np.arange(px, dtype=np.float32)[None, :] / px
    path = np.exp(-(((x - rng.uniform(0.2, 0.8)) / 0.12) ** 2))
    glint = step(water * 0.6 + 0.5 * spray, 0.95, 1.05) * path
    over(colour, rgb(1.0, 0.97, 0.85), glint)
    image[:, top:] = colour
    return image


def _swell(rng: Rng, rows: int, px: int, choppiness: float) -> np.ndarray:
    """Height of the water, mean about 0: waves of a few directions, closer together towards the horizon."""
    down = np.arange(rows, dtype=np.float32)[:, None] / rows
    distance = 1 / (down * 0.92 + 0.08)
    x = (np.arange(px, dtype=np.float32)[None, :] / px - 0.5) * distance
    warp = fractal(rng, rows, px, px / 6, 0.45, finest_px=4)
    water = np.zeros((rows, px), np.float32)
    heading = rng.uniform(-0.5, 0.5)
    for octave in range(4):
        turn = heading + rng.uniform(-0.4, 0.4)
        frequency = 4.0 * 1.9**octave * rng.uniform(0.85, 1.15)
        phase = (np.float32(np.cos(turn)) * distance + np.float32(np.sin(turn)) * x) * np.float32(frequency)
        phase += warp * np.float32(0.8) + np.float32(rng.uniform(0, 6.28))
        crest = 1 - np.abs(np.sin(phase))  # sharp crests, round troughs
        fade = np.minimum(1, down * 14 / 1.7**octave + 0.15)
        water += (crest * crest - np.float32(0.23)) * fade * np.float32(choppiness * 0.72**octave)
    return water * np.float32(1.6)


def beach(rng: Rng, px: int) -> np.ndarray:
    y, x = np.ogrid[0:px, 0:px]
    angle = rng.uniform(-0.7, 0.7)
    along = np.float32(np.sin(angle)) * (x.astype(np.float32) / px - 0.5)
    across = np.float32(np.cos(angle)) * (y.astype(np.float32) / px - 0.5)
    wobble = fractal(rng, px, px, px / 4, 0.42, finest_px=4)
    shore = wobble
    shore *= np.float32(0.05)
    shore += across + np.float32(rng.uniform(-0.12, 0.12))
    shore += along
    sand = _sand(rng, px, warm=rng.uniform(0, 1))
    wet = 1 - step(shore, 0.0, 0.1)
    sand *= 1 - 0.38 * wet
    water = _shallows(rng, px, shore)
    image = sand
    over(image, water, 1 - step(shore, -0.012, 0.004))
    lace = ridged(fractal(rng, px, px, px / 24, 0.55) * 0.9)
    near = np.abs(shore + np.float32(0.012))
    for line in (rng.uniform(0.08, 0.14), rng.uniform(0.22, 0.3)):
        np.minimum(near, np.abs(shore + np.float32(0.012 + line)), out=near)
    foam = step(lace * np.maximum(np.float32(1.3) - near * np.float32(22), 0), 0.42, 0.52)
    over(image, np.float32(0.97), foam)
    return image


def _sand(rng: Rng, px: int, warm: float) -> np.ndarray:
    """Dry sand: grain, small pebbles with a shadow, shallow footprints and drifts."""
    drift = fractal(rng, px, px, px / 6, 0.45)
    grain = fractal(rng, px, px, 4, 1.0)
    pebble = step(grain, 1.9, 2.1)
    light = 0.86 + 0.5 * relief(drift, 0.35) + 0.05 * grain
    light[1:, 1:] -= 0.3 * pebble[:-1, :-1]
    tone = rgb(0.93, 0.83 - 0.05 * warm, 0.66 - 0.12 * warm)
    colour = tone * light
    over(colour, rgb(0.62, 0.58, 0.55), pebble)
    return colour


def _shallows(rng: Rng, px: int, shore: np.ndarray) -> np.ndarray:
    """Clear water over sand: turquoise to blue with depth, with a net of caustics where it is shallow."""
    depth = np.clip(-shore * 2.2, 0, 1)
    net = ridged(fractal(rng, px, px, px / 16, 0.35) * 1.6)
    net *= net
    colour = mix((0.45, 0.8, 0.76), (0.04, 0.32, 0.5), np.sqrt(depth))
    colour += net * (1 - depth) * np.float32(0.28)
    return colour


def island(rng: Rng, px: int) -> np.ndarray:
    image = sky(rng, px, top=(0.2, 0.5, 0.85), bottom=(0.7, 0.85, 0.93), cover=rng.uniform(-0.2, 1.0))
    line = int(px * rng.uniform(0.52, 0.66))
    x = np.arange(px, dtype=np.float32) / px
    width, middle = rng.uniform(0.26, 0.45), rng.uniform(0.35, 0.65)
    hump = np.clip(1 - ((x - middle) / width) ** 2, 0, None)
    tall = rng.uniform(0.2, 0.38)
    outline = tall * hump**0.7 * (1 + 0.28 * curve(rng, px, px / 5, 0.5)) + 0.006 * curve(rng, px, 12, 0.8) * (hump > 0)
    skyline = line / px - np.where(hump > 0.02, np.maximum(outline, 0), -0.5)
    top = max(0, int(px * (skyline.min() - 0.02)))
    land = below(skyline, px, top, line)
    trees = _crowns(rng, line - top, px)
    y = np.arange(top, line, dtype=np.float32)[:, None] / px
    strip = step(y - line / px + 0.012 + 0.008 * curve(rng, px, px / 8, 0.5)[None, :], -0.003, 0.003)
    over(trees, rgb(0.93, 0.86, 0.68), strip)
    over(image[:, top:line], trees, land)
    image[:, line:] = _mirror(rng, image[:, :line], px - line, px)
    return image


def _crowns(rng: Rng, rows: int, px: int) -> np.ndarray:
    """A forest's side: round tree crowns in clumps, lit from above left, dark gaps between."""
    clumps = fractal(rng, rows, px, px / 10, 0.5)
    crowns = fractal(rng, rows, px, max(6.0, px / 40), 0.6)
    height = crowns + 0.5 * clumps
    light = relief(height, 0.75, down=0.9)
    gap = step(-crowns, 0.75, 1.0)
    tone = np.clip(0.5 - 0.42 * light + 0.12 * clumps, 0, 1) * (1 - 0.75 * gap)
    return mix((0.03, 0.1, 0.04), (0.45, 0.62, 0.2), tone)


def _mirror(rng: Rng, above: np.ndarray, rows: int, px: int) -> np.ndarray:
    """Calm water: what is above, upside down, torn by flat ripples and tinted."""
    down = np.arange(rows, dtype=np.float32)[:, None] / rows
    ripple = np.repeat(fractal(rng, rows, px // 8 + 2, 6, 0.8), 8, axis=1)[:, :px]
    ripple = (ripple[:, :-1] + ripple[:, 1:])[:, np.r_[0, np.arange(px - 1)]] * np.float32(0.5)
    shift = ripple * (2 + 26 * down) * np.float32(px / 384)
    last = above.shape[1] - 1
    source = np.clip(last - np.arange(rows, dtype=np.float32)[:, None] * np.float32(0.8) - shift, 0, last)
    flat = source.astype(np.intp) * px + np.arange(px)
    seen = above.reshape(3, -1)[:, flat]
    tint = rgb(0.05, 0.3, 0.42)
    colour = seen * np.float32(0.55) + tint * np.float32(0.45)
    colour += ripple * (0.05 + 0.05 * down)
    return colour


PAINTERS: dict[str, Painter] = {
    "beach": beach,
    "mountain": mountain,
    "desert": desert,
    "sea": sea,
    "island": island,
}
