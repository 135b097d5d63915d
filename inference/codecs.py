"""Codecs: what makes a small code of a slice and a slice of a code, and the sampler that works on codes and shows slices.

Within `InLatent`, corruptor, denoiser, steps and blends see the code in place of the slice and need not know it. Scorers see
slices: each estimate is decoded, and stands beside D(E(x)), what the codec makes of the slice itself, so that what the codec
cannot draw is no finding.

    z = E(x)      x ~ D(z)      value = D(z_hat)      reference = D(z)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from inference.corruptors import Corruptor
from inference.denoisers import Denoiser
from inference.noise import White
from inference.samplers import Estimate, Sampler
from inference.slices import Networks, Slices


class Codec(Protocol):
    """Makes codes z[batch, channel, row, column] of slices x[batch, 1, row, column], and slices of codes."""

    def encode(self, x: Tensor, networks: Networks) -> Tensor:
        """z = E(x), the same whenever it is asked."""
        ...

    def decode(self, z: Tensor, networks: Networks) -> Tensor:
        """D(z)."""
        ...


class LearnedCodec(Codec, Protocol):
    """A codec whose networks can be trained."""

    def trial(self, slices: Slices) -> tuple[Tensor, Tensor]:
        """The slices as they come out while it is trained, and what its code costs beside."""
        ...


@dataclass(frozen=True, slots=True)
class KlCodec:
    """A Gaussian for each place, pulled a little towards the standard one (Kingma and Welling 2014; arXiv 2112.10752)."""

    weight: float = 1e-3
    """Of the divergence from the standard normal, in nats per number, beside the mean absolute error."""

    def encode(self, x: Tensor, networks: Networks) -> Tensor:
        """The means."""
        return networks["encoder"](x).chunk(2, dim=1)[0]

    def decode(self, z: Tensor, networks: Networks) -> Tensor:
        """The slice of a code."""
        return networks["decoder"](z)

    def trial(self, slices: Slices) -> tuple[Tensor, Tensor]:
        """The slice of a code drawn from the Gaussians; their divergence."""
        mean, spread = slices.networks["encoder"](slices.image).float().chunk(2, dim=1)
        log_variance = spread.clamp(-20, 10)
        z = mean + (log_variance / 2).exp() * White().draw(slices.random, mean)
        divergence = (mean**2 + log_variance.exp() - 1 - log_variance).mean() / 2
        return self.decode(z, slices.networks), self.weight * divergence


@dataclass(frozen=True, slots=True)
class VqCodec:
    """Entries of a codebook; the code is what is looked up, so diffusion works on numbers (arXiv 2112.10752, section 3.1)."""

    commitment: float = 0.25

    def encode(self, x: Tensor, networks: Networks) -> Tensor:
        """The numbers before they are looked up."""
        return networks["encoder"](x)

    def decode(self, z: Tensor, networks: Networks) -> Tensor:
        """The slice of the nearest entries."""
        return networks["decoder"](networks["codebook"](z))

    def trial(self, slices: Slices) -> tuple[Tensor, Tensor]:
        """The slice of the nearest entries; how far the numbers are from them."""
        z = self.encode(slices.image, slices.networks).float()
        nearest = slices.networks["codebook"](z)
        away = functional.mse_loss(z, nearest.detach())
        return slices.networks["decoder"](nearest), self.commitment * away


@dataclass(frozen=True, slots=True)
class BinaryCodec:
    """Bits, -1 or 1 (Wang et al. 2023, arXiv 2304.04820); gradients pass the sign as if it were a hyperbolic tangent."""

    def encode(self, x: Tensor, networks: Networks) -> Tensor:
        """The bits."""
        return _bits(networks["encoder"](x))

    def decode(self, z: Tensor, networks: Networks) -> Tensor:
        """The slice of the bits; of means of bits, that of the likelier ones."""
        return networks["decoder"](_bits(z))

    def trial(self, slices: Slices) -> tuple[Tensor, Tensor]:
        """The slice of the bits, which cost nothing: the standardised encoder has as many of either kind."""
        soft = torch.tanh(slices.networks["encoder"](slices.image).float())
        return slices.networks["decoder"](_bits(soft) + soft - soft.detach()), soft.new_zeros(())


@dataclass(frozen=True, slots=True)
class CodeShown:
    """Decodes nothing: the code itself, enlarged to the slice, is what scorers see."""

    codec: Codec
    factor: int = 4

    def encode(self, x: Tensor, networks: Networks) -> Tensor:
        """The codec's code."""
        return self.codec.encode(x, networks)

    def decode(self, z: Tensor, networks: Networks) -> Tensor:
        """The code, a channel for each of its own."""
        del networks
        return functional.interpolate(z, scale_factor=self.factor, mode="bilinear", align_corners=False)


@dataclass(frozen=True, slots=True)
class BothShown:
    """Scorers see the decoded slice as the first channel, and the code, enlarged, as the others."""

    codec: Codec
    factor: int = 4

    def encode(self, x: Tensor, networks: Networks) -> Tensor:
        """The codec's code."""
        return self.codec.encode(x, networks)

    def decode(self, z: Tensor, networks: Networks) -> Tensor:
        """The slice and the code."""
        code = CodeShown(self.codec, self.factor).decode(z, networks)
        return torch.cat([self.codec.decode(z, networks), code], dim=1)


@dataclass(frozen=True, slots=True)
class InLatent:
    """Runs a sampler on codes and yields slices."""

    of: Sampler
    codec: Codec

    @property
    def levels(self) -> tuple[float, ...]:
        """Those of the sampler."""
        return self.of.levels

    def stream(self, slices: Slices, corruptor: Corruptor, denoiser: Denoiser) -> Iterator[Estimate]:
        """Each estimate decoded, beside the decoded code of the slices."""
        hidden = encoded(slices, self.codec)
        reference = self.codec.decode(hidden.image, slices.networks)
        for level, value, _ in self.of.stream(hidden, corruptor, denoiser):
            yield Estimate(level, self.codec.decode(value, slices.networks), reference)


@dataclass(frozen=True, slots=True)
class Arrival:
    """Yields what the corruptor makes of the slices and asks nobody: for methods that judge where an inversion ends."""

    at: float

    @property
    def levels(self) -> tuple[float, ...]:
        """None: what is asked on the way is the corruptor's."""
        return ()

    def stream(self, slices: Slices, corruptor: Corruptor, denoiser: Denoiser) -> Iterator[Estimate]:
        """One estimate, the corrupted slices."""
        del denoiser
        yield Estimate(self.at, corruptor.corrupt(slices.image, self.at, slices))


def encoded(slices: Slices, codec: Codec) -> Slices:
    """The slices with their code in place of the image, and the share of brain at each of its places."""
    z = codec.encode(slices.image, slices.networks)
    return replace(slices, image=z, brain=functional.interpolate(slices.brain, size=z.shape[2:], mode="area"))


def _bits(values: Tensor) -> Tensor:
    return torch.where(values >= 0, 1.0, -1.0).to(values)
