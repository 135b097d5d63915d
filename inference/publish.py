"""Makes a bundle of what `inference.train` left in its work folder: weights, calibration, operating point, model card.

The command is `python -m inference.publish --work FOLDER --data FOLDER --out FOLDER`. Run it at any time: an unfinished
training gives a bundle that says so. Figures measured by `inference.evaluate` are added with `--measured FILE`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import structlog
from safetensors.torch import load_file
from torch import Tensor

from inference.bundle import open_card, weights_file, write_bundle
from inference.calibrate import (
    ORDINARY_WORDS,
    Calibrated,
    development_heads,
    head_volume,
    healthy_heads,
    ordinary_studies,
    provisional,
    raw_head,
    real_reference,
    reference_table,
)
from inference.card import BRAIN, DomainReference, ModelCard, NetworkCard, Source, Validity
from inference.data import Lgg, Study, chosen, nichart, soop_bank
from inference.domain import Figures, domain_reference
from inference.evaluation.failures import failure_sheet
from inference.evaluation.grid import Grid, grid_chart
from inference.fit import mean_weights
from inference.localizer import Context, RecipeLocalizer, load_localizer
from inference.model_card import FAILURES, model_card_text
from inference.networks import RESTORER
from inference.operating import operating_point, rule_words
from inference.phantom.analytic import analytic_atlas
from inference.phantom.banks import Bank
from inference.phantom.tissues import Atlas, read_label_map
from inference.training import RECIPES, TrainingRecipe, analytic_seeds, brain_config, label_map_paths, part

log = structlog.get_logger()

VERSION = "0.3.0"
ORDINARY_CONTRAST = 0.4
"""As most FLAIR images have it; chosen on development patients (`inference/EXPERIMENTS.md`)."""
LOCALIZERS = ("cold_outline", "cold_restore", "intensity")
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
SUMMARY = (
    "Restores a FLAIR slice to a healthy estimate in one pass of a small diffusion U-Net (cold diffusion, severity as "
    "timestep) and outlines what it restored, trained on synthetic heads and anomalies; residual and outline make the score."
)
PAINTED = "Painted lesions"
"""How the sentences of the phantom grid begin."""
NOT_MEASURED = "not measured: nobody has yet tried this bundle on marked lesions"


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What goes into a bundle beside the weights."""

    recipe: TrainingRecipe
    sources: tuple[Source, ...]
    reference_maps: tuple[Path, ...]
    """Label maps never trained on; heads made by code with seeds never trained on stand in where there are none."""
    real: Bank | None
    """Real healthy slices never trained on."""
    development: tuple[Study, ...] = ()
    development_folder: Path | None = None
    measured: Mapping[str, float | int | str] = field(default_factory=dict)
    blind_spots: tuple[str, ...] = (NOT_MEASURED,)
    recipes: tuple[str, ...] = LOCALIZERS

    def atlases(self) -> list[Atlas]:
        """The heads that reference voxels come from."""
        if self.reference_maps:
            return [read_label_map(path) for path in self.reference_maps]
        return [analytic_atlas(seed) for seed in (2001, 2002)]


def weights(work: Path) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, int]]:
    """The running means of both networks and the steps they have done."""
    brain_steps, brain = mean_weights(work / "brain.ckpt")
    alone, _ = mean_weights(work / "restore.ckpt")
    steps, restorer = mean_weights(work / "evidence.ckpt")
    done = {"brain": brain_steps, "restore": alone, "evidence": steps}
    return {weights_file("restorer"): restorer, weights_file(BRAIN): brain}, done


def public_sources(maps: Sequence[Path], soop: Path | None, recipe: TrainingRecipe) -> tuple[Source, ...]:
    """The public sets and generated heads behind weights and reference voxels, with licence and digest."""
    seeds = analytic_seeds(recipe)
    found = [
        Source(
            name="heads made by code (inference.phantom)",
            licence="this project's",
            count=len(seeds),
            use="synthetic heads",
            digest=hashlib.sha256(repr(seeds).encode()).hexdigest(),
        )
    ]
    if maps:
        use = f"synthetic heads; the last {recipe.held_out_label_maps} only for calibration and false findings"
        found.append(
            Source(
                name="SynthSeg training label maps (B. Billot)",
                licence="Apache-2.0",
                count=len(maps),
                use=use,
                digest=_digest(maps),
            )
        )
    if soop is not None:
        use = "real texture, strokes and hyperintensities painted out; one slice in five only for calibration"
        found.append(
            Source(
                name="SOOP axial FLAIR slices (C. Rorden; OpenNeuro ds004889)",
                licence="BSD-2-Clause",
                count=1449,
                use=use,
                digest=_digest(sorted(soop.glob("axial_*"))),
            )
        )
    return tuple(found)


