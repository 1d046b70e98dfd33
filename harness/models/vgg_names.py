"""The names of VGG16's and VGG19's convolutional layers, in order: conv1_1, relu1_1, ..., pool5. Imports no torch."""

from __future__ import annotations

from typing import Literal

VGGName = Literal["vgg16", "vgg19"]

_CONVS_PER_STAGE = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def layer_names(network: VGGName) -> tuple[str, ...]:
    """A layer's place here is its number in torchvision's `features`; `conv` is before the activation."""
    names: list[str] = []
    for stage, num_convs in enumerate(_CONVS_PER_STAGE[network], start=1):
        for number in range(1, num_convs + 1):
            names += [f"conv{stage}_{number}", f"relu{stage}_{number}"]
        names.append(f"pool{stage}")
    return tuple(names)
