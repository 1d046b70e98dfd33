"""The fast PReLU gives torch's values and gradients."""

import pytest
import torch
from torch import nn

from harness.models.prelu import PReLU


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_equal_torchs(dtype, memory_format):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9, 7).to(dtype).contiguous(memory_format=memory_format)
    x[0, 0, 0, :3] = torch.tensor([0.0, -0.0, 1e-20])
    upstream = torch.randn(2, 4, 9, 7).to(dtype)
    results = []
    for layer in (PReLU(), nn.PReLU()):
        layer.weight.data.fill_(-0.3)
        given = x.clone().requires_grad_()
        # torch's own PReLU wants the slope in the input's precision, as autocast passes it.
        out = layer(given) if isinstance(layer, PReLU) else torch.prelu(given, layer.weight.to(dtype))
        out.backward(upstream)
        results.append((out.detach(), given.grad, layer.weight.grad))
    (out, to_input, to_slope), (torch_out, torch_to_input, torch_to_slope) = results
    assert torch.equal(out, torch_out) and torch.equal(to_input, torch_to_input)
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(to_slope, torch_to_slope, rtol=tolerance, atol=tolerance)
    assert to_slope.dtype == torch.float32


def test_slopes_gradient_is_summed_in_float32():
    """2051 lies between two values of bfloat16."""
    layer = PReLU()
    layer(-torch.ones(2051, dtype=torch.bfloat16)).backward(torch.ones(2051, dtype=torch.bfloat16))
    assert layer.weight.grad.item() == -2051


def test_a_second_derivative_is_refused_and_not_wrong():
    layer, x = PReLU(), torch.randn(10, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_state_dict_is_torchs():
    assert PReLU().state_dict().keys() == nn.PReLU().state_dict().keys()
    assert PReLU().weight.item() == 0.25


def test_slope_is_learnt():
    torch.manual_seed(0)
    layer, x = PReLU(), torch.randn(1000)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        (layer(x) - torch.where(x > 0, x, 0.7 * x)).square().mean().backward()
        optimizer.step()
    assert layer.weight.item() == pytest.approx(0.7, abs=0.01)


def test_frozen_slope_gets_no_gradient_and_the_input_still_does():
    layer, x = PReLU().requires_grad_(False), torch.randn(10, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, torch.where(x > 0, 1.0, 0.25))


def test_inference_gives_the_same_values():
    layer, x = PReLU(), torch.randn(10)
    with torch.no_grad():
        assert torch.equal(layer(x), torch.prelu(x, layer.weight))
