"""Real senders and real files: DCMTK and Orthanc, other orders, sizes and encodings, and real files cut and spoiled."""

from __future__ import annotations

import json
import random
import subprocess
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from tests import data, studies
from tests.fuzz.corpus import Sample, sample, with_data
from tests.fuzz.guided import mutated
from tests.fuzz.properties import judged
from tests.hostile.listener import SMALL, Listening, uids
from tests.network import Wire, run_storescu, store_command
from tests.peers import Orthanc, program, running_orthanc
from tests.studies import Plan

pytestmark = [
    pytest.mark.feature("R1", "S1"),
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:.*exceeds the maximum length:UserWarning"),  # the scanner's own spelling
]

SUCCESS = 0x0000
SEED = 20251122
IMAGES = 12
OPTIONS = {
    ExplicitVRLittleEndian: (),
    ImplicitVRLittleEndian: ("-xi",),
    ExplicitVRBigEndian: ("-xb",),
    DeflatedExplicitVRLittleEndian: ("-xd",),
}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """Some images of the real GE series."""
    return [dcmread(path) for path in data.ge_series(tmp_path_factory.mktemp("ge"))[:IMAGES]]


def under_another_name(images: list[Dataset], name: str) -> list[Dataset]:
    """The same images as a study of their own."""
    plan = Plan(study=name)
    made = []
    for number, image in enumerate(images):
        copied = dcmread(image.filename)  # type: ignore[arg-type]
        copied.StudyInstanceUID, copied.SeriesInstanceUID = plan.study_instance_uid, plan.series_instance_uid
        copied.SOPInstanceUID = f"{plan.series_instance_uid[:50]}.{number}"
        copied.file_meta.MediaStorageSOPInstanceUID = copied.SOPInstanceUID
        made.append(copied)
    return made


@pytest.mark.parametrize("syntax", OPTIONS, ids=lambda uid: uid.keyword)
def test_storescu_sends_real_files_in_any_order_and_encoding(
    node: Listening, real: list[Dataset], tmp_path: Path, syntax: str
) -> None:
    images = under_another_name(real, f"storescu {syntax} {node.receive_path}")
    for image in images:
        if syntax == ExplicitVRBigEndian:
            image.PixelData = bytes(b for pair in zip(image.PixelData[1::2], image.PixelData[::2], strict=True) for b in pair)
        image.file_meta.TransferSyntaxUID = syntax
    random.Random(SEED).shuffle(images)
    files = studies.save(images, tmp_path)

    done = run_storescu(node.port, files, *OPTIONS[syntax])

    assert done.returncode == 0, done.stdout
    rows = node.instances(str(images[0].StudyInstanceUID))
    assert {row.sop_instance_uid for row in rows} == uids(images)
    if syntax != DeflatedExplicitVRLittleEndian:  # storescu deflates anew, and decodes big endian
        assert {row.transfer_syntax_uid for row in rows} <= {str(syntax), str(ExplicitVRLittleEndian)}


def test_dcmsend_opens_an_association_for_each_object(node: Listening, tmp_path: Path) -> None:
    images = studies.series(replace(SMALL, study=f"dcmsend {node.receive_path}", slices=10))
    files = studies.save(images, tmp_path)

    for file in files:
        command = [program("dcmsend"), "-aet", "MODALITY", "-aec", "FOVEA", "127.0.0.1", str(node.port), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    assert {row.sop_instance_uid for row in node.instances(str(images[0].StudyInstanceUID))} == uids(images)


def test_echoscu_is_answered_a_hundred_times_over(node: Listening) -> None:
    command = [program("echoscu"), "--repeat", "100", "-aet", "MODALITY", "-aec", "FOVEA", "127.0.0.1", str(node.port)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("size", [1, 7, 100, 511, 2000])
def test_images_of_any_size_are_kept(node: Listening, tmp_path: Path, size: int) -> None:
    images = studies.series(Plan(slices=1, rows=size, columns=max(2, size // 2 * 2), study=f"{size} {node.receive_path}"))

    done = run_storescu(node.port, studies.save(images, tmp_path))

    assert done.returncode == 0, done.stdout
    (row,) = node.instances(str(images[0].StudyInstanceUID))
    assert node.file(row.path).endswith(studies.encoded(images[0]))


def test_orthanc_sends_real_files(node: Listening, real: list[Dataset], tmp_path: Path) -> None:
    images = under_another_name(real, f"orthanc {node.receive_path}")
    orthanc = Orthanc(tmp_path / "orthanc", knows=("FOVEA", node.port))
    with running_orthanc(orthanc):
        for image in images:
            posted(orthanc, "/instances", studies.part10(image))
        (study,) = orthanc.find({"StudyInstanceUID": str(images[0].StudyInstanceUID)}, "Study")
        answer = json.loads(posted(orthanc, "/modalities/fovea/store", study.encode()))

    assert answer["FailedInstancesCount"] == 0
    assert {row.sop_instance_uid for row in node.instances(str(images[0].StudyInstanceUID))} == uids(images)


def posted(orthanc: Orthanc, path: str, body: bytes) -> bytes:
    """Orthanc's answer to a POST."""
    request = urllib.request.Request(f"http://127.0.0.1:{orthanc.http_port}{path}", data=body)
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: bytes = answer.read()
    return content


def test_real_files_cut_and_spoiled_get_the_status_that_the_scan_gives(node: Listening, real: list[Dataset]) -> None:
    """What the listener answers on the wire is what `examine` says of the same bytes, for each of a hundred."""
    whole = sample("real", under_another_name(real[:1], f"spoiled {node.receive_path}")[0])
    chance = random.Random(SEED)
    cut = [with_data(whole, whole.data[: chance.randrange(len(whole.data))]) for _ in range(30)]
    spoiled = [with_data(whole, mutated(whole.data, chance, [whole.data])) for _ in range(70)]
    refused = [one for one in (*cut, *spoiled) if isinstance(judged(one), int)]

    answers = sent_all(node, refused)

    assert len(refused) > 30
    assert answers == [int(judged(one)) for one in refused]  # type: ignore[arg-type]
    assert node.instances(str(real[0].StudyInstanceUID)) == []
    assert sent_all(node, [whole]) == [SUCCESS]


def sent_all(node: Listening, objects: list[Sample]) -> list[int]:
    """The status of each, over one association."""
    command = objects[0].command
    with Wire(node.port, timeout_s=60) as wire:
        assert wire.associate([(command.sop_class_uid, (command.transfer_syntax_uid,))])[0] == 2
        answers = []
        for one in objects:
            wire.store(store_command(command.sop_instance_uid, command.sop_class_uid), one.data)
            answers.append(wire.status())
    return answers
