"""The page in a real browser: it renders, nothing of it is refused or fails, and it is no wider than the screen.

The screenshots stay in pytest's temporary folder (`pytest -m browser --basetemp=DIR`).
"""

import html
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from gemma_tf_distill.report.page import render_page
from tests.report.conftest import whole_content

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (apt-get install chromium)"),
]
SIZES = {"desktop": (1280, 1000), "phone": (390, 844)}


def browse(page: pathlib.Path, profile: pathlib.Path, *options: str) -> tuple[str, list[str]]:
    """What Chromium writes of a page, and what it has to say about it on its console."""
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
    command += ["--no-first-run", "--enable-logging=stderr", "--virtual-time-budget=2000", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, re.findall(r"CONSOLE[:(].*", done.stderr)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(whole_content()), encoding="utf-8")
    return path


def test_the_console_would_tell(page, tmp_path):
    # What the tests below look for is found where it is: this page breaks its own policy.
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("</body>", '<script>alert(1)</script><img src="http://127.0.0.1:9/x.png"/></body>'))
    _, console = browse(broken, tmp_path / "profile", "--dump-dom")
    assert any("Content Security Policy" in line for line in console)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_renders_without_a_word_on_the_console(page, tmp_path, size, dark):
    width, height = SIZES[size]
    picture = tmp_path / f"{size}-{'dark' if dark else 'light'}.png"
    options = ["--force-dark-mode"] if dark else []
    _, console = browse(page, tmp_path / "profile", f"--window-size={width},{height}", f"--screenshot={picture}", *options)
    assert console == []
    pixels = tf.io.decode_png(picture.read_bytes(), channels=3).numpy()
    assert pixels.shape == (height, width, 3)
    brightness = pixels.mean(axis=-1)
    # The corner is background; text and figures stand on it.
    assert brightness[2, 2] < 40 if dark else brightness[2, 2] > 240
    assert np.std(brightness) > 10
    assert (np.abs(brightness - brightness[2, 2]) > 60).mean() > 0.01


@pytest.mark.parametrize("size", SIZES)
def test_it_is_no_wider_than_the_screen(page, tmp_path, size):
    width, height = SIZES[size]
    # The page itself runs no script: another one holds it in a frame, and measures it.
    frame = f'<iframe id="f" style="border:0;width:{width}px;height:{height}px" srcdoc="{html.escape(page.read_text())}"></iframe>'
    script = """<script>onload = () => {
      const inside = document.getElementById('f').contentDocument;
      const marks = [...inside.querySelectorAll('svg.plot .point')].map(mark => mark.getBoundingClientRect());
      document.title = JSON.stringify([inside.documentElement.scrollWidth, inside.querySelectorAll('section').length,
        marks.length, Math.max(...marks.map(mark => mark.right))]);
    }</script>"""
    outer = tmp_path / "frame.html"
    outer.write_text(f"<!DOCTYPE html><html><head><title></title></head><body>{frame}{script}</body></html>")
    dom, _ = browse(outer, tmp_path / "profile", "--dump-dom", f"--window-size={width + 100},{height + 100}")
    match = re.search(r"<title>\[(\d+),(\d+),(\d+),([\d.]+)\]</title>", dom)
    assert match, dom[:300]
    assert int(match[1]) <= width
    assert int(match[2]) == 11
    assert int(match[3]) > 10
    assert float(match[4]) <= width
