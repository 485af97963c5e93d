"""The style-extracting diffusion model: process, networks, training and pipeline."""
