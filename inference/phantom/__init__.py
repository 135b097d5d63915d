"""Synthetic heads and lesions: for the demo, for tests and for training."""

from inference.phantom.analytic import synthetic_head
from inference.phantom.heads import SyntheticHead

__all__ = ["SyntheticHead", "synthetic_head"]
