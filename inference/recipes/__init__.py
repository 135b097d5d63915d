"""One short file per published method: which five parts, which numbers, which paper; and the list of all."""

from types import MappingProxyType

from inference.recipes.andi import ANDI
from inference.recipes.anoddpm import ANODDPM
from inference.recipes.anofpdm import ANOFPDM
from inference.recipes.autoddpm import AUTODDPM
from inference.recipes.autoencoder_residual import AUTOENCODER_RESIDUAL
from inference.recipes.berdiff import BERDIFF
from inference.recipes.bernoulli_latent import BERNOULLI_LATENT
from inference.recipes.bridge import BRIDGE
from inference.recipes.cddpm import CDDPM
from inference.recipes.classifier_free import CLASSIFIER_FREE
from inference.recipes.classifier_guided import CLASSIFIER_GUIDED
from inference.recipes.coarse_ensemble import COARSE_ENSEMBLE
from inference.recipes.cold_mean import COLD_MEAN
from inference.recipes.cold_outline import COLD_OUTLINE
from inference.recipes.cold_restore import COLD_RESTORE
from inference.recipes.cold_steps import COLD_STEPS
from inference.recipes.dae import DAE
from inference.recipes.ddib import DDIB
from inference.recipes.diffusion_features import DIFFUSION_FEATURES
from inference.recipes.equalised import EQUALISED
from inference.recipes.frequency_context import FDP_DAE
from inference.recipes.image_conditioned import IMAGE_CONDITIONED
from inference.recipes.intensity import INTENSITY
from inference.recipes.invad import INVAD
from inference.recipes.latent_diffusion import LATENT_DIFFUSION
from inference.recipes.mad_ad import MAD_AD
from inference.recipes.mask_ensemble import MASK_ENSEMBLE
from inference.recipes.mddpm import MDDPM
from inference.recipes.medsegdiff import MEDSEGDIFF
from inference.recipes.mhd import MHD
from inference.recipes.patchddm import PATCHDDM
from inference.recipes.pddpm import PDDPM
from inference.recipes.recipe import Recipe
from inference.recipes.reflect import REFLECT
from inference.recipes.thor import THOR
from inference.recipes.timestep_ensemble import TIMESTEP_ENSEMBLE

RECIPES = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            COLD_OUTLINE,
            COLD_RESTORE,
            COLD_MEAN,
            COLD_STEPS,
            COARSE_ENSEMBLE,
            DAE,
            FDP_DAE,
            IMAGE_CONDITIONED,
            BRIDGE,
            ANODDPM,
            THOR,
            ANDI,
            MHD,
            PDDPM,
            MDDPM,
            CDDPM,
            AUTODDPM,
            LATENT_DIFFUSION,
            BERNOULLI_LATENT,
            MAD_AD,
            INVAD,
            REFLECT,
            CLASSIFIER_FREE,
            CLASSIFIER_GUIDED,
            DDIB,
            ANOFPDM,
            DIFFUSION_FEATURES,
            TIMESTEP_ENSEMBLE,
            MASK_ENSEMBLE,
            MEDSEGDIFF,
            BERDIFF,
            PATCHDDM,
            AUTOENCODER_RESIDUAL,
            EQUALISED,
            INTENSITY,
        )
    }
)
"""Every recipe by its name."""

__all__ = ["RECIPES", "Recipe"]
