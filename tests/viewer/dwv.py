"""dwv in a browser: load images and a segmentation as files, go to a place, and look.

It shares no code with OHIF: other parser, other geometry, a two-dimensional canvas. Its page is dwv.html beside this module.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from selenium.webdriver import Chrome

from tests.viewer.browser import picture, still_for_a_moment
from tests.waiting import wait_until

WAIT_S = 240.0

SHOW = """
const group = app.getLayerGroupByDivId('layers');
const point = new dwv.Point(arguments[0]);
return group.getViewLayers().map(layer => layer.getViewController().setCurrentPosition(point));
"""
TO_WINDOW = """
const layer = app.getLayerGroupByDivId('layers').getBaseViewLayer();
const box = document.getElementById('layers').getBoundingClientRect();
return arguments[0].map(point => {
  const place = layer.planePosToDisplay(layer.getViewController().getPlanePositionFromPosition(new dwv.Point(point)));
  return [place.getX() + box.x, place.getY() + box.y];
});
"""
CURRENT = "return app.getLayerGroupByDivId('layers').getBaseViewLayer().getViewController().getCurrentImageUid();"


class Dwv:
    """The viewer's page at that address, empty."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        driver.get(f"{url}/dwv.html")
        wait_until("dwv has started", lambda: driver.execute_script("return window.ready === true"), WAIT_S)

    def load(self, addresses: Sequence[str]) -> None:
        """Load these files as one series and lay it over what is there."""
        before = self._loaded()
        self.driver.execute_script("app.loadURLs(arguments[0])", list(addresses))
        wait_until("dwv has loaded the files", lambda: self._loaded() > before, WAIT_S)

    def _loaded(self) -> int:
        failures = self.driver.execute_script("return failures")
        assert not failures, f"dwv could not load a file: {failures}"
        return int(self.driver.execute_script("return loaded.length"))

    def show(self, point_lps: Sequence[float]) -> NDArray[np.uint8]:
        """Go to the slice through the point and look, once the window stands still; picture[row, column, RGB]."""
        self.driver.execute_script(SHOW, list(point_lps))
        (still,) = wait_until("the picture stands still", self._still_picture, WAIT_S)
        return still

    def current(self) -> str:
        """The SOP Instance UID of the image that is shown."""
        return str(self.driver.execute_script(CURRENT))

    def to_window(self, points_lps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where points_lps[n, 3] of the slice shown lie in the window, (x, y) for each."""
        return np.array(self.driver.execute_script(TO_WINDOW, points_lps.tolist()), dtype=np.float64)

    def _still_picture(self) -> list[NDArray[np.uint8]]:
        before = picture(self.driver)
        self.driver.execute_async_script("requestAnimationFrame(arguments[0])")
        return still_for_a_moment(self.driver, before)
