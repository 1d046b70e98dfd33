"""A folder of HR images to the folder of LR images that training would see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.data.config import Kernel
from harness.data.degrade import KERNELS, crop_to_multiple, degrade_image
from harness.data.images import encode_png, read_image
from harness.data.packing.survey import Skipped, files_below, judge
from harness.errors import DataError, InputError
from harness.files import whole


@dataclass(frozen=True)
class DegradeSummary:
    """What was written."""

    num_images: int
    cropped: list[str]
    """Images whose last rows or columns were cut off, because the scale does not divide their sides."""
    skipped: list[Skipped]


def degrade_folder(
    hr_dir: Path,
    out_dir: Path,
    scale: int,
    kernel: Kernel = "matlab-bicubic",
    progress: Callable[[int, int], None] | None = None,
) -> DegradeSummary:
    """Writes `out_dir/STEM.png` for every image below `hr_dir`. Subfolders are kept, links followed; grey stays grey.

    Raises:
        InputError: no such folder or one that cannot be listed, an unknown kernel or scale, two images for one output
            name, an output in an image's place or among the images, or an output folder that cannot be written.
        DataError: none of the files is a usable image.
    """
    if kernel not in KERNELS:
        raise InputError(f"kernel '{kernel}' is unknown; choose one of {', '.join(KERNELS)}.")
    if scale < 1:
        raise InputError(f"--scale {scale} is not allowed; give for example 2, 4 or 8.")
    if not hr_dir.is_dir():
        raise InputError(f"{hr_dir}: is not a folder; give a folder of images.")
    if hr_dir.resolve() in out_dir.resolve().parents:
        raise InputError(f"{out_dir}: lies inside {hr_dir}, whose images it would join; give a folder outside it.")
    files = list(files_below(hr_dir))
    usable, skipped, too_small = _usable(files, scale)
    targets = _targets(usable, hr_dir, out_dir)
    cropped: list[str] = []
    for number, (path, target) in enumerate(targets.items()):
        try:
            image = read_image(path)
        except DataError as error:
            skipped.append(Skipped(str(path), str(error).removeprefix(f"{path}: ")))
            continue
        fitting = crop_to_multiple(image, scale)
        if fitting.shape != image.shape:
            cropped.append(str(path))
        with whole(target) as part:
            part.write_bytes(encode_png(degrade_image(fitting, scale, kernel)))
        if progress:
            progress(number + 1, len(targets))
    if files and too_small == len(files):
        raise DataError(
            f"{hr_dir}: all its {len(files)} images are smaller than the scale (the first: {skipped[0].path}: "
            f"{skipped[0].reason}); give a --scale below {scale}, or larger images."
        )
    if len(skipped) == len(files):
        first = f" (the first: {skipped[0].path}: {skipped[0].reason})" if skipped else ""
        raise DataError(f"{hr_dir}: holds no usable image{first}; give a folder of images.")
    return DegradeSummary(len(files) - len(skipped), cropped, skipped)


def _usable(files: list[Path], scale: int) -> tuple[list[Path], list[Skipped], int]:
    """The files whose headers say that they are images of at least `scale` px, the others, and how many of these are
    images that are too small."""
    usable: list[Path] = []
    skipped: list[Skipped] = []
    too_small = 0
    for path in files:
        judged = judge(("", str(path), ""), smallest_px=1)
        if isinstance(judged, Skipped):
            skipped.append(judged)
        elif min(judged.height, judged.width) < scale:
            skipped.append(Skipped(str(path), f"{judged.width} x {judged.height} px is smaller than {scale} px"))
            too_small += 1
        else:
            usable.append(path)
    return usable, skipped, too_small


def _targets(files: list[Path], hr_dir: Path, out_dir: Path) -> dict[Path, Path]:
    """Image -> file to write."""
    targets: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for path in files:
        target = (out_dir / path.relative_to(hr_dir)).with_suffix(".png")
        if target in taken:
            raise InputError(f"{path} and {taken[target]} would both become {target}; rename one of them.")
        taken[target] = path
        targets[path] = target
    overwritten = {path.resolve() for path in targets} & {target.resolve() for target in taken}
    if overwritten:
        raise InputError(f"{min(overwritten)}: would be overwritten by its LR image; give another output folder.")
    return targets
