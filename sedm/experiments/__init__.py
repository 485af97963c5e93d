"""Comparisons: arms of segmentation networks, variants of the generator, and what came of them."""
