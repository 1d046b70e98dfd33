"""Images to shards: tiles for training, whole images for val and test, in tar files that stock `webdataset` reads.

The work is cut into groups of some images. Workers write groups, the parent joins finished groups into shards. What a
group or a shard holds depends on the images and the options alone, so the bytes do not depend on the number of
workers, and a killed pack goes on after its finished groups and shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from harness.alone import alone_in
from harness.data import sidecar
from harness.data.packing import survey
from harness.data.packing.build import BUILDING, Builder, PackSummary, Progress, nothing_usable, remove_if_new
from harness.data.packing.layout import Codec, Options, plan_shards
from harness.data.packing.split import count_or_share
from harness.data.packing.survey import Skipped, SourceImage
from harness.data.workers import Run, num_workers, pool
from harness.errors import DataError, InputError

_JUDGED_AT_ONCE = 32
"""Files that a worker is given to read and hash; images to decode are given one by one."""


def pack(
    sources: Sequence[Path],
    out: Path,
    *,
    codec: Codec = "npy",
    tile_px: int = 192,
    workers: int | None = None,
    shard_mb: int = 256,
    val: float | int = 0.05,
    test: float | int = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
) -> PackSummary:
    """Packs folders of images into `out`.

    Args:
        sources: folders of images, or of class folders.
        codec: `npy` (raw tiles, fastest) or `png`.
        tile_px: edge of the training tiles, evenly spaced so that they cover the image; 0 keeps whole images.
        workers: processes; None takes all cores.
        val, test: images a class for validation and test: a count or a share (below 1).
        progress: called with (images done, images in all).

    Raises:
        InputError, DataError: wrong options, nothing to pack, or an `out` that holds something else.
        TrainingError: a worker was killed.
    """
    options = Options(codec, tile_px, shard_mb, count_or_share(val, "--val"), count_or_share(test, "--test"), seed)
    workers = num_workers(workers)
    files = survey.find_files(sources)
    sidecar.check_number_of_classes({class_name for class_name, _, _ in files})
    existed = out.exists()
    _check_writable(out)
    with pool(workers, len(files)) as run:
        try:
            found, skipped = _survey(files, options, run)
        except InputError:
            remove_if_new(out, existed)
            raise
        if not found:
            remove_if_new(out, existed)
            raise DataError(nothing_usable(sources, skipped, tile_px))
        shards = plan_shards(found, options)
        with alone_in(out, lock=None):
            return Builder(out, shards, options, found, skipped).run(run, progress)


def _survey(files: list[tuple[str, str, str]], options: Options, run: Run) -> tuple[list[SourceImage], list[Skipped]]:
    """Usable images with splits. Held-out ones are decoded here, so that a damaged one leaves no gap in its split."""
    smallest_px = options.tile_px or survey.SMALLEST_PX
    judged = sorted(
        run(partial(_judge, smallest_px=smallest_px), files, chunk=_JUDGED_AT_ONCE), key=lambda pair: pair[0]
    )
    found, skipped = survey.without_duplicates(item for _, item in judged)
    sound: set[str] = set()
    while True:
        assigned = survey.with_splits(found, options.val, options.test, options.seed)
        unsure = [image for image in assigned if image.split != "train" and image.path not in sound]
        results = list(run(_try_decoding, unsure))
        bad = {item.path: item for item in (result for _, result in results) if item is not None}
        if not bad:
            return assigned, sorted(skipped, key=lambda item: item.path)
        sound |= {image.path for image in unsure}
        skipped += bad.values()
        found = [image for image in found if image.path not in bad]


def _judge(file: tuple[str, str, str], smallest_px: int) -> tuple[tuple[str, str, str], SourceImage | Skipped]:
    return file, survey.judge(file, smallest_px)


def _try_decoding(image: SourceImage) -> tuple[str, Skipped | None]:
    return image.path, survey.try_decoding(image)


def _check_writable(out: Path) -> None:
    """Creates the output folder.

    Raises:
        InputError: it cannot be written, or holds files that are no dataset.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); give another --out.") from None
    names = {path.name for path in out.iterdir()}
    if names and BUILDING not in names and sidecar.DESCRIPTION_NAME not in names:
        raise InputError(f"{out}: holds files that are no dataset; give a new or empty folder as --out.")
