"""Folders of pictures and masks as people have them."""
