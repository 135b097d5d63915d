"""The others on the network, real ones: Orthanc, DCMTK, dicom3tools and dcmqi, and where those are too polite, pynetdicom.

Everything listens on loopback with free ports and keeps its files in the test's folder. A program that is not installed fails the
test where FOVEA_REQUIRE_PEERS=1, else skips it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE

from tests.postgres import peer_missing
from tests.studies import encoded, save
from tests.waiting import free_port, wait_until

ORTHANC_PLUGINS = (Path("/usr/share/orthanc/plugins"), Path("/usr/lib/orthanc"), Path("/usr/lib/orthanc/plugins"))
LOG_LINES_SHOWN = 30
ROUTE_EVERYTHING = """\
function OnStoredInstance(instance, tags, metadata, origin)
  SendToModality(instance, '{name}')
end
"""


def program(name: str, *, of_environment: bool = False) -> str:
    """The path of an installed program: of the system, or of the tests' environment, where pynetdicom has namesakes of DCMTK's.

    Fails or skips where it is absent.
    """
    environment = str(Path(sys.executable).parent)
    system = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder != environment]
    path = environment if of_environment else os.pathsep.join([*system, "/usr/bin", "/usr/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        peer_missing(f"{name} is not installed")
    assert found is not None
    return found


def _run(command: Sequence[str | Path], timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TCP_NODELAY": "1", "DCMDICTPATH": os.environ.get("DCMDICTPATH", "")}
    if not environment["DCMDICTPATH"]:
        del environment["DCMDICTPATH"]
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        env=environment,
        check=False,
    )


# ------------------------------------------------------------------------------------------------ DCMTK


def echo(port: int, calling: str = "MODALITY", called: str = "FOVEA") -> bool:
    """True where DCMTK's echoscu is answered."""
    command = [program("echoscu"), "-to", "3", "-ta", "5", "-td", "5", "-aet", calling, "-aec", called, "127.0.0.1", str(port)]
    return _run(command).returncode == 0


def storescu(
    port: int,
    datasets: Iterable[Dataset],
    folder: Path,
    *,
    calling: str = "MODALITY",
    called: str = "FOVEA",
    options: Sequence[str] = (),
) -> None:
    """Send the images as files with DCMTK's storescu, one association. Raises AssertionError with what it said."""
    save(datasets, folder)
    send_folder(port, folder, calling=calling, called=called, options=options)


def send_folder(
    port: int, folder: Path, *, calling: str = "MODALITY", called: str = "FOVEA", options: Sequence[str] = ()
) -> None:
    """Send the files of a folder, in the order of their names."""
    where = ["-aet", calling, "-aec", called, *options, "127.0.0.1", str(port)]
    answer = _run([program("storescu"), "-v", "-R", *where, *(str(one) for one in sorted(folder.glob("*.dcm")))], 300)
    assert answer.returncode == 0, f"storescu ended with {answer.returncode}\n{(answer.stdout + answer.stderr)[-3000:]}"


def report_html(report: Path) -> str:
    """The structured report as DCMTK's dsr2html renders it."""
    answer = _run([program("dsr2html"), report])
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def report_text(report: Path) -> str:
    """The rendered report without markup, one space between words."""
    plain = re.sub(r"<[^>]*>", " ", report_html(report)).replace("&nbsp;", " ").replace("&gt;", ">").replace("&lt;", "<")
    return re.sub(r"\s+", " ", plain)


# ------------------------------------------------------------------------------------------------ dicom3tools


def errors_of(file: Path) -> list[str]:
    """The errors that dciodvfy finds in one object."""
    answer = _run([program("dciodvfy"), file])
    lines = (answer.stdout + answer.stderr).splitlines()
    assert lines, f"dciodvfy said nothing of {file.name}"
    return [line for line in lines if line.startswith("Error")]


def disagreements_of(files: Sequence[Path]) -> list[str]:
    """The errors that dcentvfy finds among the objects of one study: an entity that is not the same everywhere."""
    answer = _run([program("dcentvfy"), *files])
    return [line for line in (answer.stdout + answer.stderr).splitlines() if line.startswith("Error")]


# ------------------------------------------------------------------------------------------------ dcmqi


