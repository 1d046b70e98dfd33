import math

import pytest
import torch
from scipy import stats

from harness.augment.config import ALL_OPERATIONS, FixedAugmentConfig
from harness.augment.draws import Draws, Streams, draw

POSITION = torch.arange(20_000)


def drawn(p: float, **changes) -> Draws:
    streams = Streams.of(11, "real", (3, 4, 4), POSITION.device)
    return draw(FixedAugmentConfig(name="fixed", p=p, **changes), streams, POSITION, torch.tensor(p))


def only(name: str) -> Draws:
    return drawn(1.0, operations=(name,))


@pytest.mark.parametrize(
    ("name", "values", "distribution"),
    [
        ("scale", lambda d: torch.log2(d.factor_x), stats.norm(0, 0.2)),
        ("scale", lambda d: torch.log2(d.factor_y), stats.norm(0, 0.2)),
        ("aniso", lambda d: torch.log2(d.factor_x), stats.norm(0, 0.2)),
        ("brightness", lambda d: d.brightness, stats.norm(0, 0.2)),
        ("contrast", lambda d: torch.log2(d.contrast), stats.norm(0, 0.5)),
        ("saturation", lambda d: torch.log2(d.saturation), stats.norm(0, 1.0)),
        ("hue", lambda d: d.hue, stats.uniform(-math.pi, 2 * math.pi)),
        ("noise", lambda d: d.noise_std, stats.halfnorm(0, 0.1)),
    ],
)
def test_parameter_has_its_documented_distribution(name, values, distribution):
    assert stats.kstest(values(only(name)).double().numpy(), distribution.cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("name", "values", "levels"),
    [
        ("x_flip", lambda d: d.flip, 2),
        ("rotate90", lambda d: d.quarter_turns, 4),
        ("luma_flip", lambda d: d.luma_flip, 2),
    ],
)
def test_discrete_parameter_is_uniform(name, values, levels):
    counts = torch.bincount(values(only(name)).long(), minlength=levels)
    assert counts.numel() == levels and stats.chisquare(counts.numpy()).pvalue > 0.01


def test_anisotropic_scaling_keeps_the_area():
    draws = only("aniso")
    assert torch.allclose(draws.factor_x * draws.factor_y, torch.ones(()), atol=1e-5)


def test_standard_deviations_are_the_configured_ones():
    draws = drawn(1.0, scale_std=0.1, operations=("scale", "hue"), hue_max=0.25)
    assert torch.log2(draws.factor_x).std().item() == pytest.approx(0.1, rel=0.03)
    assert draws.hue.abs().max().item() == pytest.approx(math.pi / 4, rel=1e-3)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.85, 1.0])
def test_each_operation_comes_with_probability_p(p):
    draws = drawn(p)
    shares = {
        "brightness": draws.brightness != 0,
        "contrast": draws.contrast != 1,
        "hue": draws.hue != 0,
        "saturation": draws.saturation != 1,
        "noise": draws.noisy,
    }
    for name, applied in shares.items():
        assert applied.float().mean().item() == pytest.approx(p, abs=0.015), name
    assert draws.flip.float().mean().item() == pytest.approx(p / 2, abs=0.015)
    assert (draws.quarter_turns > 0).float().mean().item() == pytest.approx(p * 0.75, abs=0.015)
    assert draws.rescaled.float().mean().item() == pytest.approx(1 - (1 - p) ** 2, abs=0.015)


def test_operations_are_drawn_independently_of_each_other():
    draws = drawn(0.5)
    columns = torch.stack(
        [draws.flip, draws.quarter_turns > 0, draws.brightness != 0, draws.contrast != 1, draws.noisy, draws.hue != 0]
    ).double()
    correlation = torch.corrcoef(columns) - torch.eye(len(columns), dtype=torch.float64)
    assert correlation.abs().max() < 0.03


def test_strengths_are_drawn_independently_of_each_other():
    d = drawn(1.0)
    scale, aniso = torch.log2(d.factor_x * d.factor_y), torch.log2(d.factor_x / d.factor_y)
    columns = [scale, aniso, d.brightness, torch.log2(d.contrast), torch.log2(d.saturation), d.noise_std, d.hue]
    coins = [d.flip, d.quarter_turns, d.luma_flip]
    correlation = torch.corrcoef(torch.stack([*columns, *coins]).double()) - torch.eye(10, dtype=torch.float64)
    assert correlation.abs().max() < 0.03


def test_p_of_zero_is_no_operation_whatever_is_drawn(monkeypatch):
    monkeypatch.setattr("harness.augment.draws.uniform_tensor", lambda _, at, num: torch.zeros(len(at), num))
    draws = drawn(0.0)
    assert not (draws.flip | draws.rescaled | draws.recoloured | draws.noisy).any()


def test_an_operation_draws_the_same_whether_or_not_others_are_there():
    alone, among = drawn(0.5, operations=("contrast",)), drawn(0.5, operations=ALL_OPERATIONS)
    assert torch.equal(alone.contrast, among.contrast)
    assert not alone.flip.any() and not alone.noisy.any() and not alone.rescaled.any()
