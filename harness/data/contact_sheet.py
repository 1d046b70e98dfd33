"""A contact sheet of a dataset: random samples of each class and split, in one self-contained HTML file."""

from __future__ import annotations

import base64
import html
from pathlib import Path

import numpy as np
from PIL import Image

from harness import random
from harness.data.images import encode_png
from harness.data.shards import Dataset
from harness.files import whole

_THUMB_PX = 192
_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem; background: #fafafa; color: #222 }
h2 { margin: 2rem 0 .5rem; font-size: 1.1rem } small { color: #666 }
.row { display: flex; flex-wrap: wrap; gap: 8px } figure { margin: 0; width: 192px }
img { display: block; max-width: 192px; max-height: 192px } figcaption { font-size: 11px; overflow-wrap: anywhere }
"""


def write_contact_sheet(path: str, out: Path, per_class: int = 12, seed: int = 0) -> Path:
    """Writes `out` with up to `per_class` random samples of every class of every split.

    Raises:
        DataError: the dataset or a shown sample is not sound.
        InputError: `out` cannot be written.
    """
    dataset = Dataset.open(path)
    parts = [
        f"<h1>{html.escape(dataset.path)}</h1><p>{dataset.num_samples} samples, codec {dataset.description.codec}, "
        f"tiles of {dataset.description.tile_px or 'any'} px, fingerprint <code>{dataset.fingerprint[:16]}</code></p>"
    ]
    for split, classes in dataset.description.counts.items():
        for class_name, cell in classes.items():
            parts.append(
                f"<h2>{html.escape(class_name)} <small>{split}: {cell['images']} images, {cell['samples']} samples"
                '</small></h2><div class="row">'
            )
            parts += [_figure(dataset, index) for index in _drawn(dataset, split, class_name, per_class, seed)]
            parts.append("</div>")
    page = f"<!doctype html><meta charset='utf-8'><title>Samples</title><style>{_STYLE}</style>{''.join(parts)}"
    with whole(out) as part:
        part.write_text(page, encoding="utf-8")
    return out


def _drawn(dataset: Dataset, split: str, class_name: str, count: int, seed: int) -> list[int]:
    candidates = dataset.select(split, [class_name])
    order = random.permutation(random.key(seed, "contact sheet", split, class_name), len(candidates))
    return [int(index) for index in candidates[order[:count]]]


def _figure(dataset: Dataset, index: int) -> str:
    image = Image.fromarray(dataset.read(index))
    size = f"{image.width} x {image.height}"
    image.thumbnail((_THUMB_PX, _THUMB_PX), Image.Resampling.LANCZOS)
    data = base64.b64encode(encode_png(np.asarray(image))).decode()
    caption = html.escape(f"{dataset.key(index)} ({size})")
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )
