"""OHIF in a browser: open a study, load its results, and ask what the viewer holds and what the screen shows.

The viewer is driven as a reader drives it, by its series list and its prompts. What it holds is read from its own state;
what it shows is read from screenshots.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from tests.viewer.browser import picture, still_for_a_moment
from tests.waiting import wait_until

WAIT_S = 240.0
CLICK_S = 15.0
LETTERS = 1000
"""Dark pixels on a white page with words on it."""
SERIES_WITHOUT_PICTURE = "[data-cy='study-browser-thumbnail-no-image']"
ACCEPT = "[data-cy='yes-hydrate-btn']"
MARKER = ".left-mid.orientation-marker"
DOCUMENT = "object[type='application/pdf']"

COUNTS = """
const segmentations = window.cornerstoneTools.segmentation.state.getSegmentations();
const counts = {};
for (const segmentation of segmentations)
  for (const id of segmentation.representationData.Labelmap.imageIds) {
    const image = window.cornerstone.cache.getImage(id);
    if (!image) return null;
    const name = image.referencedImageId.split('/instances/')[1];
    for (const value of image.voxelManager.getScalarData())
      if (value) {
        counts[name] = counts[name] || {};
        counts[name][value] = (counts[name][value] || 0) + 1;
      }
  }
return Object.keys(counts).length ? JSON.stringify(counts) : null;
"""
COLOURS = """
const tools = window.cornerstoneTools.segmentation;
const [segmentation] = tools.state.getSegmentations();
const [viewport] = tools.state.getViewportIdsWithSegmentation(segmentation.segmentationId);
const colours = {};
for (const segment of Object.values(segmentation.segments))
  colours[segment.segmentIndex] = Array.from(
    tools.config.color.getSegmentIndexColor(viewport, segmentation.segmentationId, segment.segmentIndex));
return JSON.stringify(colours);
"""
VIEWPORT = "const viewport = window.cornerstone.getRenderingEngines()[0].getViewports()[0];"
SHOW = f"""
{VIEWPORT}
const [name, done] = arguments;
const frame = () => new Promise(resolve => requestAnimationFrame(resolve));
(async () => {{
  const index = viewport.getImageIds().findIndex(id => id.endsWith('/' + name));
  if (index < 0) return done('no such image');
  await viewport.setImageIdIndex(index);
  const loaded = window.cornerstoneTools.segmentation.state.getSegmentations().length > 0;
  const overlaid = () => viewport.getActors().some(one => String(one.representationUID).includes('Labelmap'));
  for (let i = 0; loaded && !overlaid() && i < 500; i++) await frame();
  for (let i = 0; i < 3; i++) {{ viewport.render(); await frame(); }}
  done(viewport.getCurrentImageId());
}})().catch(error => done('failed: ' + error));
"""
TO_WINDOW = f"""
{VIEWPORT}
const box = viewport.element.querySelector('canvas').getBoundingClientRect();
return arguments[0].map(point => viewport.worldToCanvas(point)).map(([x, y]) => [x + box.x, y + box.y]);
"""
TO_WORLD = f"""
{VIEWPORT}
const box = viewport.element.querySelector('canvas').getBoundingClientRect();
return Array.from(viewport.canvasToWorld([arguments[0] - box.x, arguments[1] - box.y]));
"""
BOX = f"""
{VIEWPORT}
const box = viewport.element.querySelector('canvas').getBoundingClientRect();
return [box.x, box.y, box.width, box.height];
"""
CURRENT = f"{VIEWPORT} return viewport.getCurrentImageId();"
MAP = "const map = window.cornerstone.cache.getVolumes().find(volume => volume.volumeId.startsWith('pmap'));"
MAP_LOADED = f"""
{VIEWPORT}
{MAP}
return Boolean(map && map.loadStatus.loaded && viewport.type === 'orthographic' && viewport.getActors().length === 2);
"""
MAP_VALUES = f"""
{MAP}
return arguments[0].map(point => map.voxelManager.getAtIJK(...map.imageData.worldToIndex(point).map(Math.round)));
"""
GO_TO = f"""
{VIEWPORT}
const [point, done] = arguments;
const frame = () => new Promise(resolve => requestAnimationFrame(resolve));
(async () => {{
  viewport.jumpToWorld(point);
  for (let i = 0; i < 3; i++) {{ viewport.render(); await frame(); }}
  done(viewport.getCurrentImageId());
}})().catch(error => done('failed: ' + error));
"""
SHOWN = """
const [pane] = window.services.viewportGridService.getState().viewports.values();
return pane.displaySetInstanceUIDs.map(uid => window.services.displaySetService.getDisplaySetByUID(uid).Modality);
"""
HYDRATED = f"""
{VIEWPORT}
const [pane] = window.services.viewportGridService.getState().viewports.values();
const shown = pane.displaySetInstanceUIDs.map(uid => window.services.displaySetService.getDisplaySetByUID(uid).Modality);
const state = window.cornerstoneTools.segmentation.state;
const overlaid = state.getSegmentations().some(one => state.getViewportIdsWithSegmentation(one.segmentationId).length);
return overlaid && !shown.includes('SEG') && Boolean(viewport.getCurrentImageId());
"""
CONTOURS = """
const layer = document.querySelector('svg.svg-layer');
if (!layer) return null;
const box = layer.getBoundingClientRect();
const lines = [...layer.querySelectorAll('polyline')].map(line =>
  line.getAttribute('points').trim().split(/[ ,]+/).map(Number));
