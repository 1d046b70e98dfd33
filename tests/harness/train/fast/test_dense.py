"""The optimiser on channels_last weights is torch's own, without copies of the gradients."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from harness.train.fast.dense import DenseAdam, DenseAdamW


def trained(build, memory_format, **options) -> tuple[list[torch.Tensor], torch.optim.Optimizer, nn.Module]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 1)
    )
    network.to(memory_format=memory_format)
    optimizer = build(network.parameters(), lr=0.1, eps=1e-3, **options)
    for _ in range(4):
        optimizer.zero_grad()
        network(torch.rand(4, 3, 6, 6).to(memory_format=memory_format)).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in network.parameters()], optimizer, network


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("ours", "theirs", "decay"), [(DenseAdam, torch.optim.Adam, 0.0), (DenseAdamW, torch.optim.AdamW, 0.1)]
)
def test_updates_equal_torchs_unfused_ones(ours, theirs, decay, memory_format):
    given, optimizer, network = trained(ours, memory_format, fused=True, weight_decay=decay)
    expected, other, _ = trained(theirs, memory_format, foreach=False, weight_decay=decay)
    for value, wanted in zip(given, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6)
    states = optimizer.state_dict()["state"], other.state_dict()["state"]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        assert state["exp_avg"].stride() == states[1][number]["exp_avg"].stride()
    assert all(parameter.stride() == parameter.grad.stride() for parameter in network.parameters())


def test_no_gradient_is_copied():
    weight = nn.Parameter(torch.rand(16, 16, 3, 3).to(memory_format=torch.channels_last))
    optimizer = DenseAdam([weight], fused=True)
    weight.grad = torch.rand_like(weight)
    optimizer.step()
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        optimizer.step()
    assert "aten::_fused_adam_" in {event.key for event in watched.key_averages()}
    assert "aten::clone" not in {event.key for event in watched.key_averages()}


def test_a_gradient_of_another_layout_is_an_error_not_a_wrong_update():
    weight = nn.Parameter(torch.rand(4, 3, 3, 3).to(memory_format=torch.channels_last))
    weight.grad = torch.rand(4, 3, 3, 3)
    with pytest.raises(AssertionError, match="layouts differ"):
        DenseAdam([weight], fused=True).step()


def test_large_parameters_come_first_and_all_that_belongs_to_each_with_it():
    weights = [nn.Parameter(torch.rand(size)) for size in (2, 9, 4)]
    optimizer = DenseAdam(weights, fused=True)
    for number, weight in enumerate(weights):
        weight.grad = torch.full_like(weight, number)
    parameters, gradients, *others = ([] for _ in range(6))
    optimizer._init_group(optimizer.param_groups[0], parameters, gradients, *others)
    assert [len(parameter) for parameter in parameters] == [9, 4, 2]
    assert [gradient[0].item() for gradient in gradients] == [1, 2, 0]
    averages, squares, _, steps = others
    for values in (averages, squares):
        assert [len(value) for value in values] == [9, 4, 2]
    states = [optimizer.state[parameter] for parameter in parameters]
    assert all(step is state["step"] for step, state in zip(steps, states, strict=True))
