"""Studies unlike the reference are told apart by their pixels; ordinary ones, and a mere change of gain, are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from inference.card import DomainReference
from inference.domain import FIGURES, LEAST_STUDIES, Figures, assess, check_domain, domain_reference, figures_of
from inference.localizer import Context
from inference.phantom.appearance import Look, draw_flair, draw_t1, draw_t2
from inference.phantom.fields import smooth_field
from inference.phantom.heads import SyntheticHead, head_from_atlas
from inference.phantom.tissues import Atlas, Tissue
from inference.preprocess import brain_median, standardise
from inference.types import Refusal
from tests.inference.heads import card, head
from tests.inference.test_localizer import localizer

pytestmark = pytest.mark.feature("L6")
SPACING = (8.0, 1.6, 1.6)
Draw = Callable[[np.random.Generator], Look]


@pytest.fixture(scope="module")
def atlases() -> tuple[Atlas, Atlas]:
    """Two round heads: scalp, skull, fluid, a cortex with gaps of fluid in it, white matter, deep grey, ventricles."""
    return ball(44.0), ball(48.0)


def ball(radius: float) -> Atlas:
    """A head whose brain is a ball of that radius."""
    x = np.indices((120, 132, 124)) - np.array([56, 66, 62])[:, None, None, None]
    depth = radius - np.linalg.norm(x, axis=0)
    tissue = np.full(depth.shape, Tissue.AIR, dtype=np.uint8)
    for least, layer in ((-11, Tissue.SKIN), (-7, Tissue.BONE), (-2, Tissue.CSF), (0, Tissue.CORTEX), (4, Tissue.WHITE)):
        tissue[depth > least] = layer
    folds = np.sin(x[1] / 2.2) + np.sin(x[2] / 2.4) > 1.5
    tissue[(depth > 0) & (depth < 9) & folds] = Tissue.CSF
    tissue[(depth > radius - 16) & (np.abs(x[2]) > 4)] = Tissue.DEEP_GREY
    tissue[(depth > radius - 12) & (np.abs(x[2]) < 7)] = Tissue.VENTRICLE
    brain = depth > 0
    shares = np.bincount(tissue[brain], minlength=len(Tissue)) / brain.sum()
    return Atlas("ball", tissue, brain, shares)


@pytest.fixture(scope="module")
def reference(atlases: tuple[Atlas, Atlas]) -> DomainReference:
    """What 40 ordinary FLAIR heads look like."""
    return domain_reference([figures(made(atlases, seed)) for seed in range(40)], "heads made by code")


def made(atlases: tuple[Atlas, Atlas], seed: int, draw: Draw = draw_flair) -> SyntheticHead:
    """A head of either atlas."""
    return head_from_atlas(atlases[seed % 2], seed=seed, spacing_mm=SPACING, draw=draw)


def figures(one: SyntheticHead, change: Callable[[np.ndarray], np.ndarray] = lambda image: image) -> Figures:
    """The figures of a head, its image changed first; what is fine is the residual, as of a model that blurs."""
    image = change(one.image).astype(np.float32)
    standard = standardise(image, one.brain, brain_median(image, one.brain))
    residual = standard - ndimage.gaussian_filter(standard, (0, 2.5, 2.5))
    return figures_of(standard, one.brain, residual, one.spacing_mm)


@pytest.mark.slow
def test_ordinary_heads_that_are_not_in_the_reference_pass(atlases: tuple[Atlas, Atlas], reference: DomainReference) -> None:
    fits = [assess(figures(made(atlases, seed)), reference) for seed in range(100, 120)]

    assert sum(fit.distance > fit.limit for fit in fits) <= 4  # one in twenty is the aim, a fifth the bound for 20 heads
    for fit in fits:
        if fit.distance <= fit.limit:
            assert check_domain(fit, reference) == ()
            assert fit.p > 0.02
    assert reference.refuse_above is not None
    assert max(fit.distance for fit in fits) < reference.refuse_above


def test_a_gain_changes_nothing(atlases: tuple[Atlas, Atlas], reference: DomainReference) -> None:
    one = made(atlases, 100)

    plain, louder = (assess(figures(one, change), reference) for change in (lambda image: image, lambda image: 7.5 * image))

    assert louder.distance == pytest.approx(plain.distance, abs=1e-3)


def bias(image: np.ndarray) -> np.ndarray:
    return image * np.exp(0.45 * smooth_field(np.random.default_rng(1), image.shape, 60.0))


def noise(image: np.ndarray) -> np.ndarray:
    return np.abs(image + np.random.default_rng(2).normal(0, 90, image.shape))


def blurred(image: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(image, (0, 3.0, 3.0))


@pytest.mark.parametrize(
    ("change", "told"),
    [(bias, "shading"), (noise, "noise"), (blurred, "sharpness")],
    ids=["bias field", "noise", "resolution"],
)
def test_a_study_unlike_the_reference_is_remarked_upon_with_the_reason(
    atlases: tuple[Atlas, Atlas], reference: DomainReference, change: Callable[[np.ndarray], np.ndarray], told: str
) -> None:
    fit = assess(figures(made(atlases, 101), change), reference)

    assert fit.distance > fit.limit
    assert fit.p == 1 / 41
    assert any(words.startswith(told) for words in fit.outside)


@pytest.mark.parametrize("draw", [draw_t1, draw_t2], ids=["T1", "T2"])
def test_another_contrast_is_refused_from_the_pixels(
    atlases: tuple[Atlas, Atlas], reference: DomainReference, draw: Draw
) -> None:
    for seed in range(6):
        fit = assess(figures(made(atlases, seed, draw)), reference)

        with pytest.raises(Refusal, match="unlike all that the model was calibrated on") as caught:
            check_domain(fit, reference)

        assert caught.value.code == "out-of-distribution"


@pytest.mark.slow
def test_a_reference_without_a_limit_only_remarks(atlases: tuple[Atlas, Atlas]) -> None:
    lenient = domain_reference([figures(made(atlases, seed)) for seed in range(LEAST_STUDIES)], "few", refuse=False)

    [remark] = check_domain(assess(figures(made(atlases, 3, draw_t1)), lenient), lenient)

    assert remark.startswith("Outside the range this model was calibrated on (distance ")


def test_the_remark_is_given_to_one_reference_study_in_twenty(reference: DomainReference) -> None:
    assert len(reference.distances) == 40
    assert sum(distance > reference.remark_above for distance in reference.distances) == 1  # 39th of 40: ceil(41 x 0.95)


def test_too_few_studies_are_no_reference() -> None:
    with pytest.raises(ValueError, match="3 reference studies, at least 20"):
        domain_reference([np.zeros(len(FIGURES))] * 3, "three")


def narrow(around: Figures, limit: float) -> dict[str, DomainReference]:
    """A reference around these figures with that limit, for the intensity recipe."""
    rng = np.random.default_rng(0)
    spread = [around + rng.normal(0, 0.05, len(FIGURES)) for _ in range(30)]
    return {"intensity": domain_reference(spread, "a test's").model_copy(update={"refuse_above": limit})}


@pytest.fixture(scope="module")
def seen() -> Figures:
    """The figures of the test head under the intensity recipe."""
    return localizer("intensity").raw_maps(head(), Context()).figures


def test_the_gate_is_off_where_the_card_has_no_reference() -> None:
    result = localizer("intensity").localize(head(), Context())

    assert result.domain is None
    assert not any("calibrated on" in remark for remark in result.provenance.quality)


def test_the_gate_is_part_of_every_localization(seen: Figures) -> None:
    inside = localizer("intensity", domain=narrow(seen, 100.0)).localize(head(), Context())
    outside = localizer("intensity", domain=narrow(seen + 1.0, 1e6)).localize(head(), Context())

    assert inside.domain is not None
    assert inside.domain.p > 0.5
    assert not any("calibrated on" in remark for remark in inside.provenance.quality)
    assert any(remark.startswith("Outside the range") for remark in outside.provenance.quality)
    with pytest.raises(Refusal, match="distance"):
        localizer("intensity", domain=narrow(seen + 1.0, 3.0)).localize(head(), Context())


def test_a_reference_of_other_figures_is_said_and_not_used(seen: Figures) -> None:
    old = narrow(seen, 100.0)["intensity"].model_copy(update={"figures": ("something else",)})

    result = localizer("intensity", domain={"intensity": old}).localize(head(), Context())

    assert result.domain is None
    assert any("was not checked" in remark for remark in result.provenance.quality)
    with pytest.raises(ValueError, match="other figures"):
        assess(seen, old)


def test_a_card_without_the_field_is_still_read() -> None:
    stored = card().model_dump()
    del stored["domain"]

    assert type(card()).model_validate(stored).domain == {}
