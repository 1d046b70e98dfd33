import math

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from harness.augment.colour import colour_matrix, for_unit_range

NEUTRAL = {"brightness": 0.0, "contrast": 1.0, "luma_flip": False, "hue": 0.0, "saturation": 1.0}
COLOURS = np.random.default_rng(1).uniform(-1, 1, (50, 3))
GREY = np.ones(3) / math.sqrt(3)


def matrix(**changes) -> np.ndarray:
    values = {**NEUTRAL, **changes}
    dtypes = {name: torch.bool if name == "luma_flip" else torch.float64 for name in values}
    return colour_matrix(*(torch.tensor([values[name]], dtype=dtypes[name]) for name in NEUTRAL))[0].numpy()


def apply(m: np.ndarray, colours: np.ndarray) -> np.ndarray:
    return colours @ m[:, :3].T + m[:, 3]


def test_neutral_parameters_give_the_identity():
    assert np.allclose(matrix(), np.eye(3, 4), atol=1e-12)


def test_brightness_adds_to_every_channel():
    assert np.allclose(apply(matrix(brightness=0.3), COLOURS), COLOURS + 0.3)


def test_contrast_multiplies_around_mid_grey_after_the_brightness():
    assert np.allclose(apply(matrix(brightness=0.1, contrast=1.7), COLOURS), (COLOURS + 0.1) * 1.7)


def test_luma_flip_mirrors_the_grey_component():
    want = COLOURS - 2 * COLOURS.mean(1, keepdims=True)
    assert np.allclose(apply(matrix(luma_flip=True), COLOURS), want)


def test_hue_rotates_around_the_grey_axis():
    want = Rotation.from_rotvec(GREY * 1.1).apply(COLOURS)
    assert np.allclose(apply(matrix(hue=1.1), COLOURS), want)


def test_hue_of_a_third_turn_cycles_the_channels():
    assert np.allclose(apply(matrix(hue=2 * math.pi / 3), COLOURS), np.roll(COLOURS, 1, axis=1))


def test_saturation_multiplies_the_distance_from_grey():
    mean = COLOURS.mean(1, keepdims=True)
    assert np.allclose(apply(matrix(saturation=2.5), COLOURS), mean + 2.5 * (COLOURS - mean))


def test_all_together_are_the_single_ones_one_after_the_other():
    steps = [{"brightness": 0.2}, {"contrast": 0.6}, {"luma_flip": True}, {"hue": -0.7}, {"saturation": 1.4}]
    want = COLOURS
    for step in steps:
        want = apply(matrix(**step), want)
    assert np.allclose(apply(matrix(**{k: v for step in steps for k, v in step.items()}), COLOURS), want)


def test_unit_range_matrix_does_the_same_to_colours_in_zero_to_one():
    m = matrix(brightness=0.2, contrast=1.3, hue=0.5, saturation=0.4, luma_flip=True)
    unit = for_unit_range(torch.tensor(m)[None])[0].numpy()
    assert np.allclose(apply(unit, (COLOURS + 1) / 2), (apply(m, COLOURS) + 1) / 2)
