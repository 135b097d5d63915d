"""One way to train every recipe: from studies to a bundle that `fovea localize` runs.

    gather slices -> train each stage -> draft bundle -> calibrate -> operating point -> bundle with its card

A training that was killed and is started again with the same arguments ends with the same weights: minutes are turned
into steps once, by timing, and kept in the work folder with the checkpoints. A checkpoint is named by everything that its
weights depend on, so recipes that share a training share its time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
import torch
from torch import Tensor, nn

from inference.bundle import Bundle, choose_device, load_bundle, weights_file, write_bundle
from inference.calibrate import calibrate_recipe, provisional
from inference.card import BRAIN, ModelCard, NetworkCard
from inference.domain import LEAST_STUDIES
from inference.fit import FitPlan, Progress, Told, fall_of, fit, mean_weights, supports_bf16
from inference.localizer import RecipeLocalizer, load_localizer
from inference.material import Gathered, Origins, draw, draw_study, gather, write_audit
from inference.model_card import model_card_text
from inference.networks import build
from inference.objectives import LossOfExamples, Trained
from inference.phantom.banks import Bank
from inference.publish import INTENDED_USE, NOT_MEASURED, VALIDITY
from inference.recipes.recipe import Recipe, Stage, Unit, plain
from inference.samples import write_samples

log = structlog.get_logger()

VERSION = "0.1.0"
SAMPLES = "samples.png"
_TIMED_STEPS = 4
"""Steps after a first one that are timed to turn minutes into steps."""
_LEAST_STEPS = 20


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to train: so many steps in all stages together, or so many minutes of `clock`."""

    steps: int | None = None
    minutes: float | None = None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("a budget is either a number of steps or a number of minutes")


@dataclass(frozen=True, slots=True)
class Run:
    """One training: of what, for how long, where and with which seed."""

    budget: Budget
    work: Path
    seed: int = 1
    device: str = "auto"
    told: Told | None = None
    """Called now and then with how far a stage is."""
    checkpoint_every_s: float = 120.0
    samples_every_s: float | None = None
    """How often to draw samples of the training so far; None: only at its end."""
    reference_heads: int = 4
    """Lesion-free synthetic heads that calibrate the score."""
    ordinary_studies: int = LEAST_STUDIES
    """Studies, real before synthetic, that say what the gate lets pass; 0: the bundle has no gate."""


def train(recipe: Recipe, origins: Origins, run: Run, brain: Path, out: Path) -> ModelCard:
    """Trains the recipe and writes a bundle to `out`; the brain network is that of the bundle `brain`.

    `run.work` keeps synthetic slices, checkpoints, pictures of samples (`samples.png`) and the list of training slices that
    look unhealthy (`audit.json`). Raises ValueError where the data lacks what the recipe needs.
    """
    run.work.mkdir(parents=True, exist_ok=True)
    given = load_bundle(brain, device=run.device)
    base = outline(recipe, given)
    material = gather(recipe, origins, base, given, run.work, run.seed)
    write_audit(material.suspects, run.work / "audit.json")
    if material.suspects:
        log.warning(
            "slices believed healthy that do not look it", count=len(material.suspects), list=str(run.work / "audit.json")
        )
    networks, facts = train_networks(recipe, material, run)
    weights = {weights_file(name): network.state_dict() for name, network in networks.items()}
    weights[weights_file(BRAIN)] = given.brain.state_dict()
    draft = run.work / "draft"
    write_bundle(draft, base, weights, {})
    localizer = load_localizer(draft, recipe.name, device=run.device)
    assert isinstance(localizer, RecipeLocalizer)
    write_samples(recipe, localizer.bundle.networks, localizer.bundle.device, material, run.work / SAMPLES)
    made = calibrate_recipe(localizer, origins.reference_maps, material, run.reference_heads, run.ordinary_studies)
    sources = (*material.sources, *given.card.sources)
    card = base.model_copy(
        update={
            "calibration": {recipe.name: made.table},
            "operating_point": {recipe.name: made.point},
            "domain": {} if made.domain is None else {recipe.name: made.domain},
            "sources": sources,
            "training": {
                **base.training,
                **facts,
                "seed": run.seed,
                "slices": sum(len(b.image) for b in material.banks.values()),
            },
            "distributable": material.distributable,
            "summary": base.summary + ("" if material.distributable else " Evaluation only; may not be distributed."),
        }
    )
    written = write_bundle(out, card, weights, {"MODEL_CARD.md": model_card_text(card)})
    log.info("bundle written", folder=str(out), recipe=recipe.name)
    return written


def outline(recipe: Recipe, brain: Bundle) -> ModelCard:
    """The card of a bundle of this recipe before anything is trained, calibrated or measured."""
    table, point = provisional()
    grid = recipe.training.grid
    arguments = {**brain.card.networks[BRAIN].arguments, "grid_spacing_mm": grid.spacing_mm}
    specs = {spec.name: NetworkCard(kind=spec.kind, arguments=dict(spec.arguments)) for spec in recipe.training.networks}
    return ModelCard(
        name=recipe.name.replace("_", "-"),
        version=VERSION,
        manufacturer="Fovea",
        summary=f"{recipe.name} ({recipe.paper}), {recipe.scheme}; trained with {recipe.labels}.",
        intended_use=INTENDED_USE,
        validity=VALIDITY,
        recipes=(recipe.name,),
        networks={**specs, BRAIN: NetworkCard(kind="brain", arguments=arguments)},
        grid_spacing_mm=(grid.spacing_mm, 1.0),
        ordinary_contrast=brain.card.ordinary_contrast,
        calibration={recipe.name: table},
        operating_point={recipe.name: point},
        blind_spots=(NOT_MEASURED,),
        sources=(),
        training={"command": f"fovea train {recipe.name}"},
        measured={},
        files={},
    )


