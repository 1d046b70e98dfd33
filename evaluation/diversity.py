"""How much a model's output changes when its input changes by noise: the spread that the perceptual project measured.

The LR image gets Gaussian noise several times (counter-based, keyed by the image), is rounded to 8 bits, and goes
through the model. The number is the root mean square, over all values, of the standard deviation of the outputs, in
8-bit levels. It says how the model reacts to noise, not how good it is: bicubic gives the figure to compare with.
"""

from __future__ import annotations

import hashlib

import numpy as np

from evaluation.config import DiversityConfig
from evaluation.upsamplers import Upsampler
from harness.random import key as stream_key


def diversity(upsampler: Upsampler, lr_NHWC: np.ndarray, keys: list[str], config: DiversityConfig) -> np.ndarray:
    """The spread (N,) of the outputs for each of N LR images, in 8-bit levels; NaN where an output is not finite."""
    outputs = []
    finite_N = np.ones(len(lr_NHWC), bool)
    for sample in range(config.num_samples):
        noisy_NHWC = np.stack([with_noise(image, key, sample, config.noise_std) for image, key in zip(lr_NHWC, keys)])
        sr_NHWC, finite = upsampler.batch(noisy_NHWC, keys)
        outputs.append(sr_NHWC)
        finite_N &= finite
    spread_N = output_spread(np.stack(outputs))
    return np.where(finite_N, spread_N, np.nan)


def output_spread(outputs_KNHWC: np.ndarray) -> np.ndarray:
    """Root mean square of the values' standard deviation (K - 1) over K outputs, (N,)."""
    count = len(outputs_KNHWC)
    total = outputs_KNHWC.sum(axis=0, dtype=np.int64)
    squares = np.square(outputs_KNHWC, dtype=np.int64).sum(axis=0)
    variance = (squares - total * total / count) / (count - 1)
    return np.sqrt(variance.reshape(variance.shape[0], -1).mean(axis=1))


def with_noise(lr_image: np.ndarray, image_key: str, sample: int, noise_std: float) -> np.ndarray:
    """The image with noise number `sample`, rounded to uint8; the same for every model."""
    seed = int(hashlib.sha256(image_key.encode()).hexdigest()[:8], 16)
    random = np.random.Generator(np.random.Philox(key=stream_key(seed, "diversity", sample)))
    noise = random.normal(0.0, noise_std * 255, lr_image.shape)
    return np.clip(np.rint(lr_image + noise), 0, 255).astype(np.uint8)
