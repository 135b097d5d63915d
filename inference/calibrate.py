"""From trained networks to what their card says: calibration tables, operating point, and what ordinary studies look like.

The score is calibrated on reference voxels that hold no lesion: synthetic heads of label maps kept out of training and
real slices kept out of training. What a finding must pass is chosen in `inference.operating`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from highdicom import Volume
from numpy.typing import NDArray
from scipy import ndimage

from inference.card import Calibration, DomainReference, OperatingPointCard
from inference.data import Study, axial_volume
from inference.domain import LEAST_STUDIES, Figures, domain_reference, figures_of
from inference.localizer import Context, RecipeLocalizer
from inference.material import Gathered, Ordinary
from inference.operating import LEAST_MM3, MOST_FINDINGS, RawHead, near_lesion, operating_point, rule_words
from inference.phantom.analytic import analytic_atlas
from inference.phantom.banks import Bank
from inference.phantom.heads import Lesions, SyntheticHead, head_from_atlas
from inference.phantom.tissues import Atlas, read_label_map
from inference.postprocess import PostProcessor
from inference.preprocess import UNIT, stretch_of, stretched
from inference.recipes.recipe import Unit
from inference.restoration import Setting, restore

log = structlog.get_logger()

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Spacing = tuple[float, float, float]

REFERENCE_SPACINGS_MM = ((5.0, 0.9, 0.9), (5.0, 0.5, 0.5), (3.0, 0.9, 0.9), (1.2, 1.0, 1.0))
"""Clinical 2D series, a fine matrix, thinner slices, and a 3D series."""
REFERENCE_WORDS = (
    "voxels inside the predicted brain of lesion-free synthetic heads, and of real slices where some were given, all kept out "
    "of training; what was unusually bright in the real ones was painted out; no truly healthy subjects"
)
ORDINARY_WORDS = "{patients} real studies and {heads} lesion-free synthetic heads, all kept out of training"
_QUICK = ((5.0, 0.9, 0.9), (4.0, 0.7, 0.7), (6.0, 1.0, 1.0))
"""Of the heads that only the gate needs: clinical series, of which few slices tell enough."""
_VOXELS_PER_HEAD = 150_000


def head_volume(head: SyntheticHead) -> Volume:
    """A synthetic head as a volume in LPS."""
    return axial_volume(head.image, head.spacing_mm)


def healthy_heads(
    atlases: Sequence[Atlas], per_atlas: int, seed: int, spacings: Sequence[Spacing] = REFERENCE_SPACINGS_MM
) -> Iterator[SyntheticHead]:
    """Lesion-free heads, the spacings taking turns; unrestrained looks, as training saw them."""
    for number, atlas in enumerate(atlases):
        for turn in range(per_atlas):
            spacing = spacings[(number + turn) % len(spacings)]
            yield head_from_atlas(atlas, seed=seed + 100 * number + turn, spacing_mm=spacing, ordinary=turn % 2 == 0)


def spotted_heads(atlases: Sequence[Atlas], radius_mm: float, contrast: float, count: int, seed: int) -> Iterator[SyntheticHead]:
    """Heads with `count` lesions of one size and contrast each, 1 mm slices: what a sensitivity table is made of."""
    plan = Lesions(count, (radius_mm, radius_mm), (contrast, contrast), apart_mm=14.0)
    for number, atlas in enumerate(atlases):
        yield head_from_atlas(atlas, seed=seed + number, spacing_mm=(3.0, 0.9, 0.9), lesions=plan)


def raw_head(localizer: RecipeLocalizer, volume: Volume, lesion: BoolArray | None = None) -> RawHead:
    """What the recipe's network makes of a volume, before calibration."""
    maps = localizer.raw_maps(volume, Context())
    spacing = (volume.spacing[0], volume.spacing[1], volume.spacing[2])
    near = None if lesion is None else near_lesion(lesion, spacing)
    return RawHead(maps.raw, maps.brain, spacing, lesion, near, maps.figures)