def train_networks(recipe: Recipe, material: Gathered, run: Run) -> tuple[dict[str, nn.Module], dict[str, str | int | float]]:
    """The recipe's networks after all stages, in evaluation mode, and what the card says of their training."""
    device = choose_device(run.device)
    torch.manual_seed(run.seed)
    networks = {spec.name: build(spec.kind, spec.arguments).to(device) for spec in recipe.training.networks}
    stages = recipe.training.stages
    shares = sum(stage.share for stage in stages)
    facts: dict[str, str | int | float] = {"device": str(device)}
    before = hashlib.sha256(f"{run.seed} {material.digest}".encode()).hexdigest()
    for number, stage in enumerate(stages, start=1):
        before = _digest(recipe, stage, before)
        done = _train_stage(recipe, stage, material, networks, run, before, stage.share / shares)
        facts[f"stage_{number}"] = f"{', '.join(stage.trains)} by {type(stage.objective).__name__}"
        facts |= {f"stage_{number}_{name}": value for name, value in done.items()}
    return networks, facts


def _train_stage(
    recipe: Recipe, stage: Stage, material: Gathered, networks: dict[str, nn.Module], run: Run, digest: str, share: float
) -> dict[str, int | float]:
    """Steps, seconds and the fall of the loss of one stage; its networks are left trained and at rest."""
    bank = material.banks[stage.material]
    loss_of = stage.objective.begin(recipe.training.grid, run.seed)
    step = Step(loss_of, bank, stage.batch, networks, recipe.unit)
    trained = nn.ModuleDict({name: networks[name] for name in stage.trains})
    checkpoint = run.work / f"stage-{digest[:16]}.ckpt"
    steps = _steps(run.budget, share, trained, step, checkpoint.with_suffix(".json"))
    bf16 = supports_bf16(choose_device(run.device))
    plan = FitPlan(
        steps,
        stage.learning_rate,
        run.seed,
        warm_up=min(100, steps // 10 + 1),
        checkpoint_every_s=run.checkpoint_every_s,
        bf16=bf16,
    )
    told = run.told if run.samples_every_s is None else _Sampling(recipe, networks, material, run, time.monotonic())
    seconds = fit(trained, step, plan, checkpoint, told)
    for name in stage.trains:
        networks[name].requires_grad_(False)
    return {"steps": mean_weights(checkpoint)[0], "seconds": round(seconds, 1), "loss_fall": round(fall_of(checkpoint), 4)}


@dataclass(slots=True)
class _Sampling:
    """Passes on how far a training is, and now and then draws samples of it; random numbers of the training stay as they are."""

    recipe: Recipe
    networks: Mapping[str, nn.Module]
    material: Gathered
    run: Run
    drawn: float
    """When samples were last drawn."""

    def __call__(self, progress: Progress) -> None:
        assert self.run.samples_every_s is not None
        if time.monotonic() - self.drawn >= self.run.samples_every_s:
            write_samples(self.recipe, self.networks, choose_device(self.run.device), self.material, self.run.work / SAMPLES)
            self.drawn = time.monotonic()
        if self.run.told is not None:
            self.run.told(progress)


@dataclass(frozen=True, slots=True)
class Step:
    """The loss of one step, from the step's generator alone."""

    loss_of: LossOfExamples
    bank: Bank
    batch: int
    networks: Trained
    unit: Unit = Unit.SLICES

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """The loss of a batch drawn from the bank."""
        volume = self.unit is Unit.VOLUME
        examples = draw_study(self.bank, generator) if volume else draw(self.bank, self.batch, generator)
        device = next(network.parameters()).device
        return self.loss_of(self.networks, examples.to(device), generator)


def _steps(budget: Budget, share: float, trained: nn.ModuleDict, step: Step, note: Path) -> int:
    """The steps of a stage; where minutes were given they are timed on a copy once, and noted for a second start."""
    if budget.steps is not None:
        return max(1, round(share * budget.steps))
    assert budget.minutes is not None
    seconds = 60 * share * budget.minutes
    if note.exists():
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["seconds"] == seconds:
            return int(known["steps"])
    copies = deepcopy(dict(step.networks))
    one = replace(step, networks=copies)
    copy = nn.ModuleDict({name: copies[name] for name in trained})
    started = budget.clock()
    for number in range(1 + _TIMED_STEPS):
        if number == 1:
            started = budget.clock()
        one(copy, torch.Generator().manual_seed(number)).backward()
    each = (budget.clock() - started) / _TIMED_STEPS
    steps = max(_LEAST_STEPS, int(seconds / max(each, 1e-6)))
    note.write_text(json.dumps({"seconds": seconds, "steps": steps}) + "\n", encoding="utf-8")
    return steps


def _digest(recipe: Recipe, stage: Stage, before: str) -> str:
    """Of everything that the weights after a stage depend on, but its length."""
    specs = [spec for spec in recipe.training.networks if spec.name in stage.trains]
    content = json.dumps([before, plain(stage), plain(recipe.training.grid), [plain(spec) for spec in specs]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def licences(card: ModelCard) -> Sequence[str]:
    """Every licence that a bundle's sources stand under, once."""
    return sorted({source.licence for source in card.sources})