return lines.length ? lines.map(line => line.map((value, i) => value + (i % 2 ? box.y : box.x))) : null;
"""
LISTED = "return window.services.displaySetService.getActiveDisplaySets().map(one => one.SOPClassHandlerId);"
LABELS = "return [...document.querySelectorAll('svg.svg-layer g[data-annotation-uid] tspan')].map(one => one.textContent);"


@dataclass(frozen=True, slots=True, eq=False)
class Screen:
    """What the window showed of one image."""

    picture: NDArray[np.uint8]
    """[row, column, RGB] of the whole window."""
    viewport: tuple[float, float, float, float]
    """The image's part of it: left, top, width, height."""

    def inside(self) -> NDArray[np.bool_]:
        """The window's pixels that belong to the image, inside[row, column]."""
        left, top, width, height = self.viewport
        mask = np.zeros(self.picture.shape[:2], dtype=bool)
        mask[int(top) + 2 : int(top + height) - 2, int(left) + 2 : int(left + width) - 2] = True
        return mask


def letters_on_paper(seen: NDArray[np.uint8]) -> int:
    """Dark pixels in those rows of the picture[row, column, RGB] that hold white."""
    page = seen[seen.min(axis=-1).max(axis=1) > 250]
    return int(np.count_nonzero(page.max(axis=-1) < 60))