def real_reference(localizer: RecipeLocalizer, bank: Bank, limit: int = 240) -> FloatArray:
    """Raw scores inside the brain of real single slices, already standardised in the bank."""
    step = max(1, len(bank.image) // limit)
    brain = bank.brain[::step] > 127
    images = np.where(brain, bank.image[::step].astype(np.float32), np.float32(-UNIT))
    ordinary = localizer.bundle.card.ordinary_contrast
    pairs = zip(images, brain, strict=True)
    images = np.stack([stretched(one, stretch_of(one, inside, ordinary)) for one, inside in pairs])
    setting = Setting(localizer.bundle.device, multiple=localizer.bundle.card.multiple)
    maps = restore(images, brain, localizer.recipe, localizer.bundle.networks, setting)
    inner = ndimage.binary_erosion(brain, ndimage.generate_binary_structure(2, 1)[None], iterations=1)
    smooth = localizer.recipe.postprocessor.smooth
    spacing = (1.0, *localizer.bundle.card.grid_spacing_mm[:1] * 2)
    each = [smooth(one[None], spacing) for one in maps.raw]  # no slice knows of another: they are of different people
    return np.asarray(np.concatenate(each)[inner], dtype=np.float32)


def reference_table(
    postprocessor: PostProcessor, heads: Sequence[RawHead], real: FloatArray, words: str, seed: int = 0
) -> Calibration:
    """The calibration of at most 150,000 voxels of each head and as many real ones as all heads together."""
    rng = np.random.default_rng(seed)
    parts = []
    for head in heads:
        values = head.raw[head.brain]
        parts.append(rng.choice(values, min(_VOXELS_PER_HEAD, values.size), replace=False))
    synthetic = np.concatenate(parts)
    if real.size:
        parts.append(rng.choice(real, min(real.size, synthetic.size), replace=False))
    return postprocessor.calibrate(np.concatenate(parts), words)


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What the card says of one recipe."""

    table: Calibration
    point: OperatingPointCard
    domain: DomainReference | None
    """None where too few studies were there to say what is ordinary."""


def calibrate_recipe(
    localizer: RecipeLocalizer,
    reference_maps: Sequence[Path],
    gathered: Gathered,
    heads: int = 4,
    ordinary: int = LEAST_STUDIES,
) -> Calibrated:
    """Table, thresholds and gate of a recipe, from nothing that its training saw: the one path for every recipe.

    `heads` lesion-free synthetic heads of the reference label maps (of heads made by code where there are none) and the real
    slices are the reference; the development studies, where there are any, choose the threshold of bright findings. Where
    real studies kept out of training are fewer than `ordinary`, further synthetic heads fill the gate's reference; 0: no gate.
    """
    atlases = [read_label_map(path) for path in reference_maps[: max(heads, 1)]]
    atlases = atlases or [analytic_atlas(seed) for seed in (2001, 2002)[:heads]]
    volumes = [head_volume(head) for head in healthy_heads(atlases, max(1, heads // len(atlases)), seed=9000)]
    healthy = [raw_head(localizer, volume) for volume in volumes]
    alone = localizer.recipe.unit is Unit.SLICES  # the real slices have no neighbours
    kept = gathered.kept if alone else None
    references = np.zeros(0, np.float32) if kept is None else real_reference(localizer, kept)
    patients = development_heads(localizer, iter(gathered.development))
    table = reference_table(localizer.recipe.postprocessor, healthy, references, REFERENCE_WORDS)
    point = operating_point(table, healthy, patients, rule_words(f"{len(patients)} patients kept out of training", patients))
    if not ordinary:
        return Calibrated(table, point, None)
    real = [head.figures for head in patients] + [figures_of_ordinary(localizer, one) for one in gathered.ordinary]
    made = [head.figures for head in healthy]
    more = healthy_heads(atlases, -(-max(0, ordinary - len(real) - len(made)) // len(atlases)), seed=9500, spacings=_QUICK)
    made += [localizer.raw_maps(head_volume(head), Context()).figures for head in more]
    return Calibrated(table, point, ordinary_studies(real, made))


def figures_of_ordinary(localizer: RecipeLocalizer, study: Ordinary) -> Figures:
    """The figures of a study believed healthy that was prepared before."""
    images = study.images.astype(np.float32)
    setting = Setting(localizer.bundle.device, multiple=localizer.bundle.card.multiple)
    maps = restore(images, study.brain, localizer.recipe, localizer.bundle.networks, setting)
    return figures_of(images, study.brain, maps.raw, study.spacing_mm)


def ordinary_studies(real: Sequence[Figures | None], made: Sequence[Figures | None]) -> DomainReference | None:
    """What ordinary studies look like, real and synthetic together; None of too few.

    A study that lies far outside is refused only where enough real studies stand behind the limit: heads made by code are
    no measure of what scanners make.
    """
    known, heads = ([one for one in part if one is not None] for part in (real, made))
    if len(known) + len(heads) < LEAST_STUDIES:
        return None
    words = ORDINARY_WORDS.format(patients=len(known), heads=len(heads))
    return domain_reference([*heads, *known], words, refuse=len(known) >= LEAST_STUDIES)


def provisional() -> tuple[Calibration, OperatingPointCard]:
    """Tables good enough to open a draft with, so that its raw maps can be had: score is the raw value, up to 6."""
    ramp = tuple(0.25 * n for n in range(25))
    table = Calibration(
        reference="none: provisional",
        voxels=10**7,
        raw={"brighter": ramp, "darker": ramp},
        exceedance=tuple(10.0**-value for value in ramp),
    )
    point = OperatingPointCard(
        threshold={"brighter": 2.0, "darker": 4.0},
        minimum_volume_mm3=LEAST_MM3,
        maximum_findings=MOST_FINDINGS,
        rule="provisional",
    )
    return table, point


def development_heads(localizer: RecipeLocalizer, studies: Iterator[Study]) -> list[RawHead]:
    """Raw maps of studies with marked lesions."""
    return [raw_head(localizer, study.volume, study.lesion) for study in studies]
