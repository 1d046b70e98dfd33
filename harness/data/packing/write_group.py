"""Writing one group of a pack: the samples of some images as a piece of a tar. Runs in a worker."""

from __future__ import annotations

import io
import json
import re
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from harness.data import images
from harness.data.packing import survey
from harness.data.packing.layout import Codec, Group, Options, tile_places
from harness.data.packing.survey import Skipped, SourceImage
from harness.data.sidecar import Sample
from harness.data.tar import write_member
from harness.files import write_text, written_to


def write_group(building: Path, options: Options, group: Group) -> tuple[str, int]:
    """Writes the tiles of some images as a piece of a tar, and the record of it last. Runs in a worker."""
    samples: list[dict[str, Any]] = []
    skipped: list[Skipped] = []
    part = building / f"{group.name}.part"
    with written_to(part) as file:
        for image in group.images:
            pixels_HWC = survey.decode(image)
            if isinstance(pixels_HWC, Skipped):
                skipped.append(pixels_HWC)
                continue
            tile_px = options.tile_px if image.split == "train" else 0
            for place in tile_places(pixels_HWC.shape[0], pixels_HWC.shape[1], tile_px):
                samples.append(dict(vars(_write_sample(file, pixels_HWC, image, place, options.codec))))
        size = file.tell()
    record = {"samples": samples, "skipped": [asdict(item) for item in skipped], "bytes": size}
    write_text(building / f"{group.name}.json", json.dumps(record))
    return group.name, len(group.images)


def is_written(building: Path, group: Group) -> bool:
    """Whether an earlier pack wrote the group, and its samples are there: a power failure can leave holes in a file."""
    try:
        record = json.loads((building / f"{group.name}.json").read_text())
        with (building / f"{group.name}.part").open("rb") as file:
            return all(_is_there(file, sample) for sample in record["samples"]) and file.seek(0, 2) == record["bytes"]
    except (OSError, ValueError, KeyError):  # not there, torn, or a record of an older version
        return False


def _is_there(file: Any, sample: dict[str, Any]) -> bool:
    file.seek(sample["offset"])
    return zlib.crc32(file.read(sample["length"])) == sample["crc32"]


def _write_sample(
    file: Any, pixels_HWC: np.ndarray, image: SourceImage, place: tuple[int, int, int, int], codec: Codec
) -> Sample:
    top, left, height, width = place
    tile_HWC = np.ascontiguousarray(pixels_HWC[top : top + height, left : left + width])
    key = sample_key(image, top, left)
    header = b""
    if codec == "npy":
        header = npy_header(tile_HWC.shape)
        content = header + tile_HWC.tobytes()
    else:
        content = images.encode_png(tile_HWC)
    offset = write_member(file, f"{key}.{codec}", content)
    about = {
        "class": image.class_name,
        "source": image.source,
        "source_sha256": image.digest,
        "split": image.split,
        "top": top,
        "left": left,
        "height": height,
        "width": width,
        "grey": image.grey,
    }
    write_member(file, f"{key}.json", json.dumps(about, ensure_ascii=True).encode())
    return Sample(
        key=key,
        class_name=image.class_name,
        split=image.split,
        source=image.source,
        source_hash=int(image.digest[:16], 16),
        shard="",
        extension=codec,
        offset=offset,
        length=len(content),
        header=len(header),
        height=height,
        width=width,
        crc32=zlib.crc32(content),
        grey=image.grey,
    )


def sample_key(image: SourceImage, top: int, left: int) -> str:
    """`CLASS/STEM-CONTENT-TOPxLEFT`: unique, and without a dot, which ends a key in WebDataset."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(image.source).stem)[:40]
    return f"{image.class_name}/{stem}-{image.digest[:10]}-{top}x{left}"


def npy_header(shape: tuple[int, ...]) -> bytes:
    """The header of a uint8 .npy file of this shape."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()
