"""Tables of synthetic images: which layout meets which style, drawn in shards and filtered."""
