import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import CheckpointError, DataError, InputError
from harness.image_writing import write_picture
from harness.images import Picture, read_picture
from harness.models.build import build_generator
from harness.models.config import MSRResNetConfig, RRDBConfig
from harness.models.foreign import to_foreign
from harness.networks import open_network
from harness.schema import parse

FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MSR = parse(MSRResNetConfig, {"name": "msrresnet", "num_blocks": 1, "num_channels": 4}, "test")
RRDB = parse(RRDBConfig, {"name": "rrdb", "num_blocks": 1, "num_channels": 4, "growth": 2}, "test")


def their_weights(config) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    names = {"msrresnet": "basicsr-msrresnet", "rrdb": "basicsr-rrdb"}
    return to_foreign(config, build_generator(config, 4).state_dict(), names[config.name])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrapped", [lambda w: w, lambda w: {"params_ema": w}, lambda w: {f"module.{k}": v for k, v in w.items()}]
)
def test_another_projects_weights_give_its_network(tmp_path, wrapped):
    torch.save(wrapped(their_weights(MSR)), tmp_path / "a.pth")
    network = open_network(tmp_path / "a.pth")
    torch.manual_seed(0)
    image = torch.rand(1, 3, 8, 8)
    torch.manual_seed(0)
    want = build_generator(MSR, 4).eval()
    assert network.scale == 4
    with torch.no_grad():
        assert torch.allclose(network.module(image), want(image), atol=1e-6)


def test_mismatch_names_the_first_keys_and_what_the_file_looks_like(tmp_path):
    weights = their_weights(RRDB)
    del weights["conv_body.weight"], weights["conv_body.bias"]
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"look like basicsr-rrdb .*conv_body") as caught:
        open_network(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


@FUZZ
@given(data=st.data())
def test_changed_weights_are_opened_or_refused_in_one_sentence(tmp_path, data):
    weights = their_weights(data.draw(st.sampled_from([MSR, RRDB])))
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(sorted(weights)))
        change = data.draw(st.sampled_from(["drop", "rename", "shape", "scalar", "text"]))
        value = weights.pop(key)
        if change == "rename":
            weights[data.draw(st.sampled_from(["x", key + "1", "model.0.weight", "body.7.conv1.weight"]))] = value
        elif change == "shape":
            weights[key] = torch.zeros(data.draw(st.lists(st.integers(0, 5), max_size=5)))
        elif change == "scalar":
            weights[key] = torch.tensor(1)
        elif change == "text":
            weights[key] = "text"  # type: ignore[assignment]
    torch.save({"params": weights}, tmp_path / "a.pth")
    try:
        open_network(tmp_path / "a.pth").module(torch.rand(1, 3, 8, 8))
    except InputError as error:
        assert "\n" not in str(error)


@FUZZ
@given(data=st.data())
def test_damaged_files_are_refused_in_one_sentence(tmp_path, data):
    whole = tmp_path / "whole.png"
    write_picture(whole, Picture(np.arange(768, dtype=np.uint16).reshape(16, 16, 3), None, b"profile", b"Exif\0\0x"))
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        read_picture(damaged)
    except DataError as error:
        assert "\n" not in str(error)
    (tmp_path / "a.safetensors").write_bytes(damaged.read_bytes())
    (tmp_path / "a.pth").write_bytes(damaged.read_bytes())
    for name in ("a.safetensors", "a.pth"):
        with pytest.raises(CheckpointError):
            open_network(tmp_path / name)
