"""How much a model's output changes when its input changes by noise, and what that costs in quality.

The perceptual project's measure. The LR image gets Gaussian noise several times (counter-based, keyed by the image), is
rounded to 8 bits, and goes through the model. The diversity is the mean distance between two outputs: the root mean
square of their difference in 8-bit levels, over all pairs. Its cost is the PSNR (RGB, whole image) that the noise takes
from the outputs, in dB. Neither says how good a model is: bicubic gives the figures to compare with.
"""

from __future__ import annotations

import hashlib
import itertools

import numpy as np

from evaluation.config import DiversityConfig
from evaluation.scores.upsamplers import Upsampler
from harness.random import key as stream_key

_LEAST_ERROR = 1e-3


def diversity(
    upsampler: Upsampler,
    lr_NHWC: np.ndarray,
    sr_NHWC: np.ndarray,
    hr_NHWC: np.ndarray,
    keys: list[str],
    config: DiversityConfig,
) -> dict[str, np.ndarray]:
    """The columns `diversity` (8-bit levels) and `diversity-cost` (dB), (N,) each, for N uint8 images.

    Args:
        sr_NHWC: the outputs for the LR images without noise.

    An image with an output that is not finite has NaN in both.
    """
    outputs = []
    finite_N = np.ones(len(lr_NHWC), bool)
    for sample in range(config.num_samples):
        noisy_NHWC = np.stack([with_noise(image, key, sample, config.noise_std) for image, key in zip(lr_NHWC, keys)])
        noisy_sr_NHWC, finite = upsampler.batch(noisy_NHWC, keys)
        outputs.append(noisy_sr_NHWC)
        finite_N &= finite
    outputs_KNHWC = np.stack(outputs)
    columns = {
        "diversity": mean_distance(outputs_KNHWC),
        "diversity-cost": psnr_lost(outputs_KNHWC, sr_NHWC, hr_NHWC),
    }
    return {name: np.where(finite_N, values_N, np.nan) for name, values_N in columns.items()}


def mean_distance(outputs_KNHWC: np.ndarray) -> np.ndarray:
    """The mean over all pairs of K outputs of the root mean square difference, (N,)."""
    pairs = itertools.combinations(outputs_KNHWC, 2)
    return np.mean([np.sqrt(_mean_squared_error(first, second)) for first, second in pairs], axis=0)


def psnr_lost(outputs_KNHWC: np.ndarray, sr_NHWC: np.ndarray, hr_NHWC: np.ndarray) -> np.ndarray:
    """The PSNR of the outputs without noise minus the mean PSNR of those with it, (N,) in dB.

    An error below a thousandth of a squared level counts as that, so that a perfect output has a finite PSNR.
    """
    without = np.maximum(_mean_squared_error(sr_NHWC, hr_NHWC), _LEAST_ERROR)
    noisy = [np.maximum(_mean_squared_error(output, hr_NHWC), _LEAST_ERROR) for output in outputs_KNHWC]
    return np.mean([10.0 * np.log10(error / without) for error in noisy], axis=0)


def _mean_squared_error(first_NHWC: np.ndarray, second_NHWC: np.ndarray) -> np.ndarray:
    difference = first_NHWC.astype(np.float64) - second_NHWC
    return np.square(difference).reshape(len(difference), -1).mean(axis=1)


def with_noise(lr_image: np.ndarray, image_key: str, sample: int, noise_std: float) -> np.ndarray:
    """The image with noise number `sample`, rounded to uint8; the same for every model."""
    seed = int(hashlib.sha256(image_key.encode()).hexdigest()[:8], 16)
    random = np.random.Generator(np.random.Philox(key=stream_key(seed, "diversity", sample)))
    noise = random.normal(0.0, noise_std * 255, lr_image.shape)
    return np.clip(np.rint(lr_image + noise), 0, 255).astype(np.uint8)
