"""The Inception network of FID, from `pytorch-fid`'s blocks and its weights file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torchvision
from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
from torch import nn

from harness.errors import CheckpointError, first_line

_INPUT_PX = 299
_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2")
_MIXED = tuple(f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"))


class FIDInception(nn.Module):
    """2,048 features per image after the last pooling; the network that every published FID uses."""

    def __init__(self, weights_file: Path) -> None:
        """Loads `pytorch-fid`'s weights.

        Raises:
            CheckpointError: the file cannot be read or holds another network.
        """
        super().__init__()
        # On the meta device nothing is drawn that the file replaces anyway.
        with torch.device("meta"):
            network = fid_inception_skeleton()
        try:
            network.load_state_dict(torch.load(weights_file, map_location="cpu", weights_only=True), assign=True)
        except Exception as error:  # damaged files make torch's unpickler raise nearly anything
            reason = first_line(error)
            raise CheckpointError(
                f"{weights_file}: is not FID's Inception network ({reason}); fetch it again."
            ) from None
        self.layers = nn.Sequential(*(getattr(network, name) for name in (*_STEM, *_MIXED)))
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def describe(self, image_BCHW: torch.Tensor) -> np.ndarray:
        """Features (B, 2048) float32 of RGB or grey images in [0, 1] of any size (resized to 299 x 299, bilinear)."""
        x = image_BCHW.to(next(self.parameters()).device, torch.float32).expand(-1, 3, -1, -1)
        x = nn.functional.interpolate(x, size=(_INPUT_PX, _INPUT_PX), mode="bilinear", align_corners=False)
        x = self.layers((2 * x - 1).contiguous(memory_format=torch.channels_last))
        return x.mean(dim=(2, 3)).cpu().numpy()


def fid_inception_skeleton() -> nn.Module:
    """The network with untrained weights: torchvision's Inception with the blocks that FID's differs in."""
    network = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
    network.Mixed_5b = FIDInceptionA(192, pool_features=32)
    network.Mixed_5c = FIDInceptionA(256, pool_features=64)
    network.Mixed_5d = FIDInceptionA(288, pool_features=64)
    network.Mixed_6b = FIDInceptionC(768, channels_7x7=128)
    network.Mixed_6c = FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6d = FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6e = FIDInceptionC(768, channels_7x7=192)
    network.Mixed_7b = FIDInceptionE_1(1280)
    network.Mixed_7c = FIDInceptionE_2(2048)
    return network
