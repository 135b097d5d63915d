"""Measurements run by hand or at night; each prints ratios from one run, since absolute figures move with the machine."""
