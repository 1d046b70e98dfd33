"""Picture strips: the same crop from every model, where the models differ most, beside nearest, bicubic and HR.

Images are uint8, H x W x 3. Crops are lossless PNGs at their own size, which the page enlarges pixel by pixel; whole
images are small JPEGs that only show where the crop lies.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

CROP_PX = 64
_WHOLE_PX = 320
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Picture:
    """One image of a strip, as a data URI."""

    title: str
    detail: str
    alt: str
    uri: str
    width: int
    height: int
    own: bool = False


@dataclass(frozen=True)
class Strip:
    """One row of pictures with its heading: the whole HR image, and the crops with that of HR last."""

    title: str
    caption: str
    whole: Picture
    crops: tuple[Picture, ...]


@dataclass(frozen=True)
class Candidate:
    """One output to show: its name, its image, and what to write under it."""

    name: str
    image_HWC: np.ndarray
    detail: str = ""
    own: bool = False


def build_strip(
    title: str,
    caption: str,
    hr_image: np.ndarray,
    candidates: Sequence[Candidate],
    differing: Sequence[str],
    corner: tuple[int, int] = (0, 0),
) -> Strip:
    """A strip: the whole HR image with the crop's place, each candidate's crop, and the HR crop last.

    differing: names of the candidates between which the crop is chosen; fewer than two look at all.
    corner: top and left of the candidates' images within the HR image.
    """
    judged = [c.image_HWC for c in candidates if c.name in differing]
    top, left, size_px = choose_crop(judged if len(judged) > 1 else [c.image_HWC for c in candidates] or [hr_image])
    crops = [_crop_picture(c, title, (top, left, size_px)) for c in candidates]
    place = (top + corner[0], left + corner[1], size_px)
    original = _crop_picture(Candidate("HR", hr_image, "the original"), title, place)
    return Strip(title, caption, _whole_picture(hr_image, title, place), (*crops, original))


def choose_crop(images: Sequence[np.ndarray], crop_px: int = CROP_PX) -> tuple[int, int, int]:
    """(top, left, size) of the square where the images' luma varies most between them, summed over its pixels."""
    height, width = images[0].shape[:2]
    size_px = min(crop_px, height, width)
    if len(images) < 2:
        return (height - size_px) // 2, (width - size_px) // 2, size_px
    luma = np.stack([image.astype(np.float32) @ _LUMA for image in images])
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = luma.var(axis=0, dtype=np.float64).cumsum(axis=0).cumsum(axis=1)
    inside = (
        sums[size_px:, size_px:] - sums[:-size_px, size_px:] - sums[size_px:, :-size_px] + sums[:-size_px, :-size_px]
    )
    top, left = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return int(top), int(left), size_px


def _crop_picture(candidate: Candidate, title: str, place: tuple[int, int, int]) -> Picture:
    top, left, size_px = place
    crop = candidate.image_HWC[top : top + size_px, left : left + size_px]
    alt = f"{title}: enlarged crop, {candidate.name}" + (f", {candidate.detail}" if candidate.detail else "")
    return Picture(candidate.name, candidate.detail, alt, png_uri(crop), size_px, size_px, candidate.own)


def _whole_picture(hr_image: np.ndarray, title: str, place: tuple[int, int, int]) -> Picture:
    height, width = hr_image.shape[:2]
    shrink = min(1.0, _WHOLE_PX / max(height, width))
    small = Image.fromarray(hr_image).resize((max(1, round(width * shrink)), max(1, round(height * shrink))))
    top, left, size_px = (value * shrink for value in place)
    draw = ImageDraw.Draw(small)
    draw.rectangle((left - 2, top - 2, left + size_px + 1, top + size_px + 1), outline="black", width=4)
    draw.rectangle((left - 1, top - 1, left + size_px, top + size_px), outline="white", width=2)
    alt = f"{title}: the whole original image, {width} x {height} px, with the crop's place framed"
    return Picture("whole image", f"{width} x {height} px", alt, jpeg_uri(small), *small.size)


def png_uri(image_HWC: np.ndarray) -> str:
    """A lossless PNG as a data URI."""
    return _uri(Image.fromarray(np.ascontiguousarray(image_HWC)), "PNG", optimize=True)


def jpeg_uri(image: Image.Image) -> str:
    """A JPEG of quality 80 as a data URI."""
    return _uri(image, "JPEG", quality=80, subsampling=0)


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def median_image(scores: Mapping[str, float]) -> str:
    """The image whose score is the (lower) median: neither the best nor the worst shows what is usual."""
    names = sorted(scores, key=lambda name: (scores[name], name))
    return names[(len(names) - 1) // 2]
