"""The pretrained networks: what each is for, where it is looked up, how it is fetched and checked. Imports no torch.

A file is looked up in the folder that HARNESS_WEIGHTS names, then in torch's hub cache. Looking up never downloads:
training, scoring and upscaling run on compute nodes that have no network. `fetch` does, where there is one.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.alone import locked
from harness.errors import InputError
from harness.files import not_written, sha256_of

FOLDER_VARIABLE = "HARNESS_WEIGHTS"
_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 60
_TORCHVISION = "https://download.pytorch.org/models/"
_PYTORCH_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes there will be."""


@dataclass(frozen=True)
class Weights:
    """A published weights file."""

    name: str
    used_for: str
    file_name: str
    size_bytes: int
    sha256: str
    url: str


@dataclass(frozen=True)
class Status:
    """Whether a file is there and, where it was read, whether it is the published one."""

    weights: Weights
    path: Path | None
    problem: str | None
    """One sentence, or None where nothing is wrong."""


TABLE: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        Weights(
            "vgg16",
            "feature loss, VGG16 discriminator, LPIPS (vgg)",
            "vgg16-397923af.pth",
            553_433_881,
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            _TORCHVISION + "vgg16-397923af.pth",
        ),
        Weights(
            "vgg19",
            "feature loss",
            "vgg19-dcbb9e9d.pth",
            574_673_361,
            "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
            _TORCHVISION + "vgg19-dcbb9e9d.pth",
        ),
        Weights(
            "alexnet",
            "LPIPS (alex)",
            "alexnet-owt-7be5be79.pth",
            244_408_911,
            "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
            _TORCHVISION + "alexnet-owt-7be5be79.pth",
        ),
        Weights(
            "squeezenet",
            "LPIPS (squeeze)",
            "squeezenet1_1-b8a52dc0.pth",
            4_958_839,
            "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
            _TORCHVISION + "squeezenet1_1-b8a52dc0.pth",
        ),
        Weights(
            "inception-fid",
            "FID, KID",
            "pt_inception-2015-12-05-6726825d.pth",
            95_628_359,
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            _PYTORCH_FID + "pt_inception-2015-12-05-6726825d.pth",
        ),
    )
}


def lookup(name: str) -> Weights:
    """The row of the table.

    Raises:
        InputError: no network has this name.
    """
    if name not in TABLE:
        raise InputError(f"weights '{name}': no such network; choose one of {', '.join(TABLE)}.")
    return TABLE[name]


def folders() -> list[Path]:
    """Where files are looked up, in this order: HARNESS_WEIGHTS (if set), torch's hub cache."""
    own = os.environ.get(FOLDER_VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    torch_home = Path(os.environ.get("TORCH_HOME") or cache / "torch").expanduser()
    return [*([Path(own).expanduser()] if own else []), torch_home / "hub" / "checkpoints"]


def find(name: str) -> Path:
    """The file of a network; its size is checked, its checksum is not (see `verify`).

    Raises:
        InputError: it is nowhere, or has another size than the published one; the sentence says how to get it.
    """
    status = _locate(lookup(name))
    if status.path is None or status.problem is not None:
        raise InputError(status.problem or "")
    return status.path


def list_weights(names: Iterable[str] | None = None) -> list[Status]:
    """Each network (all, or the named ones), and whether its file is there in its size."""
    return [_locate(lookup(name)) for name in (TABLE if names is None else names)]


def verify(names: Iterable[str] | None = None, progress: Progress | None = None) -> list[Status]:
    """As `list_weights`, but reads each file that is there and compares its sha256."""
    return [_checked(status, progress) for status in list_weights(names)]


def _locate(weights: Weights) -> Status:
    for folder in folders():
        path = folder / weights.file_name
        if path.is_file():
            size = path.stat().st_size
            if size == weights.size_bytes:
                return Status(weights, path, None)
            wrong = (
                f"{path}: has {size} bytes instead of {weights.size_bytes}; run `harness weights fetch {weights.name}`."
            )
            return Status(weights, path, wrong)
    where = " or ".join(str(folder) for folder in folders())
    return Status(
        weights,
        None,
        f"{weights.file_name} ({weights.name}) is not in {where}; run `harness weights fetch {weights.name}` where "
        f"there is a network, or put the file from {weights.url} there.",
    )


def _checked(status: Status, progress: Progress | None) -> Status:
    if status.path is None or status.problem is not None:
        return status
    found = sha256_of(status.path, progress)
    if found == status.weights.sha256:
        return status
    mend = f"delete it and run `harness weights fetch {status.weights.name}`"
    return Status(status.weights, status.path, f"{status.path}: has sha256 {found[:16]}..., not the published; {mend}.")


def fetch(name: str, folder: Path | None = None, progress: Progress | None = None) -> Path:
    """Downloads a network's file into `folder` (the first place it is looked up), unless it is there already.

    What an interrupted download left (`FILE.part`) is continued. The file gets its name only when its size and
    sha256 are the published ones.

    Raises:
        InputError: inside a SLURM job, no network, an unwritable folder, or not the published content.
        OSError: the disk is full.
    """
    weights = lookup(name)
    target = (folder or folders()[0]) / weights.file_name
    if target.is_file() and sha256_of(target) == weights.sha256:
        return target
    if "SLURM_JOB_ID" in os.environ:
        raise InputError(
            f"weights '{name}': compute nodes do not download; run `harness weights fetch` on a login node."
        )
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part) as file:
            _download(weights, file, progress)
            file.flush()
            os.fsync(file.fileno())
            _accept(weights, part, target)
    except urllib.error.URLError as error:
        raise InputError(f"{weights.url}: cannot be read ({error.reason}); run the same command again.") from None
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise InputError(f"{weights.url}: the connection broke ({error}); run the same command again.") from None
    except OSError as error:
        raise not_written(part, error) from None
    return target


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[IO[bytes]]:
    """The partial file, at its end, for this process alone."""
    with part.open("ab") as file:
        if not locked(file.fileno(), part):
            raise InputError(f"{part}: another process is fetching it; wait for that one.")
        yield file


def _download(weights: Weights, file: IO[bytes], progress: Progress | None) -> None:
    done = file.tell()
    if done >= weights.size_bytes:
        return
    request = urllib.request.Request(weights.url, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        if done and answer.status != 206:  # the server starts anew
            file.truncate(0)
            done = 0
        while chunk := answer.read(_CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            if progress:
                progress(done, weights.size_bytes)
    if done < weights.size_bytes:
        raise ConnectionError(f"after {done} of {weights.size_bytes} bytes")


def _accept(weights: Weights, part: Path, target: Path) -> None:
    found = sha256_of(part)
    if found != weights.sha256:
        part.unlink()
        raise InputError(
            f"{weights.url}: gave a file with sha256 {found[:16]}... instead of {weights.sha256[:16]}...; nothing was "
            "kept; try again, or put the published file there yourself."
        )
    os.replace(part, target)