class Ohif:
    """The viewer at that address."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        self.url = url
        driver.get(f"{url}/app-config.js")  # a page of the same origin, to say once that the tour has been seen
        driver.execute_script("localStorage.setItem('shownTours', '[\"basicViewerTour\"]')")

    def open(self, study_instance_uid: str, series_instance_uids: Sequence[str]) -> None:
        """Open the study with these series alone, the images among them."""
        series = ",".join(series_instance_uids)
        self.driver.get(f"{self.url}/viewer?StudyInstanceUIDs={study_instance_uid}&SeriesInstanceUIDs={series}")
        self._wait("the images are shown", lambda: self.driver.execute_script(CURRENT))

    def load_segmentation(self) -> None:
        """Open the segmentation from the series list and answer the viewer's question with yes."""
        self._open_series("SEG")
        self._wait("the segmentation may be loaded", lambda: self._press(ACCEPT))
        self._wait(
            "the segmentation lies over the images", lambda: not self._press(ACCEPT) and self.driver.execute_script(HYDRATED)
        )

    def load_report(self) -> None:
        """Open the report from the series list; the viewer goes to its first measurement by itself.

        Where it was slow to go there it draws the contour only when the image is drawn anew, as any movement does.
        """
        self._open_series("SR")
        self._wait(
            "the report's contour is drawn", lambda: self.driver.execute_script(f"{VIEWPORT} viewport.render(); {CONTOURS}")
        )

    def load_map(self) -> None:
        """Open the parametric map from the series list, over its images."""
        self._open_series("PMAP")
        self._wait("the map lies over the images", lambda: self.driver.execute_script(MAP_LOADED))

    def open_words(self, said: str) -> None:
        """Open the report from the series list as text, and wait until the page says so."""
        self._open_series("SR")
        self._wait(f"the report says {said!r}", lambda: said in self.text())

    def open_document(self) -> None:
        """Open the document from the series list."""
        self._open_series("DOC")
        self._wait("a document is shown", lambda: self.driver.find_elements(By.CSS_SELECTOR, DOCUMENT))

    def attempt(self, modality: str, said: str) -> None:
        """Open something of that modality from the series list, and wait until the page or its console says that."""
        self._open_series(modality)
        told = [self.text()]

        def tells() -> bool:
            told.extend(str(entry["message"]) for entry in self.driver.get_log("browser"))
            return said in self.text() or any(said in one for one in told)

        self._wait(f"the viewer says {said!r}", tells)

    def text(self) -> str:
        """Everything that the page says in words."""
        return str(self.driver.execute_script("return document.body.innerText"))

    def listed(self) -> list[str]:
        """The SOP Class Handlers' names of what is in the series list; `unsupported` where there is none."""
        return list(self.driver.execute_script(LISTED))

    def counts(self) -> dict[str, dict[int, int]]:
        """By name of the image and by segment the number of voxels in the viewer's memory."""
        counts = json.loads(self._wait("the masks are in memory", lambda: self.driver.execute_script(COUNTS)))
        return {name: {int(segment): count for segment, count in found.items()} for name, found in counts.items()}

    def map_values(self, points_lps: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the map stores at points_lps[n, 3], values[n]: the viewer holds a hundred times of that."""
        return np.array(self.driver.execute_script(MAP_VALUES, points_lps.tolist()), dtype=np.float64) / 100

    def colours(self) -> dict[int, tuple[int, int, int]]:
        """By segment the colour that the viewer has taken from the segmentation."""
        colours = json.loads(self._wait("the colours are known", lambda: self.driver.execute_script(COLOURS)))
        return {int(segment): (int(colour[0]), int(colour[1]), int(colour[2])) for segment, colour in colours.items()}

    def show(self, image: str) -> Screen:
        """Go to the image of that name and look at it once it stands still."""
        shown = self.driver.execute_async_script(SHOW, image)
        assert shown.endswith(f"/{image}"), f"the viewer does not go to the image: {shown}"
        return self.look()

    def go_to(self, point_lps: Sequence[float], image: str) -> Screen:
        """Go to the plane through that point, where images are shown as a volume, and look; it must be that image's."""
        shown = self.driver.execute_async_script(GO_TO, list(point_lps))
        assert shown.endswith(f"/{image}"), f"the viewer does not go to the image: {shown}"
        return self.look()

    def look(self) -> Screen:
        """What the window shows now, once it stands still."""
        (still,) = wait_until("the picture stands still", self._still_picture, WAIT_S)
        return Screen(still, tuple(self.driver.execute_script(BOX)))

    def look_at_words(self) -> NDArray[np.uint8]:
        """What the window shows where it shows no image; picture[row, column, RGB]."""
        return picture(self.driver)

    def look_at_paper(self) -> NDArray[np.uint8]:
        """What the window shows once a fifth of it is white and has letters on it; picture[row, column, RGB]."""

        def written() -> list[NDArray[np.uint8]]:
            seen = picture(self.driver)
            is_white = np.mean(seen.min(axis=-1) > 250) > 0.2
            return [seen] if is_white and letters_on_paper(seen) > LETTERS else []

        (seen,) = self._wait("letters stand on the white paper", written)
        return np.asarray(seen)

    def left_marker(self) -> str:
        """The viewer's letters at the image's left edge: where in the patient that edge lies, e.g. R for right.

        The viewer writes them when its camera moves, and forgets them now and then when it has loaded a segmentation.
        """

        def told() -> str | None:
            self.driver.execute_script(f"{VIEWPORT} viewport.resetCamera(); viewport.render();")
            found = self.driver.find_elements(By.CSS_SELECTOR, MARKER)
            return found[0].text if found else None

        return str(self._wait("the viewer writes which side is which", told))

    def current(self) -> str:
        """The viewer's address of the image that it shows; it ends in the image's name."""
        return str(self.driver.execute_script(CURRENT))

    def to_window(self, points_lps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where points_lps[n, 3] lie in the window, (x, y) for each."""
        return np.array(self.driver.execute_script(TO_WINDOW, points_lps.tolist()), dtype=np.float64)

    def to_world(self, x: float, y: float) -> NDArray[np.float64]:
        """The point of the patient at a place in the window, LPS mm."""
        return np.array(self.driver.execute_script(TO_WORLD, x, y), dtype=np.float64)

    def contours(self) -> list[NDArray[np.float64]]:
        """The lines drawn over the image, each as (x, y) in the window."""
        return [np.array(line).reshape(-1, 2) for line in self.driver.execute_script(CONTOURS) or []]

    def labels(self) -> list[str]:
        """The lines of text beside them."""
        return list(self.driver.execute_script(LABELS))

    def told(self, line: str) -> list[str]:
        """The lines of text beside the drawings, once this one is among them."""
        found: list[str] = self._wait(f"{line!r} is written", lambda: [self.labels()] if line in self.labels() else [])[0]
        return found

    def _open_series(self, modality: str) -> None:
        """Double-click it in the series list, again where a busy viewer has taken no note of that."""

        def shown() -> bool:
            return modality in self.driver.execute_script(SHOWN)

        def opened() -> bool:
            for one in self.driver.find_elements(By.CSS_SELECTOR, SERIES_WITHOUT_PICTURE):
                if one.text.startswith(modality):
                    ActionChains(self.driver).move_to_element(one).double_click().perform()
                    break
            with suppress(AssertionError):
                wait_until(f"the {modality} is opened", shown, CLICK_S)
            return shown()

        self._wait(f"the {modality} is opened from the series list", opened)

    def _press(self, selector: str) -> bool:
        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        if found:
            found[0].click()
        return bool(found)

    def _still_picture(self) -> list[NDArray[np.uint8]]:
        before = picture(self.driver)
        self.driver.execute_async_script(f"{VIEWPORT} viewport.render(); requestAnimationFrame(arguments[0]);")
        return still_for_a_moment(self.driver, before)

    def _wait(self, what: str, condition: Callable[[], Any]) -> Any:
        """Wait for a condition of a page that draws itself anew meanwhile."""

        def settled() -> Any:
            try:
                return condition()
            except (StaleElementReferenceException, WebDriverException):
                return None

        try:
            return wait_until(what, settled, WAIT_S)
        except AssertionError as error:
            seen = self.driver.execute_script("return document.body.innerText")
            errors = [entry["message"][:400] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
            raise AssertionError(f"{error}; the page says {seen!r} and its console {errors[-5:]}") from None
