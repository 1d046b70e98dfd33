import dataclasses
import errno
import fcntl
import hashlib
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from torchvision import models

from harness import weights
from harness.errors import InputError

CONTENT = bytes(range(256)) * 5000


class Server:
    """Serves CONTENT; can break off, ignore ranges, or give something else."""

    def __init__(self) -> None:
        self.break_after: int | None = None
        self.ranges = True
        self.content = CONTENT
        self.asked: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                outer.asked.append(wanted)
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and outer.ranges else 0
                body = outer.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: outer.break_after])

            def log_message(self, *_) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/toy.pth"


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return tmp_path / "weights"


@pytest.fixture
def toy(server, folder, monkeypatch):
    row = weights.Weights("toy", "tests", "toy.pth", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), server.url)
    monkeypatch.setitem(weights.TABLE, "toy", row)
    return row


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("vgg16", models.VGG16_Weights.IMAGENET1K_V1),
        ("vgg19", models.VGG19_Weights.IMAGENET1K_V1),
        ("alexnet", models.AlexNet_Weights.IMAGENET1K_V1),
        ("squeezenet", models.SqueezeNet1_1_Weights.IMAGENET1K_V1),
    ],
)
def test_table_agrees_with_what_torchvision_says(name, published):
    row = weights.TABLE[name]
    assert row.url == published.url
    assert row.size_bytes / 2**20 == pytest.approx(published.meta["_file_size"], abs=6e-4)


def test_inceptions_address_is_pytorch_fids():
    from pytorch_fid import inception

    assert weights.TABLE["inception-fid"].url == inception.FID_WEIGHTS_URL


def test_file_names_carry_the_first_digits_of_the_checksum():
    for name in ("vgg16", "vgg19", "alexnet", "squeezenet", "inception-fid"):
        row = weights.TABLE[name]
        assert row.file_name == row.url.rsplit("/", 1)[1]
        assert row.file_name.removesuffix(".pth").rsplit("-", 1)[1] == row.sha256[:8] and len(row.sha256) == 64


def test_own_folder_is_looked_up_before_the_hub_cache(toy, folder, tmp_path):
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "toy.pth").write_bytes(CONTENT)
    assert weights.find("toy") == cache / "toy.pth"
    folder.mkdir()
    (folder / "toy.pth").write_bytes(CONTENT)
    assert weights.find("toy") == folder / "toy.pth"


def test_torchs_cache_lies_where_torch_looks_for_it(toy, folder, tmp_path, monkeypatch):
    from torch import hub

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        assert weights.folders()[1] == Path(hub.get_dir()) / "checkpoints"
        monkeypatch.delenv("TORCH_HOME", raising=False)


def test_missing_file_is_answered_with_where_and_how(folder):
    with pytest.raises(InputError) as caught:
        weights.find("vgg19")
    for words in ("vgg19-dcbb9e9d.pth", str(folder), "harness weights fetch vgg19", weights.TABLE["vgg19"].url):
        assert words in str(caught.value)
    with pytest.raises(InputError, match="choose one of vgg16, vgg19"):
        weights.find("vgg20")


def test_cut_off_file_is_not_taken_for_the_network(toy, folder):
    folder.mkdir()
    (folder / "toy.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match=f"has {len(CONTENT) - 1} bytes instead of {len(CONTENT)}"):
        weights.find("toy")


def test_verify_tells_a_changed_file_from_the_published_one(toy, folder):
    folder.mkdir()
    path = folder / "toy.pth"
    path.write_bytes(CONTENT)
    assert weights.verify(["toy"])[0].problem is None
    path.write_bytes(b"x" + CONTENT[1:])
    assert weights.find("toy") == path  # same size
    assert "not the published" in (weights.verify(["toy"])[0].problem or "")


def test_fetched_file_is_found_and_verified(toy, folder, server):
    seen: list[tuple[int, int]] = []
    assert weights.fetch("toy", progress=lambda done, total: seen.append((done, total))) == folder / "toy.pth"
    assert weights.find("toy").read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert weights.verify(["toy"])[0].problem is None
    weights.fetch("toy")
    assert len(server.asked) == 1  # there already


def test_fetched_file_is_on_the_disk_before_it_gets_its_name(toy, folder, server, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("sync"), sync(file)))
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append("name"), replace(old, new)))
    weights.fetch("toy")
    assert calls == ["sync", "name"]


