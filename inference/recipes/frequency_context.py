"""FDP: the low frequencies of the scan are replaced by healthy ones from a bank before any other recipe sees it.

arXiv 2511.12899: a disc of a tenth of the spectrum, attention over 128 contexts. The bank is learnt first, from the first 128
slices (the paper starts from k-means++); a recipe that learns to restore images then learns behind it, any other as it would
alone. Shown before the denoising autoencoder, where the paper gains most.
"""

from dataclasses import replace

from inference.corruptors import InTurn
from inference.front import InFront, RecallContexts, Recalled
from inference.objectives import RestoreImage
from inference.recipes.dae import DAE
from inference.recipes.recipe import Argument, NetworkSpec, Recipe, Stage, Training

BANK: dict[str, Argument] = {
    "rows": 96,
    "columns": 80,
    "cell": 4,
    "multiple": 8,
    "cutoff": 0.1,
    "entries": 128,
    "temperature": 0.1,
}
FRONT = Recalled()


def behind_contexts(recipe: Recipe) -> Recipe:
    """The recipe with the bank in front of it, trained first for a quarter of the time."""
    stages = recipe.training.stages
    first = Stage((FRONT.network,), RecallContexts(), learning_rate=1e-2, share=sum(stage.share for stage in stages) / 3)
    networks = (NetworkSpec(FRONT.network, "context_bank", BANK), *recipe.training.networks)
    return replace(
        recipe,
        name=f"fdp_{recipe.name}",
        paper=f"arXiv 2511.12899 before {recipe.paper}",
        sampler=InFront(FRONT, recipe.sampler),
        training=Training(networks, (first, *(_behind(stage) for stage in stages)), recipe.training.grid),
    )


def _behind(stage: Stage) -> Stage:
    if not isinstance(stage.objective, RestoreImage):
        return stage
    return replace(stage, objective=replace(stage.objective, corruptor=InTurn((FRONT, stage.objective.corruptor))))


FDP_DAE = behind_contexts(DAE)
