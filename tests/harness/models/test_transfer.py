"""Transfer: which layers start anew, and which are trained."""

import pytest
import torch
from torch import nn

from harness.errors import InputError
from harness.models.build import build_generator
from harness.models.config import SRResNetConfig
from harness.models.transfer import reinit_last, trainable_last

CONFIG = SRResNetConfig(num_blocks=2, num_channels=8, batch_norm="everywhere", start_as_skip=False)


def generator_and_convolutions():
    torch.manual_seed(0)
    generator = build_generator(CONFIG, 4)
    return generator, [key for key, m in generator.named_modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("n", [1, 3, 5])
def test_only_the_last_convolutions_start_anew(n):
    generator, convolutions = generator_and_convolutions()
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    assert reinit_last(generator, n, 0.02, torch.Generator().manual_seed(1)) == convolutions[-n:]
    changed = {key for key, value in generator.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"{layer}.{kind}" for layer in convolutions[-n:] for kind in ("weight", "bias")}


def test_new_weights_are_normal_with_the_given_deviation():
    generator, _ = generator_and_convolutions()
    reinit_last(generator, 5, 0.02, torch.Generator().manual_seed(1))
    weight = generator.layers.up[0].conv.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(weight.mean().item()) < 0.002
    assert generator.layers.last.bias.abs().max() == 0


def test_same_seed_draws_the_same_weights():
    first, second = (generator_and_convolutions()[0] for _ in range(2))
    for generator in (first, second):
        reinit_last(generator, 3, 0.02, torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


def test_a_step_moves_only_the_trainable_parameters():
    generator, convolutions = generator_and_convolutions()
    trainable = set(trainable_last(generator, 3))
    assert {key.rpartition(".")[0] for key in trainable} >= set(convolutions[-3:])
    before = {key: p.detach().clone() for key, p in generator.named_parameters()}
    optimizer = torch.optim.Adam((p for p in generator.parameters() if p.requires_grad), lr=0.1)
    generator(torch.rand(2, 3, 8, 8)).square().mean().backward()
    assert all((p.grad is not None) == (key in trainable) for key, p in generator.named_parameters())
    optimizer.step()
    moved = {key for key, p in generator.named_parameters() if not torch.equal(p, before[key])}
    assert moved == trainable


def test_more_layers_than_there_are_is_refused():
    generator, convolutions = generator_and_convolutions()
    with pytest.raises(InputError, match=f"train_last: 99 was given, but the generator has {len(convolutions)}"):
        trainable_last(generator, 99)
