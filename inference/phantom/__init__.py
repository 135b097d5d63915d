"""Synthetic heads and lesions: for the demo, for tests and for training."""

from inference.phantom.analytic import SyntheticHead, synthetic_head

__all__ = ["SyntheticHead", "synthetic_head"]
