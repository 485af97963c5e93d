"""Segmentation networks: their training, their scores, and the masks that they predict."""
