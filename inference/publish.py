"""Makes a bundle of what `inference.train` left in its work folder: weights, calibration, operating point, model card.

The command is `python -m inference.publish --work FOLDER --data FOLDER --out FOLDER`. Run it at any time: an unfinished
training gives a bundle that says so. Figures measured by `inference.evaluate` are added with `--measured FILE`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from torch import Tensor

from inference.bundle import BRAIN_FILE, BRAIN_PREFIX, RESTORER_FILE, write_bundle
from inference.calibrate import (
    RawHead,
    development_heads,
    head_volume,
    healthy_heads,
    operating_point,
    raw_head,
    real_reference,
    reference_table,
)
from inference.card import Calibration, ModelCard, OperatingPointCard, Source, Validity
from inference.data import Lgg
from inference.evaluate import chosen
from inference.fit import mean_weights
from inference.localizer import RecipeLocalizer, load_localizer
from inference.networks import BRAIN_NET, RESTORER
from inference.phantom.banks import open_bank
from inference.phantom.tissues import read_label_map
from inference.train import RECIPES, TrainingRecipe, label_map_paths, part

log = structlog.get_logger()

VERSION = "0.1.0"
LOCALIZERS = ("cold_restore", "cold_mean")
VALIDITY = Validity(
    modality="MR",
    body_part="BRAIN",
    contrast="FLAIR",
    echo_time_ms=(60.0, 700.0),
    inversion_time_ms=(1400.0, 3200.0),
    slices=(15, 400),
    pixel_spacing_mm=(0.3, 2.2),
    slice_spacing_mm=(0.4, 7.5),
    field_of_view_mm=(140.0, 340.0),
    maximum_tilt_deg=40.0,
    age_years=(18.0, 100.0),
)
INTENDED_USE = (
    "Marks regions of an adult's axial brain FLAIR that depart from healthy anatomy, for a reader who looks at every image "
    "anyway. Not for excluding disease, not for children, not after contrast, not a medical device."
)
REFERENCE_WORDS = (
    "voxels inside the predicted brain of lesion-free synthetic heads from label maps kept out of training, and of real FLAIR "
    "slices (SOOP) kept out of training, their strokes and hyperintensities painted out; no truly healthy subjects"
)
RULE = (
    "bright: highest Dice pooled over {patients} low-grade-glioma development patients, raised until lesion-free synthetic "
    "heads show at most 2 findings each; dark: at most 1 finding in 4 such heads"
)


@dataclass(frozen=True, slots=True)
class Made:
    """What calibration gave for one recipe."""

    calibration: Calibration
    point: OperatingPointCard


def weights(work: Path) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, int]]:
    """The running means of both networks and the steps they have done."""
    brain_steps, brain = mean_weights(work / "brain.ckpt")
    steps, restorer = mean_weights(work / "restore.ckpt")
    return {RESTORER_FILE: restorer, BRAIN_FILE: brain}, {"brain": brain_steps, "restore": steps}


def sources(data: Path) -> tuple[Source, ...]:
    """Where every weight and every reference voxel comes from, with licence and digest."""
    maps = sorted((data / "synthseg_label_maps").glob("*.npy.xz"))
    soop = sorted((data / "soop_flair").glob("axial_*"))
    return (
        Source(name="SynthSeg training label maps (B. Billot)", licence="Apache-2.0", count=len(maps),
               use="synthetic heads; the last four only for calibration and false findings", digest=_digest(maps)),
        Source(name="SOOP axial FLAIR slices (C. Rorden; OpenNeuro ds004889)", licence="BSD-2-Clause", count=1449,
               use="real texture, strokes and hyperintensities painted out; one slice in five only for calibration",
               digest=_digest(soop)),
        Source(name="heads made by code (inference.phantom)", licence="this project's", count=6,
               use="synthetic heads", digest=hashlib.sha256(b"seeds 1001 to 1006").hexdigest()),
        Source(name="TCGA low-grade glioma FLAIR (Buda et al. 2019), development patients",
               licence="CC BY-NC-SA 4.0 or CC BY 4.0, depending on the mirror", count=0,
               use="choice of the threshold only; no weight has seen it", digest=_digest([data / "lgg_flair" / "index.json"])),
    )


def _digest(paths: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def card(
    made: Mapping[str, Made], steps: Mapping[str, int], recipe: TrainingRecipe, found: tuple[Source, ...],
    measured: Mapping[str, float | int | str], blind_spots: tuple[str, ...],
) -> ModelCard:
    """The card, without its files."""
    unfinished = steps["restore"] < recipe.restore_steps
    note = f" Early checkpoint: {steps['restore']} of {recipe.restore_steps} steps." if unfinished else ""
    return ModelCard(
        name="brain-flair",
        version=VERSION + ("-early" if unfinished else ""),
        manufacturer="Fovea",
        summary="Restores a FLAIR slice to a healthy estimate in one pass of a small diffusion U-Net (cold diffusion, severity "
        "as timestep), trained on synthetic heads and anomalies; the residual is the score." + note,
        intended_use=INTENDED_USE,
        validity=VALIDITY,
        recipes=tuple(made),
        network={**RESTORER, **{BRAIN_PREFIX + key: value for key, value in BRAIN_NET.items()}},
        grid_spacing_mm=(recipe.restore_spacing_mm, 1.0),
        calibration={name: part.calibration for name, part in made.items()},
        operating_point={name: part.point for name, part in made.items()},
        blind_spots=blind_spots,
        sources=found,
        training={"command": f"python -m inference.train {recipe.name}", "seed": recipe.seed,
                  "brain_steps": steps["brain"], "restore_steps": steps["restore"], "device": "2 CPU cores"},
        measured=dict(measured),
        files={},
    )


def provisional() -> dict[str, Made]:
    """Tables good enough to open a draft with, so that its raw maps can be had: score is the raw value, up to 6."""
    ramp = tuple(0.25 * n for n in range(25))
    table = Calibration(reference="none: provisional", voxels=10**7, raw={"brighter": ramp, "darker": ramp},
                        exceedance=tuple(10.0**-value for value in ramp))
    point = OperatingPointCard(threshold={"brighter": 2.0, "darker": 4.0}, minimum_volume_mm3=40.0,
                               maximum_findings=50, rule="provisional")
    return {name: Made(table, point) for name in LOCALIZERS}


def calibrated_recipes(
    draft: Path, work: Path, data: Path, names: Sequence[str], limit: int, heads: int
) -> dict[str, Made]:
    """Calibration and operating point of every recipe; the development patients choose the threshold of the first."""
    atlases = [read_label_map(path) for path in label_map_paths(data)[-4:]]
    real = part(open_bank(work / "bank-soop"), training=False)
    volumes = [head_volume(head) for head in healthy_heads(atlases, heads, seed=9000)]
    made: dict[str, Made] = {}
    for name in names:
        localizer = _open(draft, name)
        healthy = [raw_head(localizer, volume) for volume in volumes]
        table = reference_table(healthy, real_reference(localizer, real), REFERENCE_WORDS)
        development: list[RawHead] = []
        if not made:
            studies = list(chosen(Lgg(data / "lgg_flair").studies(), "development"))[:limit]
            development = development_heads(localizer, iter(studies))
            made[name] = Made(table, operating_point(table, healthy, development, RULE.format(patients=len(development))))
        else:
            made[name] = Made(table, made[names[0]].point)
        log.info("calibrated", recipe=name, voxels=table.voxels, thresholds=made[name].point.threshold)
    return made


def _open(bundle: Path, recipe: str) -> RecipeLocalizer:
    localizer = load_localizer(bundle, recipe, device="cpu")
    if not isinstance(localizer, RecipeLocalizer):
        raise TypeError(f"{recipe} is not a recipe of this package")
    return localizer


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="make a bundle of trained networks")
    parser.add_argument("--recipe", default="brain-flair", choices=sorted(RECIPES))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--measured", type=Path, help="JSON with `measured` and `blind_spots`, from inference.evaluate")
    parser.add_argument("--limit", type=int, default=1000, help="development patients at most")
    parser.add_argument("--text", type=Path, help="MODEL_CARD.md to ship; a short one is written otherwise")
    parser.add_argument("--heads", type=int, default=3, help="lesion-free heads of each held-out label map")
    parser.add_argument("--recipes", nargs="+", default=list(LOCALIZERS), choices=LOCALIZERS)
    wanted = parser.parse_args()
    names = tuple(wanted.recipes)
    recipe = RECIPES[wanted.recipe]
    tensors, steps = weights(wanted.work)
    found = sources(wanted.data)
    notes = json.loads(wanted.measured.read_text()) if wanted.measured else {}
    measured, blind = notes.get("measured", {}), tuple(notes.get("blind_spots", ("not measured yet",)))
    text = wanted.text.read_text() if wanted.text else "# brain-flair\n\nNot measured yet; see card.json.\n"
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft"
        write_bundle(draft, card(provisional(), steps, recipe, found, {}, blind), tensors, {})
        made = calibrated_recipes(draft, wanted.work, wanted.data, names, wanted.limit, wanted.heads)
    write_bundle(wanted.out, card(made, steps, recipe, found, measured, blind), tensors, {"MODEL_CARD.md": text})
    log.info("bundle written", folder=str(wanted.out), steps=steps["restore"])


if __name__ == "__main__":
    main()
