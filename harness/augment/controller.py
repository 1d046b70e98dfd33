"""How p moves: the adaptive controller of Karras et al. (2020), its state in tensors on the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from harness.augment.config import AdaConfig

Reduce = Callable[[torch.Tensor], torch.Tensor]
"""Sums a tensor over all ranks (every rank calls it, and gets the same)."""


class Controller(nn.Module):
    """p and what decides its next move; nothing is read back to the host.

    `p`: scalar float32 tensor, the probability that the pipeline uses. `r_t`: the mean sign of the logits on real
    images over the last full window, 0 before the first. `tally`: the sum of the signs and their number in the window
    that is under way. All three are in `state_dict()`.
    """

    p: torch.Tensor
    r_t: torch.Tensor
    tally: torch.Tensor

    def __init__(self, p: float) -> None:
        super().__init__()
        self.register_buffer("p", torch.tensor(p, dtype=torch.float32))
        self.register_buffer("r_t", torch.zeros((), dtype=torch.float32))
        self.register_buffer("tally", torch.zeros(2, dtype=torch.float64))

    def note(self, real_logits: torch.Tensor) -> None:
        """Takes note of the discriminator's logits on some real images, of any shape; a fixed p ignores them.

        Above 0 is right: see `harness.losses.adversarial.real_margin`.
        """

    def ends_window(self, step: int) -> bool:
        """Whether p moves after discriminator update number `step`, from 0 on; it alone decides, so all ranks agree."""
        return False

    def move(self, batch_size: int, reduce: Reduce | None = None) -> None:
        """Moves p by what the window says, and begins another; a fixed p stays.

        Args:
            batch_size: global batch.
            reduce: sums the window over the ranks; None on one rank.
        """

    def pool(self, reduce: Reduce) -> None:
        """Averages the running window over the ranks, so that a checkpoint of one rank speaks for all of them."""


class AdaptiveController(Controller):
    """Raises p while the discriminator is too sure of the real images, lowers it otherwise."""

    def __init__(self, config: AdaConfig) -> None:
        super().__init__(config.start_p)
        self.config = config

    @torch.no_grad()
    def note(self, real_logits: torch.Tensor) -> None:
        signs = torch.sign(real_logits.detach().to(torch.float64))
        self.tally += torch.stack([signs.sum(), torch.ones_like(signs).sum()])

    def ends_window(self, step: int) -> bool:
        return (step + 1) % self.config.every == 0

    @torch.no_grad()
    def move(self, batch_size: int, reduce: Reduce | None = None) -> None:
        # Whole numbers, which a mean over three ranks (see `pool`) need not add up to in the last bit.
        tally = (self.tally if reduce is None else reduce(self.tally)).round()
        r_t = tally[0] / tally[1]
        move = self._step_size(batch_size)
        change = torch.where(r_t > self.config.target, move, torch.where(r_t < self.config.target, -move, 0.0))
        self.p.copy_(torch.clamp(self.p + change, 0.0, self.config.cap))
        self.r_t.copy_(r_t)
        self.tally.zero_()

    def _step_size(self, batch_size: int) -> float:
        if self.config.step is not None:
            return self.config.step
        assert self.config.adjust_images is not None
        return batch_size * self.config.every / self.config.adjust_images

    @torch.no_grad()
    def pool(self, reduce: Reduce) -> None:
        ranks = reduce(torch.ones_like(self.tally))
        self.tally.copy_(reduce(self.tally) / ranks)