def dcmqi_masks(
    segmentation: Path, folder: Path, affine_index_to_lps: NDArray[np.float64], shape: tuple[int, int, int]
) -> dict[int, NDArray[np.bool_]]:
    """Each segment on the given grid, as dcmqi reads it: segment number to mask[slice, row, column]."""
    folder.mkdir(parents=True, exist_ok=True)
    where = ["--inputDICOM", str(segmentation), "--outputDirectory", str(folder)]
    command = [program("segimage2itkimage", of_environment=True), *where, "-p", "seg", "-t", "nii"]
    answer = _run(command)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    lps_to_index: NDArray[Any] = np.linalg.inv(affine_index_to_lps)
    masks = {}
    for path in sorted(folder.glob("seg-*.nii.gz")):
        image: Any = nibabel.load(path)
        voxels = np.argwhere(np.asarray(image.dataobj) > 0)
        lps = _mapped(image.affine, voxels) * (-1.0, -1.0, 1.0)
        index = _mapped(lps_to_index, lps)
        whole = np.rint(index).astype(int)
        assert np.abs(index - whole).max(initial=0.0) < 0.05, f"{path.name} does not lie on the source grid"
        mask = np.zeros(shape, dtype=bool)
        mask[tuple(whole.T)] = True
        masks[int(path.name.split("-")[1].split(".")[0])] = mask
    return masks


