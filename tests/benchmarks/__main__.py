"""`make bench`: every benchmark, one after the other; each prints ratios measured in its own run."""

from __future__ import annotations

import runpy
import sys

BENCHMARKS = ("bench_receive", "bench_turnaround", "bench_results", "bench_methods")


def main() -> None:
    """Run them all."""
    for name in BENCHMARKS:
        print(f"\n== {name} ==", flush=True)
        sys.argv = [name]
        runpy.run_module(f"tests.benchmarks.{name}", run_name="__main__")


if __name__ == "__main__":
    main()