def development_source(lgg: Path, patients: int) -> Source:
    """The patients that chose the threshold."""
    return Source(
        name="TCGA low-grade glioma FLAIR (Buda et al. 2019), development patients",
        licence="CC BY-NC-SA 4.0 or CC BY 4.0, depending on the mirror",
        count=patients,
        use="choice of the threshold only; no weight has seen it",
        digest=_digest([lgg / "index.json"]),
    )


def _digest(paths: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def outline(recipe: TrainingRecipe) -> ModelCard:
    """The card of a bundle of this recipe before anything is trained, calibrated or measured."""
    table, point = provisional()
    return ModelCard(
        name=recipe.name,
        version=VERSION,
        manufacturer="Fovea",
        summary=SUMMARY,
        intended_use=INTENDED_USE,
        validity=VALIDITY,
        recipes=LOCALIZERS,
        networks={
            "restorer": NetworkCard(kind="restorer", arguments=RESTORER),
            BRAIN: NetworkCard(kind="brain", arguments=brain_config(recipe)),
        },
        grid_spacing_mm=(recipe.restore_spacing_mm, 1.0),
        ordinary_contrast=ORDINARY_CONTRAST,
        calibration=dict.fromkeys(LOCALIZERS, table),
        operating_point=dict.fromkeys(LOCALIZERS, point),
        blind_spots=(),
        sources=(),
        training={"recipe": recipe.name, "seed": recipe.seed},
        measured={},
        files={},
    )


def publish(ingredients: Ingredients, work: Path, out: Path) -> ModelCard:
    """Calibrates what `work` holds and writes the bundle to `out`; returns its card."""
    recipe = ingredients.recipe
    tensors, steps = weights(work)
    unfinished = steps["evidence"] < recipe.evidence_steps
    note = f" Early checkpoint: {steps['evidence']} of {recipe.evidence_steps} steps." if unfinished else ""
    base = outline(recipe)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft"
        write_bundle(draft, base, tensors, {})
        made = calibrated_recipes(draft, ingredients)
    development = len(ingredients.development)
    lgg = () if ingredients.development_folder is None else (development_source(ingredients.development_folder, development),)
    card = base.model_copy(
        update={
            "version": VERSION + ("-early" if unfinished else ""),
            "summary": SUMMARY + note,
            "recipes": tuple(made),
            "calibration": {name: part.table for name, part in made.items()},
            "operating_point": {name: part.point for name, part in made.items()},
            "domain": {name: part.domain for name, part in made.items() if part.domain is not None},
            "blind_spots": ingredients.blind_spots,
            "sources": (*ingredients.sources, *lgg),
            "training": {
                **base.training,
                "command": f"python -m inference.train {recipe.name}",
                "device": "CPU",
                "brain_steps": steps["brain"],
                "restore_steps": steps["restore"],
                "evidence_steps": steps["evidence"],
            },
            "measured": dict(ingredients.measured),
        }
    )
    written = write_bundle(out, card, tensors, {"MODEL_CARD.md": model_card_text(card)})
    log.info("bundle written", folder=str(out), steps=steps["evidence"])
    return written


def annotate(folder: Path, measured: Mapping[str, float | int | str], blind_spots: Sequence[str]) -> ModelCard:
    """The same bundle with figures, blind spots and MODEL_CARD.md replaced; weights, calibration and thresholds stay."""
    return _rewritten(folder, {"measured": dict(measured), "blind_spots": tuple(blind_spots)}, {})


def attach_grid(folder: Path, grids: Mapping[str, Grid]) -> ModelCard:
    """The same bundle with the chart of each recipe's phantom grid; its sentences replace the card's on painted lesions."""
    card = open_card(folder)
    first = next(iter(grids.values()))
    kept = tuple(spot for spot in card.blind_spots if not spot.startswith(PAINTED) and spot != NOT_MEASURED)
    charts = {f"detection-bias-{label.replace('/', '-')}.svg": grid_chart(label, grid) for label, grid in grids.items()}
    return _rewritten(folder, {"blind_spots": (*first.blind_spots(), *kept)}, charts)


def attach_failures(folder: Path, data: Path) -> ModelCard:
    """The same bundle with a sheet of what it misses and reports wrongly, in heads kept out of training and one patient."""
    sheet = failure_sheet(_open(folder, open_card(folder).recipes[0]), label_map_paths(data)[-4:], data / "open_ms")
    return _rewritten(folder, {}, {FAILURES: sheet})


def attach_domain(folder: Path, references: Mapping[str, DomainReference]) -> ModelCard:
    """The same bundle with what ordinary studies look like to each of these recipes; the gate is on from then."""
    return _rewritten(folder, {"domain": dict(references)}, {})


def reference_studies(localizer: RecipeLocalizer, data: Path, heads: int, limit: int) -> tuple[list[Figures], str]:
    """The figures of the studies that a bundle's thresholds were chosen on, and of lesion-free heads; and who they are."""
    real = list(itertools.islice(chosen(Lgg(data / "lgg_flair").studies(), "development"), limit))
    real += list(itertools.islice(chosen(nichart(data / "nichart_wmh").studies(), "development"), limit))
    atlases = [read_label_map(path) for path in label_map_paths(data)[-4:]]
    made = [head_volume(head) for head in healthy_heads(atlases, heads, seed=9000)]
    figures = [localizer.raw_maps(volume, Context()).figures for volume in (*(study.volume for study in real), *made)]
    return figures, ORDINARY_WORDS.format(patients=len(real), heads=len(made))


def add_domain(folder: Path, data: Path, recipes: Sequence[str], heads: int, limit: int) -> ModelCard:
    """Measures the reference studies under these recipes and puts them onto the bundle's card."""
    references = {}
    for name in recipes:
        references[name] = domain_reference(*reference_studies(_open(folder, name), data, heads, limit))
        log.info("reference", recipe=name, studies=len(references[name].distances), remark=references[name].remark_above)
    return attach_domain(folder, references)


def _rewritten(folder: Path, update: Mapping[str, object], charts: Mapping[str, str]) -> ModelCard:
    """The bundle with parts of its card and charts replaced; what else lies in it stays as it is."""
    card = open_card(folder)
    tensors = {name: load_file(folder / name) for name in card.files if name.endswith(".safetensors")}
    kept = {name: (folder / name).read_text(encoding="utf-8") for name in card.files if name.endswith(".svg")}
    texts = {**kept, **charts}
    noted = card.model_copy(update=dict(update))
    return write_bundle(folder, noted, tensors, {**texts, "MODEL_CARD.md": model_card_text(noted, sorted(texts))})


def calibrated_recipes(draft: Path, ingredients: Ingredients) -> dict[str, Calibrated]:
    """Calibration and operating point of every recipe; the development patients choose each threshold."""
    heads = healthy_heads(ingredients.atlases(), ingredients.recipe.reference_heads, seed=9000)
    volumes = [head_volume(head) for head in heads]
    made: dict[str, Calibrated] = {}
    for name in ingredients.recipes:
        localizer = _open(draft, name)
        healthy = [raw_head(localizer, volume) for volume in volumes]
        real = np.zeros(0, np.float32) if ingredients.real is None else real_reference(localizer, ingredients.real)
        table = reference_table(localizer.recipe.postprocessor, healthy, real, REFERENCE_WORDS)
        development = development_heads(localizer, iter(ingredients.development))
        words = rule_words(f"{len(development)} low-grade-glioma development patients", development)
        domain = ordinary_studies([head.figures for head in development], [head.figures for head in healthy])
        made[name] = Calibrated(table, operating_point(table, healthy, development, words), domain)
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
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--measured", type=Path, help="JSON with `measured` and `blind_spots`, from inference.evaluate")
    parser.add_argument("--limit", type=int, default=1000, help="development patients at most")
    parser.add_argument("--annotate", action="store_true", help="only replace figures and text of the bundle in --out")
    parser.add_argument("--failures", action="store_true", help="only add pictures of failures to the bundle in --out")
    parser.add_argument("--domain", action="store_true", help="only add the reference of ordinary studies to the bundle in --out")
    parser.add_argument("--heads", type=int, default=3, help="lesion-free heads of each held-out label map")
    parser.add_argument("--recipes", nargs="+", default=list(LOCALIZERS), choices=LOCALIZERS)
    wanted = parser.parse_args()
    notes = json.loads(wanted.measured.read_text()) if wanted.measured else {}
    measured, blind_spots = notes.get("measured", {}), tuple(notes.get("blind_spots", (NOT_MEASURED,)))
    if wanted.annotate:
        annotate(wanted.out, measured, blind_spots)
        return
    if wanted.failures:
        attach_failures(wanted.out, wanted.data)
        return
    if wanted.domain:
        add_domain(wanted.out, wanted.data, wanted.recipes, wanted.heads, wanted.limit)
        return
    recipe = replace(RECIPES[wanted.recipe], reference_heads=wanted.heads)
    lgg = wanted.data / "lgg_flair"
    maps = label_map_paths(wanted.data)
    real = soop_bank(wanted.data / "soop_flair", recipe.restore_shape, recipe.restore_spacing_mm, wanted.work / "bank-soop")
    ingredients = Ingredients(
        recipe=recipe,
        sources=public_sources(maps, wanted.data / "soop_flair", recipe),
        reference_maps=tuple(maps[-recipe.held_out_label_maps :]),
        real=part(real, training=False),
        development=tuple(itertools.islice(chosen(Lgg(lgg).studies(), "development"), wanted.limit)),
        development_folder=lgg,
        measured=measured,
        blind_spots=blind_spots,
        recipes=tuple(wanted.recipes),
    )
    publish(ingredients, wanted.work, wanted.out)


if __name__ == "__main__":
    main()
