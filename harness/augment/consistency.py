"""Balanced consistency regularisation (bCR; Zhao et al. 2020, "Improved consistency regularization for GANs").

The alternative that ADA is compared with: the discriminator is trained on plain images and, besides, punished for
judging an image and its transform T(x) differently, on real and on fake images alike. The generator has no such term,
so it may learn to produce transformed images (the leak that SupeRAuGAN mentions).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.augment.config import BcrConfig
from harness.augment.warp import mirror
from harness.random import key, uniform_tensor

Discriminator = Callable[[torch.Tensor], torch.Tensor]


def bcr_terms(
    config: BcrConfig,
    discriminator: Discriminator,
    real_BCHW: torch.Tensor,
    fake_BCHW: torch.Tensor,
    real_logits: torch.Tensor,
    fake_logits: torch.Tensor,
    seed: int,
    position_B: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """The weighted terms to add to the discriminator's loss: weight * mean((D(x) - D(T(x)))^2) for real and fake.

    Args:
        real_BCHW, fake_BCHW: images in [0, 1]; the fake ones detached from the generator.
        real_logits, fake_logits: the discriminator's logits on them as they are, with their graph.
        position_B: global positions, which decide T.
    """
    terms = {}
    for side, images, logits, weight in (
        ("real", real_BCHW, real_logits, config.real_weight),
        ("fake", fake_BCHW, fake_logits, config.fake_weight),
    ):
        if weight > 0:
            moved = transform(config, images, seed, side, position_B)
            terms[f"bcr_{side}"] = weight * (discriminator(moved) - logits).square().mean()
    return terms


def transform(
    config: BcrConfig, images_BCHW: torch.Tensor, seed: int, purpose: str, position_B: torch.Tensor
) -> torch.Tensor:
    """T: mirrors half of the images and shifts each by whole pixels, reflecting at the edges; copies pixels."""
    uniform = uniform_tensor(key(seed, "bcr", purpose), position_B, 3)
    if config.x_flip:
        images_BCHW = mirror(images_BCHW, uniform[:, 0] >= 0.5)
    if config.shift_px:
        pixels = torch.floor(uniform[:, 1:] * (2 * config.shift_px + 1)).to(torch.int64) - config.shift_px
        images_BCHW = shift(images_BCHW, pixels[:, 0], pixels[:, 1])
    return images_BCHW


def shift(images_BCHW: torch.Tensor, down_B: torch.Tensor, right_B: torch.Tensor) -> torch.Tensor:
    """Moves each image down and to the right by so many pixels (int64), reflecting at the edges."""
    height, width = images_BCHW.shape[-2:]
    rows = _reflected(down_B, height)[:, None, :, None].expand(images_BCHW.shape)
    columns = _reflected(right_B, width)[:, None, None, :].expand(images_BCHW.shape)
    return images_BCHW.gather(2, rows).gather(3, columns)


def _reflected(shift_B: torch.Tensor, size_px: int) -> torch.Tensor:
    """Which pixel of a line each pixel of the shifted line shows, shape (B, size)."""
    last = size_px - 1
    source = (torch.arange(size_px, device=shift_B.device) - shift_B[:, None]) % (2 * last)
    return torch.minimum(source, 2 * last - source)
