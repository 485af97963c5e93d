# The public names: sedm imports each from here when it is first used, and editors read their types.
from .config import build_config as build_config
from .data.folders.image_folder import load_image_folder as load_image_folder
from .data.hub import load_hub_dataset as load_hub_dataset
from .data.patch_table import check_patches as check_patches
from .data.patch_table import load_patches as load_patches
from .data.patch_table import save_patches as save_patches
from .data.patches import Patches as Patches
from .data.source_format import SourceFormat as SourceFormat
from .data.sources import load_table as load_table
from .data.splits import split_by_group as split_by_group
from .data.study_data import load_study as load_study
from .demo import render_mix as render_mix
from .demo import style_mixing as style_mixing
from .fidelity.table import fidelity_table as fidelity_table
from .generation.filtering import filter_patches as filter_patches
from .generation.generate import embed_bank as embed_bank
from .generation.generate import generate_patches as generate_patches
from .generation.pairing import GivenLayouts as GivenLayouts
from .generation.pairing import Pairing as Pairing
from .generator.denoiser import Denoiser as Denoiser
from .generator.pipeline import SEDMPipeline as SEDMPipeline
from .generator.training import train_generator as train_generator
from .layouts import EmpiricalPrior as EmpiricalPrior
from .layouts import LearnedPrior as LearnedPrior
from .layouts import RandomFieldPrior as RandomFieldPrior
from .layouts import load_prior as load_prior
from .segmentation.scores import score_groups as score_groups
from .segmentation.segmenter import predict as predict
from .segmentation.segmenter import train_segmenter as train_segmenter
from .sharing.pretrained import load_pretrained as load_pretrained
from .styles.bank import StyleBank as StyleBank
from .styles.encoder import StyleEncoder as StyleEncoder
from .styles.sampling import StyleSampler as StyleSampler

__version__: str
