import numpy as np
import pytest
import torch
from torch import nn

from harness.augment.config import BcrConfig
from harness.augment.consistency import bcr_terms, shift, transform

POSITION = torch.arange(6)


def images(seed: int) -> torch.Tensor:
    return torch.rand(6, 3, 10, 12, generator=torch.Generator().manual_seed(seed))


def discriminator(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(4 * 4 * 5, 1))


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, 0), (-2, 4), (1, -4)])
def test_shift_equals_numpys_reflecting_pad_and_crop(down, right):
    batch = images(0)
    got = shift(batch, torch.full((6,), down), torch.full((6,), right)).numpy()
    padded = np.pad(batch.numpy(), [(0, 0), (0, 0), (4, 4), (4, 4)], mode="reflect")
    assert np.array_equal(got, padded[:, :, 4 - down : 14 - down, 4 - right : 16 - right])


def test_terms_are_the_weighted_squared_differences_of_the_logits():
    config, model = BcrConfig(name="bcr", real_weight=3.0, fake_weight=7.0), discriminator()
    real, fake = images(0), images(1)
    terms = bcr_terms(config, model, real, fake, model(real), model(fake), 4, POSITION)
    for side, batch, weight in (("real", real, 3.0), ("fake", fake, 7.0)):
        moved = transform(config, batch, 4, side, POSITION)
        want = weight * np.mean((model(moved) - model(batch)).detach().numpy() ** 2)
        assert terms[f"bcr_{side}"].item() == pytest.approx(want, rel=1e-5) and want > 0


def test_terms_move_the_discriminator():
    config, model = BcrConfig(name="bcr"), discriminator()
    real, fake = images(0), images(1)
    terms = bcr_terms(config, model, real, fake, model(real), model(fake), 4, POSITION)
    sum(terms.values()).backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad.abs().sum() > 0}
    assert moved == {"0.weight", "0.bias", "3.weight"}  # the last bias cancels in the difference


def test_a_discriminator_that_the_transform_cannot_fool_has_no_terms():
    config = BcrConfig(name="bcr", shift_px=0)
    real, fake = images(0), images(1)

    def mean(batch: torch.Tensor) -> torch.Tensor:
        return batch.mean((1, 2, 3)).unsqueeze(1)

    terms = bcr_terms(config, mean, real, fake, mean(real), mean(fake), 4, POSITION)
    assert all(term.item() < 1e-9 for term in terms.values())


def test_weight_of_zero_leaves_its_side_out():
    config, model = BcrConfig(name="bcr", fake_weight=0.0), discriminator()
    real, fake = images(0), images(1)
    assert set(bcr_terms(config, model, real, fake, model(real), model(fake), 4, POSITION)) == {"bcr_real"}


def test_transform_is_uniform_over_flips_and_shifts_and_decided_by_the_position():
    position = torch.arange(9000)
    ramp = torch.arange(25.0).reshape(1, 1, 5, 5).expand(9000, 1, 5, 5)
    moved = transform(BcrConfig(name="bcr", shift_px=1), ramp, 0, "real", position)
    rows = torch.floor(moved[:, 0, 2, 2] / 5)
    assert torch.bincount(rows.long() - 1, minlength=3).tolist() == pytest.approx([3000] * 3, abs=200)
    flipped = moved[:, 0, 2, 2] > moved[:, 0, 2, 3]
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.02)
    again = transform(BcrConfig(name="bcr", shift_px=1), ramp[4000:5000], 0, "real", position[4000:5000])
    assert torch.equal(again, moved[4000:5000])


def test_images_shift_down_and_right_independently_and_otherwise_with_another_seed():
    config, position = BcrConfig(name="bcr", shift_px=1, x_flip=False), torch.arange(9000)
    ramp = torch.arange(25.0).reshape(1, 1, 5, 5).expand(9000, 1, 5, 5)
    moved = transform(config, ramp, 0, "real", position)[:, 0, 2].long()
    middle = moved[:, 2]
    assert (moved[:, 3] > middle).all(), "none is mirrored"
    counts = torch.bincount(middle, minlength=25).reshape(5, 5)[1:4, 1:4]
    assert counts.sum() == 9000 and counts.flatten().tolist() == pytest.approx([1000] * 9, abs=150)
    assert not torch.equal(transform(config, ramp, 1, "real", position)[:, 0, 2, 2].long(), middle)
