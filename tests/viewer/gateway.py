"""One origin for a browser: the static files of a viewer and, under /dicom-web and /instances, the archive behind it.

Without it the viewer would ask another origin for the images, which browsers refuse.
"""

from __future__ import annotations

import http.client
import mimetypes
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

ARCHIVE_PATHS = ("/dicom-web/", "/instances/")
PASSED_ON = ("accept", "content-type", "host")
"""The archive writes the addresses of bulk data from Host; without it they would name its own port."""
KEPT = "max-age=86400"
"""The viewer's own files stay in the browser, which then reads 40 MB of script once and not at every page."""
CONTENT_TYPES = {".wasm": "application/wasm", ".js": "text/javascript", ".mjs": "text/javascript", ".html": "text/html"}


class Gateway:
    """A server on loopback. `folders` maps a path's first part to a folder; "" is the viewer, which gets all other paths."""

    def __init__(self, archive_port: int, folders: dict[str, Path], pages: dict[str, bytes]) -> None:
        self.archive_port = archive_port
        self.folders = {name: folder.resolve() for name, folder in folders.items()}
        self.pages = pages
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="gateway", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(30)

    def file_of(self, path: str) -> Path:
        """The file for a path; a viewer's own addresses, which are no files, all give its index page."""
        first, _, rest = path.lstrip("/").partition("/")
        folder, inside = (self.folders[first], rest) if first and first in self.folders else (self.folders[""], path.lstrip("/"))
        file = (folder / inside).resolve()
        if not file.is_relative_to(folder) or not file.is_file():
            return self.folders[""] / "index.html"
        return file


def _handler(gateway: Gateway) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path.startswith(ARCHIVE_PATHS):
                self._answer(*self._from_archive(), "no-store")
            elif path in gateway.pages:
                self._answer(200, gateway.pages[path], CONTENT_TYPES.get(Path(path).suffix, "text/html"), KEPT)
            else:
                file = gateway.file_of(path)
                kind = CONTENT_TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
                self._answer(200, file.read_bytes(), kind, KEPT)

        def _from_archive(self) -> tuple[int, bytes, str]:
            connection = http.client.HTTPConnection("127.0.0.1", gateway.archive_port, timeout=120)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() in PASSED_ON}
                connection.request("GET", self.path, headers=headers)
                answer = connection.getresponse()
                return answer.status, answer.read(), answer.getheader("Content-Type", "application/octet-stream")
            finally:
                connection.close()

        def _answer(self, status: int, body: bytes, content_type: str, caching: str) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", caching)
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
                self.end_headers()
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    return Handler
