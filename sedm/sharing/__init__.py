"""Trained models for others: packed, described, loaded."""
