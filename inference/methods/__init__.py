"""Every recipe trained with one small budget and measured on one fixed list of slices: what METHODS.md is made of."""
