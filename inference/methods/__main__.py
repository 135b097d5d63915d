"""The command behind METHODS.md: `python -m inference.methods --data FOLDER --work FOLDER --seconds 240 --out FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import inference
from inference.methods.bench import SHIPPED, Bench, rows_in
from inference.methods.page import page
from inference.recipes import RECIPES


def main() -> None:
    """Trains and measures what the work folder does not hold yet; the table goes to `--out`."""
    parser = argparse.ArgumentParser(description="train every recipe with one small budget, measure it, and write METHODS.md")
    parser.add_argument("--data", type=Path, required=True, help="folder with lgg_flair and synthseg_label_maps")
    parser.add_argument("--work", type=Path, required=True, help="where weights and results are kept, to go on later")
    parser.add_argument("--seconds", type=float, default=240.0, help="processor seconds of one core to train each recipe for")
    parser.add_argument("--only", nargs="*", default=list(RECIPES), choices=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--again", action="store_true", help="measure anew what is trained already; nothing is trained twice")
    parser.add_argument("--brain", type=Path, default=Path(inference.__file__).parent / "models" / "brain-flair")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, help="the page, of everything measured so far; without it only the work folder is filled"
    )
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    wanted.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(wanted.data, wanted.work, wanted.brain, wanted.seconds, wanted.seed)
    for name in wanted.only:
        bench.row(RECIPES[name], again=wanted.again)
        if name in SHIPPED:
            bench.shipped(RECIPES[name], again=wanted.again)
    if wanted.out is not None:
        wanted.out.write_text(page(rows_in(wanted.work)), encoding="utf-8")


if __name__ == "__main__":
    main()