def test_broken_download_is_continued_where_it_stopped(toy, folder, server):
    server.break_after = 500_000
    with pytest.raises(InputError, match="run the same command again"):
        weights.fetch("toy")
    assert not (folder / "toy.pth").exists()
    server.break_after = None
    weights.fetch("toy")
    assert server.asked == [None, "bytes=500000-"]
    assert (folder / "toy.pth").read_bytes() == CONTENT and not (folder / "toy.pth.part").exists()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhal", b"no HTTP\r\n\r\n"]
)
def test_answer_that_ends_in_a_chunk_or_is_no_http_is_one_sentence(toy, folder, monkeypatch, answer):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        monkeypatch.setitem(weights.TABLE, "toy", dataclasses.replace(toy, url=url))
        threading.Thread(target=_answer_once, args=(listener, answer), daemon=True).start()
        with pytest.raises(InputError, match="the connection broke"):
            weights.fetch("toy")


def _answer_once(listener: socket.socket, answer: bytes) -> None:
    with listener.accept()[0] as connection:
        connection.recv(4096)
        connection.sendall(answer)


def test_what_was_downloaded_to_its_end_is_not_downloaded_again(toy, folder, server):
    folder.mkdir()
    (folder / "toy.pth.part").write_bytes(CONTENT)
    assert weights.fetch("toy").read_bytes() == CONTENT and server.asked == []


def test_a_file_of_another_content_is_fetched_anew(toy, folder, server):
    folder.mkdir()
    (folder / "toy.pth").write_bytes(b"x" + CONTENT[1:])
    assert weights.fetch("toy").read_bytes() == CONTENT


def test_download_starts_anew_where_the_server_knows_no_ranges(toy, folder, server):
    folder.mkdir()
    (folder / "toy.pth.part").write_bytes(b"old")
    server.ranges = False
    assert weights.fetch("toy").read_bytes() == CONTENT


def test_wrong_content_never_gets_the_files_name(toy, folder, server):
    server.content = b"?" * len(CONTENT)
    with pytest.raises(InputError, match="nothing was kept"):
        weights.fetch("toy")
    assert list(folder.iterdir()) == []


def test_unreachable_server_is_one_sentence(toy, folder, server, monkeypatch):
    row = weights.Weights(toy.name, "", toy.file_name, toy.size_bytes, toy.sha256, "http://127.0.0.1:9/toy.pth")
    monkeypatch.setitem(weights.TABLE, "toy", row)
    with pytest.raises(InputError, match="cannot be read"):
        weights.fetch("toy")


def test_compute_nodes_do_not_download(toy, server, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with pytest.raises(InputError, match="login node"):
        weights.fetch("toy")
    assert server.asked == []


def test_two_processes_do_not_write_the_same_download(toy, folder):
    folder.mkdir()
    with weights._alone(folder / "toy.pth.part"), pytest.raises(InputError, match="another process"):
        weights.fetch("toy")


def test_a_folder_without_locks_gets_the_weights(toy, folder, monkeypatch, capsys):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert weights.fetch("toy").read_bytes() == CONTENT
    assert "toy.pth.part: cannot be locked" in capsys.readouterr().err


def test_unwritable_folder_is_one_sentence(toy, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        weights.fetch("toy", Path(blocked))


def test_looking_up_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, harness.weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_documented_table_is_the_one_in_the_code():
    page = (Path(__file__).parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")
    ]
    want = [[w.name, w.used_for, w.file_name, f"{w.size_bytes:,}", w.sha256] for w in weights.TABLE.values()]
    assert rows == want
