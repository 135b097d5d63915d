"""The evaluation as a module, for machines where `fovea` is not installed: prints JSON.

`python -m inference.evaluate --bundle FOLDER --data FOLDER --set lgg --split held-out` is the headline of `fovea evaluate` for
one public set; `--set healthy`, `spots` and `speed` measure on heads made from label maps. What is measured is in
`inference.evaluation`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from inference.evaluation.case import Rules
from inference.evaluation.grid import measure_grid, plain_grid
from inference.evaluation.run import Plan, measure_sets
from inference.evaluation.sources import PUBLIC, healthy_volumes, public_set
from inference.evaluation.summary import summarise, to_json
from inference.evaluation.synthetic import false_findings, speed
from inference.localizer import Localizer, load_localizer
from inference.phantom.tissues import read_label_map
from inference.training import label_map_paths

SYNTHETIC = ("healthy", "spots", "speed")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="measure a bundle on studies with marked lesions")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=[*PUBLIC, *SYNTHETIC], required=True)
    parser.add_argument("--split", choices=["development", "held-out", "all"], default="held-out")
    parser.add_argument("--fixed-on-development", action="store_true", help="the development patients fix every map's threshold")
    parser.add_argument("--recipe")
    parser.add_argument("--limit", type=int, help="no more than this many studies")
    wanted = parser.parse_args()
    localizer = load_localizer(wanted.bundle, wanted.recipe)
    if wanted.set in SYNTHETIC:
        sys.stdout.write(_synthetic(localizer, wanted.data, wanted.set))
        return
    plan = Plan(
        readers=[public_set(wanted.set, wanted.data)],
        split=wanted.split,
        fixed_on_development=wanted.fixed_on_development,
        limit=wanted.limit,
        rules=Rules(pictures=False),
    )
    measured = measure_sets({wanted.recipe or "default recipe": localizer}, plan)
    sys.stdout.write(to_json(summarise(measured, "python -m inference.evaluate", [wanted.bundle.name], plan.rules)))


def _synthetic(localizer: Localizer, data: Path, wanted: str) -> str:
    maps = label_map_paths(data)
    if wanted == "spots":
        volumes = healthy_volumes(2, maps[0].parent, None)
        return plain_grid({"default recipe": measure_grid(localizer, volumes, each=8)})
    atlases = [read_label_map(path) for path in maps[-4:]]
    found = false_findings(localizer, atlases) if wanted == "healthy" else speed(localizer, atlases[0])
    return json.dumps(found, indent=1) + "\n"


if __name__ == "__main__":
    main()
