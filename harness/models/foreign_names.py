"""The names that other projects give to the layers of the networks that this project has, too.

For an architecture and a network's sizes there is one list of (our layer, their layer); both directions follow from
it. Facts: BasicSR's networks, and the names of ESRGAN's two older releases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from harness.errors import CheckpointError

Format = Literal["basicsr-msrresnet", "basicsr-rrdb", "basicsr-vgg", "esrgan-2018", "esrgan-old"]
StateDict = dict[str, Tensor]
Pairs = list[tuple[str, str]]


class Sizes(NamedTuple):
    """What decides which layers there are."""

    num_blocks: int
    num_doublings: int


@dataclass(frozen=True)
class Architecture:
    """A network as another project's files hold it."""

    family: str
    """The `name` of this project's section."""
    fixed: dict[str, Any]
    """Settings that the other project's network cannot vary."""
    marker: str
    """Pattern of a key that only these files have."""
    their_block: str
    """Pattern whose group is a block's number."""
    pairs: Callable[[Sizes], Pairs]
    config: Callable[[StateDict, Sizes], dict[str, Any]]
    scales: tuple[int, ...] = ()
    """That the other project's network is built for; none are listed where it takes any."""


def _msrresnet(sizes: Sizes) -> Pairs:
    pairs = [("layers.first.0", "conv_first")]
    for n in range(sizes.num_blocks):
        pairs += [(f"layers.blocks.{n}.branch.{place}", f"body.{n}.conv{k}") for place, k in ((0, 1), (3, 2))]
    pairs += [(f"layers.up.{n}.conv", f"upconv{n + 1}") for n in range(sizes.num_doublings)]
    return [*pairs, ("layers.high.0", "conv_hr"), ("layers.last", "conv_last")]


def _dense_layers(num_blocks: int, theirs: str) -> Iterator[tuple[str, str]]:
    """`theirs` has places {block}, {dense} and {conv}, the last two counted from 1."""
    for block in range(num_blocks):
        for dense in range(3):
            for conv in range(5):
                layer = f"convs.{conv}" if conv < 4 else "fusion"
                name = theirs.format(block=block, dense=dense + 1, conv=conv + 1)
                yield f"layers.blocks.{block}.dense.{dense}.{layer}", name


def _rrdb(sizes: Sizes) -> Pairs:
    return [
        ("layers.first", "conv_first"),
        *_dense_layers(sizes.num_blocks, "body.{block}.rdb{dense}.conv{conv}"),
        ("layers.trunk", "conv_body"),
        *((f"layers.up.{n}.conv", f"conv_up{n + 1}") for n in range(sizes.num_doublings)),
        ("layers.high.0", "conv_hr"),
        ("layers.last", "conv_last"),
    ]


def _rrdb_2018(sizes: Sizes) -> Pairs:
    return [
        ("layers.first", "conv_first"),
        *_dense_layers(sizes.num_blocks, "RRDB_trunk.{block}.RDB{dense}.conv{conv}"),
        ("layers.trunk", "trunk_conv"),
        *((f"layers.up.{n}.conv", f"upconv{n + 1}") for n in range(sizes.num_doublings)),
        ("layers.high.0", "HRconv"),
        ("layers.last", "conv_last"),
    ]


def _rrdb_old(sizes: Sizes) -> Pairs:
    """One numbered sequence; each doubling takes three numbers: upsampling, convolution, activation."""
    after = 3 * sizes.num_doublings
    return [
        ("layers.first", "model.0"),
        *_dense_layers(sizes.num_blocks, "model.1.sub.{block}.RDB{dense}.conv{conv}.0"),
        ("layers.trunk", f"model.1.sub.{sizes.num_blocks}"),
        *((f"layers.up.{n}.conv", f"model.{3 * n + 3}") for n in range(sizes.num_doublings)),
        ("layers.high.0", f"model.{after + 2}"),
        ("layers.last", f"model.{after + 4}"),
    ]


def _vgg(sizes: Sizes) -> Pairs:
    pairs = [("pairs.0.0", "conv0_0"), ("pairs.0.2", "conv0_1"), ("pairs.0.3", "bn0_1")]
    for n in range(1, sizes.num_blocks):
        places = ((0, f"conv{n}_0"), (1, f"bn{n}_0"), (3, f"conv{n}_1"), (4, f"bn{n}_1"))
        pairs += [(f"pairs.{n}.{place}", name) for place, name in places]
    return [*pairs, ("head.0", "linear1"), ("head.2", "linear2")]


