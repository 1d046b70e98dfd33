"""Generators in the formats that other programs read: BasicSR's names, safetensors, ONNX (`harness export`)."""

from __future__ import annotations

import copy
import io
import json
import warnings
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.config import RunConfig
from harness.errors import InputError, first_line
from harness.files import whole
from harness.models.foreign import to_foreign
from harness.models.foreign_names import Format as ForeignFormat
from harness.models.skip import GlobalSkip, enlarge_matrix
from harness.train.start import load_generator

ExportFormat = Literal["basicsr", "esrgan-old", "safetensors", "onnx"]
_SUFFIXES: dict[ExportFormat, tuple[str, ...]] = {
    "basicsr": (".pth", ".safetensors"),
    "esrgan-old": (".pth", ".safetensors"),
    "safetensors": (".safetensors",),
    "onnx": (".onnx",),
}
_BASICSR: dict[str, ForeignFormat] = {"msrresnet": "basicsr-msrresnet", "rrdb": "basicsr-rrdb"}
_OPSET = 18
_TOLERANCE = 1e-4


def export(run: Path, format: str, out: Path | None = None) -> Path:
    """Writes the averaged generator of a run, checkpoint or export as a file of another format.

    - `basicsr`: the names of BasicSR's MSRResNet or RRDBNet, under `params` and `params_ema` in a `.pth` file, or flat
      where `out` ends in `.safetensors`;
    - `esrgan-old`: the names of ESRGAN's first release, flat;
    - `safetensors`: this project's names, with the configuration in the metadata;
    - `onnx`: any batch and image size, input `lr_image` and output `sr_image` in [0, 1], not clipped. Compared with
      the network in onnxruntime, where that is installed, before the file gets its name.

    Returns:
        The file: `out`, or RUN's name with the format's suffix in the current folder.

    Raises:
        InputError: the run cannot be read, the format is unknown or has no place for this generator.
    """
    chosen = _checked_format(format)
    target = _target(run, chosen, out)
    if run.is_file() and run.suffix != ".safetensors":
        raise InputError(f"{run}: is a file of another project; give a run, a checkpoint or an export of this one.")
    generator, config = load_generator(run)
    with whole(target, sync=True) as path:
        if chosen == "safetensors":
            metadata = {"harness": json.dumps({"config": config.model_dump(mode="json")})}
            _save(_plain(generator), path, metadata)
        elif chosen == "onnx":
            _write_onnx(generator, path)
        else:
            _write_foreign(generator, config, chosen, path, target.suffix)
    return target


def _checked_format(format: str) -> ExportFormat:
    for known in get_args(ExportFormat):
        if format == known:
            return known
    raise InputError(f"format '{format}': is unknown; choose one of {', '.join(get_args(ExportFormat))}.")


def _target(run: Path, format: ExportFormat, out: Path | None) -> Path:
    suffixes = _SUFFIXES[format]
    if out is None:
        name = run.resolve().name
        return Path(f"{name.removesuffix('.safetensors')}{'' if format == 'onnx' else f'-{format}'}{suffixes[0]}")
    if out.suffix not in suffixes:
        raise InputError(f"{out}: format {format} is written to a file ending in {' or '.join(suffixes)}; rename it.")
    return out


def _save(weights: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, written so that a full disk is told as one."""
    path.write_bytes(safetensors.torch.save(weights, metadata))


def _plain(generator: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in generator.state_dict().items()}


def _write_foreign(generator: nn.Module, config: RunConfig, format: str, path: Path, suffix: str) -> None:
    family = config.generator.name
    if format == "basicsr" and family not in _BASICSR:
        raise InputError(f"format basicsr: holds {' or '.join(_BASICSR)}, not a {family}; use safetensors or onnx.")
    names: ForeignFormat = _BASICSR[family] if format == "basicsr" else "esrgan-old"
    weights = {
        name: value.contiguous() for name, value in to_foreign(config.generator, _plain(generator), names).items()
    }
    if suffix == ".safetensors":
        _save(weights, path)
    else:
        buffer = io.BytesIO()  # torch tells a full disk as a RuntimeError
        torch.save({"params": weights, "params_ema": weights} if format == "basicsr" else weights, buffer)
        path.write_bytes(buffer.getbuffer())


class FilterSkip(nn.Module):
    """A global skip as one grouped convolution and a pixel shuffle: the same numbers, for images of any size.

    A convolution can be written down once for all sizes, which the matrices of `GlobalSkip` cannot.
    """

    taps: Tensor

    def __init__(self, kind: str, scale: int) -> None:
        super().__init__()
        middle = 3  # far from the edges, an input pixel's row of weights is the filter
        matrix = enlarge_matrix(kind, 2 * middle + 1, scale)[middle * scale : (middle + 1) * scale, 1:6]
        outer = np.einsum("ay,bx->abyx", matrix, matrix).reshape(scale * scale, 1, 5, 5)
        self.register_buffer("taps", torch.from_numpy(np.tile(outer, (3, 1, 1, 1))).float())
        self.scale = scale

    def forward(self, image_BCHW: Tensor) -> Tensor:
        padded = F.pad(image_BCHW, (2, 2, 2, 2), mode="replicate")
        return F.pixel_shuffle(F.conv2d(padded, self.taps, groups=3), self.scale)


class AlignedSkip(nn.Module):
    """The global skip `bicubic_align_corners` as the operator that ONNX has for it."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return F.interpolate(image_BCHW, scale_factor=self.scale, mode="bicubic", align_corners=True)


def for_any_size(generator: nn.Module) -> nn.Module:
    """A copy whose operators do not depend on the image's size."""
    generator = copy.deepcopy(generator)
    for name, module in list(generator.named_modules()):
        if isinstance(module, GlobalSkip):
            aligned = module.kind == "bicubic_align_corners"
            parent, _, child = name.rpartition(".")
            skip = AlignedSkip(module.scale) if aligned else FilterSkip(module.kind, module.scale)
            setattr(generator.get_submodule(parent), child, skip)
    return generator


def _write_onnx(generator: nn.Module, path: Path) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise InputError("format onnx: needs two more packages; run `pip install onnx onnxscript`.") from None
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                for_any_size(generator),
                (torch.rand(2, 3, 24, 32),),
                str(path),
                input_names=["lr_image"],
                output_names=["sr_image"],
                dynamic_shapes=(sizes,),
                opset_version=_OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except (RuntimeError, ValueError, TypeError) as error:
        reason = first_line(error)
        raise InputError(f"format onnx: cannot express this generator ({reason}); use safetensors.") from None
    _compare(generator, path)


def _compare(generator: nn.Module, path: Path) -> None:
    """That the file computes what the network does, at another size than it was traced with."""
    try:
        import onnxruntime
    except ImportError:
        return
    image = torch.rand(1, 3, 19, 27, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = generator(image).numpy()
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(None, {"lr_image": image.numpy()})[0]
    except Exception as error:  # onnxruntime's own have no class in common
        reason = first_line(error)
        raise InputError(
            f"format onnx: the file does not run at another size than it was made with ({reason}); use safetensors, or "
            "a newer torch."
        ) from None
    difference = float(np.abs(found - want).max())
    if not difference <= _TOLERANCE:
        raise InputError(f"format onnx: the file's output is {difference:.1e} off; use safetensors, and report it.")
