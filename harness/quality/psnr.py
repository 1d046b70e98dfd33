"""Pixel distances of image pairs: mean squared error and peak signal-to-noise ratio."""

from __future__ import annotations

import torch


def mse(preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each pair, (B,); for tensors (B, ...) of one shape and any range.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(preds, target)
    return (preds - target).square().flatten(1).mean(dim=1)


def psnr(preds: torch.Tensor, target: torch.Tensor, data_range: float = 1.0) -> torch.Tensor:
    """Peak signal-to-noise ratio of each pair in dB, (B,): 10 log10(data_range^2 / MSE); infinite for equal images.

    Computed in the tensors' own dtype: give float64 for numbers that are reported.

    Raises:
        ValueError: the shapes differ.
    """
    return psnr_of_mse(mse(preds, target), data_range)


def psnr_of_mse(error: torch.Tensor, data_range: float = 1.0) -> torch.Tensor:
    """The peak signal-to-noise ratio in dB that a mean squared error stands for."""
    return 10.0 * torch.log10(data_range**2 / error)


def check_same_shape(preds: torch.Tensor, target: torch.Tensor) -> None:
    """Raises ValueError where the tensors' shapes differ, instead of broadcasting one over the other."""
    if preds.shape != target.shape:
        raise ValueError(f"preds {tuple(preds.shape)} and target {tuple(target.shape)} differ; give equal shapes.")
