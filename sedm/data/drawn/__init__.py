"""Studies that draw their own images, and what they are drawn with."""
