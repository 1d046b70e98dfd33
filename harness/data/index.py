"""The sidecar for WebDataset shards that others wrote, so that they are read by ranges like our own.

A sample is the members of a tar that share a key (the name up to the first dot). One of them is the image (png, jpg,
webp, npy); a `.json` beside it may say class, source, source_sha256, split and grey, a `.cls` may say the class. What
is not said is found out: the class is the key's folder or `all`, the source is the sample itself, the split is decided
by source as `harness pack` does. Nothing is unpickled: a shard with a pickled member is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from harness.data import images, sidecar
from harness.data.reading import checksum, npy_layout
from harness.data.shards import EXTENSIONS
from harness.data.sidecar import Sample
from harness.data.split import SPLITS, assign_splits, count_or_share
from harness.data.survey import Skipped, class_name_of, storable
from harness.data.tar import Member, list_members
from harness.errors import DataError, InputError

PICKLED = frozenset({"pickle", "pkl", "pyd", "pth", "pt"})
"""Types that readers of such shards unpickle by default."""
_LARGEST_JSON = 64 << 20
_CHECKSUM = re.compile("[0-9a-fA-F]{16,}")
_OTHER_TAR = re.compile(r".*\.(tar|tar\.(gz|bz2|xz|zst|lz4)|tgz|tbz2?|txz|tzst)", re.IGNORECASE)


@dataclass(frozen=True)
class IndexSummary:
    """What an index covers."""

    path: Path
    fingerprint: str
    num_samples: int
    num_shards: int
    counts: dict[str, dict[str, dict[str, int]]]
    skipped: list[Skipped]


def index(
    folder: Path,
    *,
    val: float | int = 0.05,
    test: float | int = 0.1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> IndexSummary:
    """Writes `index.parquet` and `dataset.json` beside the `*.tar` files of a local folder.

    Args:
        val, test: samples a class for validation and test where the shards do not say; a count or a share.
        progress: called with (shards done, shards in all).

    Raises:
        InputError: no folder, no shards, a pack whose shards were changed since, or it cannot be written.
        DataError: a shard is damaged, or has an unsafe or a pickled member; names the shard and the member.
    """
    if "://" in str(folder) or not folder.is_dir():
        raise InputError(f"{folder}: is not a local folder; index the shards where they lie before uploading them.")
    shards, skipped = _find_shards(folder)
    val, test = count_or_share(val, "--val"), count_or_share(test, "--test")
    samples: list[Sample] = []
    for number, shard in enumerate(shards):
        for item in _read_shard(shard):
            if isinstance(item, Sample):
                samples.append(item)
            else:
                skipped.append(item)
        if progress:
            progress(number + 1, len(shards))
    if not samples:
        raise DataError(f"{folder}: none of its samples has an image ({', '.join(sorted(EXTENSIONS))}).")
    _check_keys(samples, folder)
    samples = _with_splits(samples, val, test, seed)
    sizes = {shard.name: shard.stat().st_size for shard in shards}
    extensions = sorted({sample.extension for sample in samples})
    packed = _packed(folder, samples)
    codec, tile_px, options = "+".join(extensions), 0, {"indexed": True, "skipped": [asdict(item) for item in skipped]}
    if packed is not None:
        codec, tile_px, options = packed.codec, packed.tile_px, packed.options
    description = sidecar.write_sidecar(folder, samples, sizes, codec, tile_px, options)
    return IndexSummary(folder, description.fingerprint, len(samples), len(shards), description.counts, skipped)


def _find_shards(folder: Path) -> tuple[list[Path], list[Skipped]]:
    """The shards of a folder, and the tars in it that cannot be read by ranges or are not called so.

    Raises:
        InputError: there are no shards, or one has a name that the sidecar cannot hold.
    """
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise InputError(f"{folder}: holds no .tar files (compressed ones cannot be read by ranges); give another.")
    for shard in shards:
        if storable(shard.name) != shard.name or not sidecar.is_plain(shard.name):
            raise InputError(f"{shard}: has a name with a backslash or with bytes that are no UTF-8; rename it.")
    others = sorted(path for path in folder.iterdir() if _OTHER_TAR.fullmatch(path.name) and path not in set(shards))
    return shards, [Skipped(str(path), "is no .tar (a compressed one cannot be read by ranges)") for path in others]


def _packed(folder: Path, samples: list[Sample]) -> sidecar.Description | None:
    """What `harness pack` wrote of these samples beside them; it is kept, since only packing knows its options.

    Raises:
        InputError: it was of other samples.
    """
    path = folder / sidecar.DESCRIPTION_NAME
    try:
        packed = sidecar.read_description(path.read_bytes(), str(path))
    except (OSError, DataError):
        return None
    if "plan" not in packed.options:
        return None
    if packed.fingerprint != sidecar.fingerprint_of(sidecar.table_of(samples)):
        raise InputError(
            f"{path}: is of a pack whose shards were changed since; pack the images again, or remove the file to index "
            f"the shards as another's."
        )
    return packed


def _read_shard(shard: Path) -> Iterator[Sample | Skipped]:
    """The samples of a shard, in the order of their images."""
    groups: dict[str, dict[str, Member]] = defaultdict(dict)
    for member in list_members(shard):
        key, extension = split_name(storable(member.name))
        if extension.split(".")[-1] in PICKLED:
            raise DataError(f"{shard}: sample '{key}' has a pickled member '.{extension}', which is never read.")
        if extension in groups[key]:
            raise DataError(f"{shard}: has the member '{member.name}' twice; give the samples different keys.")
        groups[key][extension] = member
    with _opened(shard) as file:
        for key, members in groups.items():
            found = [extension for extension in members if extension in EXTENSIONS]
            if len(found) != 1:
                why = "no image" if not found else f"several images ({', '.join(sorted(found))})"
                yield Skipped(f"{shard}: sample '{key}'", f"has {why}")
                continue
            try:
                yield _describe(file, shard, key, found[0], members)
            except DataError as error:
                yield Skipped(f"{shard}: sample '{key}'", str(error).split(": ", 2)[-1])


@contextmanager
def _opened(shard: Path) -> Iterator[IO[bytes]]:
    try:
        with shard.open("rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror}); copy it again.") from None


def split_name(name: str) -> tuple[str, str]:
    """(key, extension) of a member's name, as WebDataset parts them: at the first dot of the last part of the path."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()