def _msrresnet_config(weights: StateDict, sizes: Sizes) -> dict[str, Any]:
    width = weights["layers.first.0.weight"].shape[0]
    if sizes.num_doublings == 0 or weights["layers.up.0.conv.weight"].shape[0] != 4 * width:
        raise CheckpointError("the file is an MSRResNet for a scale that is no power of two; give one for 2, 4 or 8.")
    return {"name": "msrresnet", "num_blocks": sizes.num_blocks, "num_channels": width, "skip": "bilinear"}


def _rrdb_config(weights: StateDict, sizes: Sizes) -> dict[str, Any]:
    width, num_in = weights["layers.first.weight"].shape[:2]
    if num_in != 3:
        raise CheckpointError(
            f"the file is an RRDBNet of {num_in} input channels (a pixel-unshuffled input); give one of 3."
        )
    return {
        "name": "rrdb",
        "num_blocks": sizes.num_blocks,
        "num_channels": width,
        "growth": weights["layers.blocks.0.dense.0.convs.0.weight"].shape[0],
        "fusion_kernel": weights["layers.blocks.0.dense.0.fusion.weight"].shape[-1],
    }


def _vgg_config(weights: StateDict, sizes: Sizes) -> dict[str, Any]:
    return {
        "name": "vgg",
        "num_channels": weights["pairs.0.0.weight"].shape[0],
        "num_dense": weights["head.0.weight"].shape[0],
    }


_FIXED_IN_RRDB = {"skip": "none", "output": "linear", "residual_scale": 0.2, "fusion_kernel": 3}
"""Of all three forms of ESRGAN's network."""
ARCHITECTURES: dict[Format, Architecture] = {
    "basicsr-msrresnet": Architecture(
        family="msrresnet",
        fixed={"skip": "bilinear", "output": "linear"},
        marker=r"body\.\d+\.conv1\.weight",
        their_block=r"body\.(\d+)\.",
        pairs=_msrresnet,
        config=_msrresnet_config,
        scales=(2, 4),
    ),
    "basicsr-rrdb": Architecture(
        family="rrdb",
        fixed=_FIXED_IN_RRDB,
        marker=r"body\.\d+\.rdb1\.conv1\.weight",
        their_block=r"body\.(\d+)\.",
        pairs=_rrdb,
        config=_rrdb_config,
        scales=(4,),  # for 2 it takes 12 channels, pixel-unshuffled
    ),
    "esrgan-2018": Architecture(
        family="rrdb",
        fixed=_FIXED_IN_RRDB,
        marker=r"RRDB_trunk\.\d+\.RDB1\.conv1\.weight",
        their_block=r"RRDB_trunk\.(\d+)\.",
        pairs=_rrdb_2018,
        config=_rrdb_config,
        scales=(4,),
    ),
    "esrgan-old": Architecture(
        family="rrdb",
        fixed=_FIXED_IN_RRDB,
        marker=r"model\.1\.sub\.\d+\.RDB1\.conv1\.0\.weight",
        their_block=r"model\.1\.sub\.(\d+)\.RDB",
        pairs=_rrdb_old,
        config=_rrdb_config,
    ),
    "basicsr-vgg": Architecture(
        family="vgg",
        fixed={"batch_norm": True, "spectral_norm": False},
        marker=r"bn0_1\.weight",
        their_block=r"conv(\d+)_",
        pairs=_vgg,
        config=_vgg_config,
    ),
}

# What a file that is none of these may be: a pattern at the start of one of its keys.
LOOKS = {
    "SwinIR or HAT": r"layers\.\d+\.residual_group\.",
    "EDSR": r"body\.\d+\.body\.\d+\.weight|head\.0\.weight",
    "Real-ESRGAN's U-Net discriminator": r"conv\d\.weight_orig",
    "SRVGGNetCompact": r"body\.\d+\.weight",
    "a generator of this project": r"layers\.(first|groups|down)\.",
    "a VGG classifier": r"features\.0\.weight",
}