def _mapped(affine: NDArray[Any], points: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(points @ affine[:3, :3].T + affine[:3, 3], dtype=np.float64)


# ------------------------------------------------------------------------------------------------ Orthanc


@dataclass(slots=True)
class Orthanc:
    """An Orthanc of its own; `start`, `stop`, and `start` again with what it had stored."""

    folder: Path
    routes_to: tuple[str, int] | None = None
    """AE title and port that get every new instance, whatever it is."""
    knows: tuple[str, int] | None = None
    """AE title and port of who may ask for storage commitment and gets the report."""
    more: Mapping[str, object] = field(default_factory=dict)
    """Further lines of its configuration."""
    overwrites: bool = False
    """Whether it takes an object that it has already; else it answers Success and keeps the old one."""
    ae_title: str = "ORTHANC"
    port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "orthanc.json"
        config.write_text(json.dumps(self._configuration(), indent=2), encoding="utf-8")
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen(
                [program("Orthanc"), str(config)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "TCP_NODELAY": "1"},
            )
        wait_until("Orthanc answers", self._answers, 60)

    def stop(self) -> None:
        """Stop in order; its storage stays."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _answers(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            log = (self.folder / "orthanc.log").read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
            raise AssertionError("Orthanc ended:\n" + "\n".join(log))
        try:
            return "Version" in self.get("/system")
        except (urllib.error.URLError, OSError):
            return False

    def _configuration(self) -> dict[str, object]:
        configuration: dict[str, object] = {
            "Name": "test",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "DicomAet": self.ae_title,
            "DicomPort": self.port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": True,
            "ConcurrentJobs": 1,
            "StableAge": 1,
            "SaveJobs": False,
            "Plugins": [str(one) for folder in ORTHANC_PLUGINS[:1] for one in folder.glob("libOrthancDicomWeb.so")],
        }
        configuration["OverwriteInstances"] = self.overwrites
        if self.knows is not None:
            configuration["DicomModalities"] = {"fovea": [self.knows[0], "127.0.0.1", self.knows[1]]}
        if self.routes_to is not None:
            script = self.folder / "route.lua"
            script.write_text(ROUTE_EVERYTHING.format(name="fovea"), encoding="ascii")
            called, port = self.routes_to
            configuration |= {"LuaScripts": [str(script)], "DicomModalities": {"fovea": [called, "127.0.0.1", port]}}
        return {**configuration, **self.more}

    # ------------------------------------------------------------------------------------------- asking

    @property
    def dicomweb(self) -> str:
        """The address of its DICOMweb service."""
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def get(self, path: str) -> Any:
        """The JSON answer of its REST interface."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=20) as answer:
            return json.load(answer)

    def post(self, path: str, body: bytes) -> Any:
        """The JSON answer to bytes sent to its REST interface."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=body)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def post_json(self, path: str, body: object) -> Any:
        """The JSON answer to JSON."""
        return self.post(path, json.dumps(body).encode())

    def find(self, query: Mapping[str, str], level: str = "Instance") -> list[str]:
        """Orthanc's own identifiers of what matches the query."""
        body = json.dumps({"Level": level, "Query": dict(query), "CaseSensitive": True}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}/tools/find", data=body)
        with urllib.request.urlopen(request, timeout=20) as answer:
            found: list[str] = json.load(answer)
        return found

    def has(self, sop_instance_uid: str) -> bool:
        """True where it holds the instance."""
        return bool(self.find({"SOPInstanceUID": sop_instance_uid}))

    def file(self, identifier: str) -> bytes:
        """The instance as a DICOM file."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/instances/{identifier}/file", timeout=20) as answer:
            content: bytes = answer.read()
        return content

    def objects(self, study_instance_uid: str, modality: str) -> list[Dataset]:
        """All instances of a modality in the study, whole."""
        series = self.find({"StudyInstanceUID": study_instance_uid, "Modality": modality}, "Series")
        identifiers = [one["ID"] for found in series for one in self.get(f"/series/{found}/instances")]
        return [dcmread(BytesIO(self.file(one))) for one in identifiers]

    def results(self, study_instance_uid: str) -> tuple[list[Dataset], list[Dataset]]:
        """The segmentations and the reports of the study."""
        return self.objects(study_instance_uid, "SEG"), self.objects(study_instance_uid, "SR")

    def save(self, study_instance_uid: str, modality: str, folder: Path) -> list[Path]:
        """All instances of a modality in the study as the very files that Orthanc holds."""
        folder.mkdir(parents=True, exist_ok=True)
        series = self.find({"StudyInstanceUID": study_instance_uid, "Modality": modality}, "Series")
        identifiers = [one["ID"] for found in series for one in self.get(f"/series/{found}/instances")]
        paths = []
        for number, identifier in enumerate(identifiers):
            path = folder / f"{modality}-{number:04}.dcm"
            path.write_bytes(self.file(identifier))
            paths.append(path)
        return paths

    def is_idle(self) -> bool:
        """True where no job of its own waits or runs."""
        return all(job["State"] in ("Success", "Failure") for job in self.get("/jobs?expand"))


@contextmanager
def running_orthanc(orthanc: Orthanc) -> Iterator[Orthanc]:
    """The Orthanc, started, for the length of the block."""
    orthanc.start()
    try:
        yield orthanc
    finally:
        orthanc.stop()


# ------------------------------------------------------------------------------------------------ pynetdicom


@dataclass(slots=True)
class Sender:
    """A modality that notes what was acknowledged and comes back with the rest when the connection broke."""

    port: int
    calling: str = "MODALITY"
    called: str = "FOVEA"
    pace_s: float = 0.0
    """Pause after each image."""
    acknowledged: set[str] = field(default_factory=set)
    refused: dict[str, int] = field(default_factory=dict)
    """SOP Instance UID to the status that was not Success, until it is."""

    def send(self, datasets: Sequence[Dataset]) -> bool:
        """Send what is not acknowledged yet, one association; False where it could not be opened or broke."""
        pause = threading.Event()
        waiting = [one for one in datasets if str(one.SOPInstanceUID) not in self.acknowledged]
        if not waiting:
            pause.wait(0.1)
            return True
        association = self._associate(waiting)
        if not association.is_established:
            pause.wait(0.1)
            return False
        for dataset in waiting:
            pause.wait(self.pace_s)
            if not association.is_established:
                return False
            answer = association.send_c_store(dataset)
            status = answer.get("Status") if answer else None
            if status == 0x0000:
                self.acknowledged.add(str(dataset.SOPInstanceUID))
                self.refused.pop(str(dataset.SOPInstanceUID), None)
            elif status is not None:
                self.refused[str(dataset.SOPInstanceUID)] = int(status)
            else:
                association.abort()
                return False
        association.release()
        return True

    def send_bytes(self, sop_class_uid: str, sop_instance_uid: str, data: bytes) -> int | None:
        """The status for these bytes as the data set of an object, Explicit VR Little Endian; None where no answer came."""
        entity = AE(ae_title=self.calling)
        entity.add_requested_context(sop_class_uid, ExplicitVRLittleEndian)
        association: Any = entity.associate("127.0.0.1", self.port, ae_title=self.called)
        assert association.is_established, "the node refused the association"
        request: Any = C_STORE()
        request.MessageID = 1
        request.AffectedSOPClassUID = sop_class_uid
        request.AffectedSOPInstanceUID = sop_instance_uid
        request.Priority = 2
        request.DataSet = BytesIO(data)
        association._reactor_checkpoint.clear()
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        association.release()
        return None if answer is None else int(answer.Status)

    def _associate(self, datasets: Sequence[Dataset]) -> Any:
        entity = AE(ae_title=self.calling)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
        contexts = sorted({(str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)) for one in datasets})
        for sop_class_uid, syntax in contexts:
            entity.add_requested_context(sop_class_uid, syntax)
        return entity.associate("127.0.0.1", self.port, ae_title=self.called)


def truncated(dataset: Dataset, missing: int = 1000) -> bytes:
    """The data set's bytes without the last of them."""
    return encoded(dataset)[:-missing]


@dataclass(slots=True)
class MoodyPacs:
    """A destination that answers every C-STORE with the status it is told to, and keeps what it took."""

    status: int = 0x0000
    ae_title: str = "MOODY"
    port: int = 0
    taken: list[Dataset] = field(default_factory=list)
    _server: Any = None
    _lock: Any = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Listen on a free port."""
        entity = AE(ae_title=self.ae_title)
        for uid in ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"):
            entity.add_supported_context(uid, ExplicitVRLittleEndian)
        handlers: list[Any] = [(evt.EVT_C_STORE, self._on_store)]
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.port = int(self._server.server_address[1])

    def stop(self) -> None:
        """Listen no more."""
        self._server.shutdown()

    def _on_store(self, event: Any) -> int:
        if self.status == 0x0000:
            with self._lock:
                self.taken.append(event.dataset)
        return self.status
