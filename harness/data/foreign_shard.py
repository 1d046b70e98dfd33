"""A WebDataset shard that others wrote: what its samples are, found out from its members and what they say.

A sample is the members of a tar that share a key (the name up to the first dot). One of them is the image (png, jpg,
webp, npy); a `.json` beside it may say class, source, source_sha256, split and grey, a `.cls` may say the class. What
is not said is found out: the class is the key's folder or `all`, the source is the sample itself. Nothing is unpickled:
a shard with a pickled member is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from harness.data import images
from harness.data.packing.split import SPLITS
from harness.data.packing.survey import Skipped, class_name_of, storable
from harness.data.reading import checksum, npy_layout
from harness.data.shards import EXTENSIONS
from harness.data.sidecar import Sample
from harness.data.tar import Member, list_members
from harness.errors import DataError

PICKLED = frozenset({"pickle", "pkl", "pyd", "pth", "pt"})
"""Types that readers of such shards unpickle by default."""
_LARGEST_JSON = 64 << 20
_CHECKSUM = re.compile("[0-9a-fA-F]{16,}")


def read_shard(shard: Path) -> Iterator[Sample | Skipped]:
    """The samples of a shard in the order of their keys, and what is left out; a split that is not said is empty.

    Raises:
        DataError: it is damaged, or has an unsafe, a pickled or a repeated member; names the shard and the member.
    """
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
