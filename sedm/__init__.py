"""Style-Extracting Diffusion Models: images with a given layout, in the style of other images."""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {  # public name → module; imported on first use, because diffusers alone takes seconds
    "build_config": "config",
    "load_study": "data.sources",
    "load_image_folder": "data.folders",
    "load_hub_dataset": "data.hub",
    "load_patches": "data.patches",
    "save_patches": "data.patches",
    "check_patches": "data.patches",
    "split_by_group": "data.splits",
    "hide_annotations": "data.splits",
    "to_tensors": "data.tensors",
    "EmpiricalPrior": "layouts",
    "LearnedPrior": "layouts",
    "RandomFieldPrior": "layouts",
    "load_prior": "layouts",
    "StyleBank": "styles",
    "StyleSampler": "styles",
    "StyleEncoder": "encoder",
    "Denoiser": "model",
    "train_model": "train",
    "SEDMPipeline": "pipeline",
    "GivenLayouts": "pairing",
    "Pairing": "pairing",
    "generate_patches": "generate",
    "embed_bank": "generate",
    "filter_patches": "filtering",
    "fidelity_table": "fidelity.table",
    "train_segmenter": "segment",
    "predict": "segment",
    "score_groups": "scores",
    "load_pretrained": "pretrained",
    "render_mix": "demo",
    "style_mixing": "demo",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
