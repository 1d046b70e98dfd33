import io

import numpy as np
from rich.console import Console

from harness.image_writing import write_picture
from harness.images import Picture
from harness.terminal import show_weights, upscale_shown
from harness.upscale import Options
from harness.weights import TABLE, Status, list_weights


def console() -> Console:
    return Console(file=io.StringIO(), width=160)


def text(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def test_table_tells_what_is_missing_where_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    shown = console()
    assert not show_weights(shown, list_weights())
    for row in TABLE.values():
        assert row.file_name in text(shown) and f"{row.size_bytes:,}" in text(shown)
    assert text(shown).count("missing") == len(TABLE) + 1
    assert str(tmp_path) in text(shown) and "harness weights fetch" in text(shown)


def test_table_is_content_when_all_are_there(tmp_path):
    shown = console()
    statuses = [Status(row, tmp_path / row.file_name, None) for row in TABLE.values()]
    assert show_weights(shown, statuses, verified=True)
    assert text(shown).count("verified") == len(TABLE)
    wrong = [Status(statuses[0].weights, statuses[0].path, "x.pth: has another sha256"), *statuses[1:]]
    assert not show_weights(shown, wrong) and "x.pth: has another sha256" in text(shown)


def test_verifying_says_why_it_failed(tmp_path, capsys):
    here, missing, wrong = list(TABLE.values())[:3]
    good = [Status(here, tmp_path / here.file_name, None)]
    bad = [Status(missing, None, "is nowhere"), Status(wrong, tmp_path / wrong.file_name, "has another sha256")]
    assert show_weights(console(), good, verified=True)
    assert not show_weights(console(), good + bad) and capsys.readouterr().err == ""
    assert not show_weights(console(), good + bad, verified=True)
    told = capsys.readouterr().err
    assert told.startswith(f"error: {missing.name}, {wrong.name}: missing or not the published file; run `harness")


def test_bar_moves_over_images_and_the_last_line_counts(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / "in" / name, Picture(np.zeros((4, 4, 3), np.uint8)))
    (tmp_path / "in" / "c.png").write_text("no image")
    moves: list[tuple[int, int]] = []
    shown = console()
    options = Options(method="nearest", scale=2)
    upscale_shown(
        [str(tmp_path / "in")], tmp_path / "out", options, shown, lambda done, total: moves.append((done, total))
    )
    assert moves == sorted(moves) and moves[0] == (0, 3000) and moves[-1] == (3000, 3000)
    assert "2 images written, 1 failed" in text(shown)
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/in/c.png: is not an image")


def test_table_fits_a_narrow_terminal_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path))
    shown = Console(file=io.StringIO(), width=80)
    show_weights(shown, list_weights())
    table = text(shown).split("looked up")[0]
    assert all(len(line) <= 80 for line in table.splitlines()) and "…" not in table
    squeezed = "".join(line.split("│")[4].strip() for line in table.splitlines() if line.startswith("│"))
    for row in TABLE.values():
        assert f"│ {row.name} " in table and "missing" in table
        assert row.sha256 in squeezed and row.file_name in squeezed
