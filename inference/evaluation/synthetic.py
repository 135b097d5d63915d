"""What needs no patients: false findings in lesion-free synthetic heads, and the cost of 150 slices."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from inference.calibrate import head_volume, healthy_heads
from inference.localizer import Context, Localizer
from inference.phantom.heads import head_from_atlas
from inference.phantom.tissues import Atlas
from inference.types import Contrast


def false_findings(localizer: Localizer, atlases: Sequence[Atlas], per_atlas: int = 4) -> dict[str, float | int]:
    """Findings in lesion-free synthetic heads; other heads than those the operating point was chosen on."""
    bright, dark = [], []
    for head in healthy_heads(atlases, per_atlas, seed=77_000):
        findings = localizer.localize(head_volume(head), Context()).findings
        bright.append(sum(finding.contrast is Contrast.BRIGHTER for finding in findings))
        dark.append(len(findings) - bright[-1])
    return {
        "heads": len(bright),
        "mean_bright_findings": float(np.mean(bright)),
        "median_findings": float(np.median(np.add(bright, dark))),
        "mean_dark_findings": float(np.mean(dark)),
        "heads_without_finding": int(np.sum(np.add(bright, dark) == 0)),
    }


def speed(localizer: Localizer, atlas: Atlas) -> dict[str, float | int]:
    """What 150 slices of a 3D series cost, brain mask included, after one run to warm up."""
    head = head_from_atlas(atlas, seed=1, spacing_mm=(1.2, 1.0, 1.0))
    volume = head_volume(head)[:150]
    localizer.localize(volume, Context())
    started = time.perf_counter()
    cost = localizer.localize(volume, Context()).provenance.cost
    slices = volume.spatial_shape[0]
    return {
        "slices": slices,
        "seconds": time.perf_counter() - started,
        "gflop_per_slice": cost.gflop / slices,
        "peak_memory_mb": cost.peak_memory_mb,
    }