def _describe(file: Any, shard: Path, key: str, extension: str, members: dict[str, Member]) -> Sample:
    name = f"{shard}: sample '{key}'"
    member = members[extension]
    content = _content(file, member)
    about = _said(file, name, members)
    header, grey = 0, bool(about.get("grey", False))
    if extension == "npy":
        header, (height, width, _) = npy_layout(content[:1024], name)
        if header + height * width * 3 != member.length:
            raise DataError(f"{name}: is not as long as its header says")
        if min(height, width) == 0:
            raise DataError(f"{name}: has no pixels")
    else:
        found = images.read_header(content, name)
        height, width, grey = found.height, found.width, found.grey
    digest = _first_said(about, "source_sha256", "source")  # either tells the tiles of one image
    return Sample(
        key=key,
        class_name=str(about.get("class") or _folder_of(key)),
        split=str(about.get("split", "")),
        source=_first_said(about, "source") or key,
        source_hash=_hash_of(digest or hashlib.sha256(content).hexdigest()),
        shard=shard.name,
        extension=extension,
        offset=member.offset,
        length=member.length,
        header=header,
        height=height,
        width=width,
        crc32=checksum(content),
        grey=grey,
    )


def _said(file: Any, name: str, members: dict[str, Member]) -> dict[str, Any]:
    """What the `.json` and `.cls` beside an image say."""
    about: dict[str, Any] = {}
    if "cls" in members:
        about["class"] = class_name_of(_content(file, members["cls"])[:200].decode("utf-8", "replace").strip())
    if "json" in members:
        if members["json"].length > _LARGEST_JSON:
            raise DataError(f"{name}: its .json is larger than {_LARGEST_JSON >> 20} MB")
        try:
            said = json.loads(_content(file, members["json"]))
        except (ValueError, RecursionError):
            raise DataError(f"{name}: its .json is not JSON; write the shard again.") from None
        if isinstance(said, dict):
            about.update({key: value for key, value in said.items() if isinstance(value, (str, int, bool))})
    if "class" in about:
        about["class"] = class_name_of(str(about["class"]))
    if about.get("split") not in SPLITS:
        about.pop("split", None)
    return about


def _first_said(about: dict[str, Any], *names: str) -> str:
    """What is said under the first of some names, as text; a number may be 0."""
    values = (about.get(name, "") for name in names)
    return next((storable(str(value)) for value in values if value != "" and value is not False), "")


def _content(file: Any, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.length)


def _folder_of(key: str) -> str:
    folder = PurePosixPath(key).parent.name  # `./KEY`, as `tar -c .` writes it, lies in no folder
    return class_name_of(folder) if folder else "all"


def _hash_of(source: str) -> int:
    """The beginning of a checksum; what is none (a name, say) is hashed."""
    digest = source if _CHECKSUM.fullmatch(source) else hashlib.sha256(source.encode()).hexdigest()
    return int(digest[:16], 16)


def _check_keys(samples: list[Sample], folder: Path) -> None:
    seen: dict[str, str] = {}
    for sample in samples:
        if sample.key in seen:
            raise DataError(
                f"{folder}: the key '{sample.key}' is in {seen[sample.key]} and in {sample.shard}; "
                "give the samples different keys."
            )
        seen[sample.key] = sample.shard


def _with_splits(samples: list[Sample], val: float | int, test: float | int, seed: int) -> list[Sample]:
    """Decides the splits that the shards do not say, by source."""
    open_ones = [place for place, sample in enumerate(samples) if not sample.split]
    pairs = [(samples[place].class_name, f"{samples[place].source_hash:016x}") for place in open_ones]
    result = list(samples)
    for place, split in zip(open_ones, assign_splits(pairs, val, test, seed)):
        result[place] = replace(samples[place], split=split)
    return result
