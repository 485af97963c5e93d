"""Patch tables of public data sets."""
