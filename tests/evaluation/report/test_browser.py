"""The report in a real browser: headless Chromium, spoken to over its debugging pipe."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evaluation.config import EvaluateConfig
from evaluation.metrics import METRICS
from evaluation.model import Model
from evaluation.report.grid import show_number
from evaluation.report.picture_source import PictureSource
from evaluation.report.write import RunRecord, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian package `chromium`)")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)
TIMEOUT_S = 60.0


class Browser:
    """One page of a headless Chromium; `errors` and `requests` collect what the page logged and fetched."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._write = _high_pipe()
        self._read, from_browser = _high_pipe()
        redirected = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirected, str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def open(self, path: Path, width_px: int, dark: bool = False) -> None:
        self.errors, self.requests, self._loaded = [], [], False
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        mobile = width_px < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width_px, height=844, deviceScaleFactor=1, mobile=mobile)
        self.call("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self._next()

    def evaluate(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._read, 1 << 20)
            assert part, "the browser is gone"
            self._buffer += part
        text, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"][:80])

    def close(self) -> None:
        os.close(self._write)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)


def _high_pipe() -> tuple[int, int]:
    """A pipe whose ends are not 3 or 4, which the browser wants for itself."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 100) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def write_log(folder: Path, first_step: int, rows: int) -> Path:
    folder.mkdir(parents=True)
    lines = [
        {
            "step": first_step + 20 * i,
            "phase": folder.name,
            "loss/l1": 1 / (1 + i),
            "d/real": 0.1 * i,
            "val/psnr": 24 + i,
        }
        for i in range(rows)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


NASTY = '<script>console.error("run")</script>&"quote"'


@pytest.fixture(scope="module")
def report(tmp_path_factory, table_maker, drawn_images) -> Path:
    """A report with everything in it: reasons, seeds, sets, pictures, curves, names that must be escaped."""
    root = tmp_path_factory.mktemp("sweep")
    classes = ["beach", "mountain", "general"]
    models = [
        Model(f"{name}-seed{seed}", "checkpoint", "/none", {"class": name, "seed": seed}, name)
        for name in classes
        for seed in ("0", "1")
    ]
    models += [Model(NASTY, "checkpoint", "/none", {"class": NASTY}), Model("bicubic", "method")]
    table = table_maker(models, tuple(classes))
    table.missing["bicubic", "beach", "ssim"] = f"stale {NASTY}"
    table.notes.append(f"note {NASTY}")
    shared = write_log(root / "pretrain-0123456789ab", 0, 30)
    runs = [
        RunRecord(m.name, m.axes, [shared, write_log(root / f"finetune-{i}", 600, 20)], {"seed": NASTY + str(i)})
        for i, m in enumerate(models[:-1])
    ]
    config = EvaluateConfig(report={"reference": "specialized_srgan", "resamples": 500})
    pictures = PictureSource(table, config, drawn_images(classes), 4)
    return write_report(
        f"Sweep {NASTY}", table, config, runs, root / "report", {"useful_h": 1.5, "lost_h": 0.1}, (), pictures
    )


def test_page_loads_without_errors_or_requests_and_with_every_image(browser, report):
    browser.open(report, 1280)
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("data:", "file:"))] == []
    assert [url for url in browser.requests if url.startswith("file:")] == [report.as_uri()[:80]]
    images = browser.evaluate(
        "[...document.images].map(i => [i.complete && i.naturalWidth > 0, i.alt.length > 0, i.src.startsWith('data:')])"
    )
    assert len(images) > 10 and all(all(facts) for facts in images)


def test_names_from_outside_are_shown_as_text(browser, report):
    browser.open(report, 1280)
    assert browser.evaluate("document.scripts.length") == 0
    assert NASTY in browser.evaluate("document.querySelector('h1').textContent")
    assert NASTY in browser.evaluate("document.querySelector('.warning').textContent")


@pytest.mark.parametrize("metric", ["psnr", "mse", "ssim"])
def test_numbers_of_the_page_equal_those_of_the_csv(browser, report, metric):
    browser.open(report, 1280)
    title = json.dumps(f"{METRICS[metric].label} by class and model")
    rows = browser.evaluate(
        f"""[...[...document.querySelectorAll('figure.grid')].find(f => f.querySelector('b').textContent == {title})
        .querySelectorAll('tr')].map(row => [...row.children].map(
          cell => [(cell.querySelector('.n') ?? cell).textContent, cell.dataset.value ?? null]))"""
    )
    frame = pd.read_csv(report.parent / f"matrix_{metric}.csv", index_col=0)
    assert [cell[0] for cell in rows[0]] == ["class", *frame.columns, "mean of models"]
    for row, (name, values) in zip(rows[1:], frame.iterrows()):
        assert row[0][0] == name
        for (text, value), expected in zip(row[1:], values):
            if np.isnan(expected):
                assert (text, value) == ("–", None)
            else:
                assert float(value) == pytest.approx(expected, rel=1e-12)
                assert text.split(" ")[0] == show_number(expected, METRICS[metric].digits)
    assert len(rows) == len(frame) + 2


@pytest.mark.parametrize("width_px", [320, 390, 768, 1280])
def test_page_never_scrolls_sideways(browser, report, width_px):
    browser.open(report, width_px)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width_px
    assert browser.evaluate("document.documentElement.clientWidth") <= width_px


@pytest.mark.parametrize("width_px", [320, 390, 1280])
def test_names_of_any_length_hide_no_number(browser, table_maker, tmp_path, width_px):
    """The names of the rows stay in place when the numbers are scrolled, so they must leave room."""
    long = "a_class_of_which_the_name_is_a_whole_sentence" * 4
    table = table_maker([Model("general", "checkpoint", "x"), Model(long, "checkpoint", "x")], (long, "sea"))
    page = write_report("long", table, EvaluateConfig(report={"num_strips": 0}), [], tmp_path)
    browser.open(page, width_px)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width_px
    ends = browser.evaluate("[...document.querySelectorAll('tr > th + td')].map(e => e.getBoundingClientRect().right)")
    beyond = browser.evaluate("[...document.querySelectorAll('tbody th')].map(e => e.scrollWidth - e.clientWidth)")
    assert len(ends) > 8 and max(ends) <= width_px and max(beyond) <= 0


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast_on_its_background(browser, report, dark):
    """WCAG AA asks for 4.5 between the luminances of text and background."""
    browser.open(report, 1280, dark)
    colours = browser.evaluate(
        """['--ink', '--faint', '--accent'].flatMap(ink => ['--paper', '--soft', '--apart'].map(paper => {
          const probe = document.createElement('p');
          probe.style.cssText = `color: var(${ink}); background: var(${paper})`;
          document.body.append(probe); const style = getComputedStyle(probe);
          const found = [ink, paper, style.color, style.backgroundColor]; probe.remove(); return found; }))"""
    )
    for ink, paper, *pair in colours:
        light, low = sorted((_luminance(text) for text in pair), reverse=True)
        assert (light + 0.05) / (low + 0.05) >= 4.5, (ink, paper)


def _luminance(css: str) -> float:
    """Relative luminance (WCAG 2) of `rgb(r, g, b)`."""
    levels = [int(part) / 255 for part in css[css.index("(") + 1 : -1].split(",")[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_everything_is_reached_with_the_keyboard(browser, report):
    browser.open(report, 390)
    unreachable = browser.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(e => e.tabIndex != 0 || !e.getAttribute('aria-label')).length"
    )
    broken = browser.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].filter(a => !document.querySelector(a.hash)).length"
    )
    assert (unreachable, broken) == (0, 0)
    assert browser.evaluate("document.querySelectorAll('nav a').length") >= 8
    charts = browser.evaluate("[...document.querySelectorAll('.charts figure')].map(f => f.getAttribute('aria-label'))")
    assert len(charts) == 3 and all("ends at" in text for text in charts)


def test_own_cells_and_best_cells_are_marked_for_screen_readers_too(browser, report):
    browser.open(report, 1280)
    assert browser.evaluate(
        "[...document.querySelectorAll('td.best')].every(c => c.textContent.includes('best'))"
        " && [...document.querySelectorAll('td.own')].every(c => c.textContent.includes('own'))"
        " && document.querySelectorAll('td.own').length > 0"
    )


@pytest.mark.slow
def test_a_hundred_models_on_twenty_classes_open_and_stay_under_20_mb(
    browser, tmp_path, table_maker, drawn_images, monkeypatch
):
    classes = tuple(f"class{i:02d}" for i in range(20))
    models = [Model(f"model{i:03d}", "checkpoint", "/none", {"model": str(i)}, classes[i % 20]) for i in range(99)]
    models.append(Model("general", "checkpoint", "/none", {"model": "general"}, "general"))
    table = table_maker([*models, Model("bicubic", "method")], classes, num_images=4)
    shared = write_log(tmp_path / "pretrain-0123456789ab", 0, 500)
    runs = [RunRecord(m.name, m.axes, [shared, write_log(tmp_path / m.name, 10_000, 300)]) for m in models]
    config = EvaluateConfig(report={"num_strips": 20})
    pictures = PictureSource(table, config, drawn_images(list(classes)), 4)
    monkeypatch.setattr(pictures, "_open", _sharpened)
    page = write_report("big", table, config, runs, tmp_path / "report", None, (), pictures)
    assert page.stat().st_size < 20e6
    browser.open(page, 1280)
    assert browser.errors == []
    assert browser.evaluate("document.images.length") > 200


def _sharpened(name: str):
    """A stand-in for a network: bicubic with noise of its own."""
    from harness.data.degrade import upscale_image

    rng = np.random.default_rng(abs(hash(name)) % 1000)

    def upsample(lr_image: np.ndarray, key: str | None = None) -> np.ndarray:
        image = upscale_image(lr_image, 4, "bicubic").astype(int)
        return np.clip(image + rng.integers(-20, 20, image.shape), 0, 255).astype(np.uint8)

    return upsample
