"""A headless Chromium with WebGL in software, driven by its own chromedriver."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from tests.peers import program

WIDTH, HEIGHT = 1200, 800
MOMENT_S = 0.2
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    f"--window-size={WIDTH},{HEIGHT}",
)
SCRIPT_TIMEOUT_S = 60
PAGE_TIMEOUT_S = 120


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """The browser for the length of the block. Fails or skips where Chromium or its driver is not installed."""
    options = Options()
    options.binary_location = program("chromium")
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=Service(program("chromedriver")), options=options)
    try:
        driver.set_script_timeout(SCRIPT_TIMEOUT_S)
        driver.set_page_load_timeout(PAGE_TIMEOUT_S)
        yield driver
    finally:
        driver.quit()


def still_for_a_moment(driver: webdriver.Chrome, before: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The picture where it is as before now and a moment later; else nothing."""
    for pause_s in (0.0, MOMENT_S):
        threading.Event().wait(pause_s)
        if not np.array_equal(before, picture(driver)):
            return []
    return [before]


def picture(driver: webdriver.Chrome) -> NDArray[np.uint8]:
    """What the window shows; picture[row, column, RGB]."""
    with Image.open(io.BytesIO(driver.get_screenshot_as_png())) as shot:
        return np.asarray(shot.convert("RGB"))
