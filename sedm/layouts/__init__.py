"""Layout priors: plausible label maps that nobody drew, for the generator.

Three ways to get them, behind one small protocol (``fit`` on annotated masks, ``sample`` by seed and index):

* ``EmpiricalPrior``     the masks themselves, bent, recombined, and moved to another composition,
* ``RandomFieldPrior``   correlated Gaussian fields, cut to a composition; also from a description alone,
* ``LearnedPrior``       a small diffusion model of label maps.
"""

from sedm.data.label_maps import class_fractions
from sedm.layouts.empirical import EmpiricalPrior
from sedm.layouts.learned import LearnedPrior
from sedm.layouts.prior import LayoutPrior, load_prior
from sedm.layouts.random_field import RandomFieldPrior

__all__ = ["EmpiricalPrior", "LayoutPrior", "LearnedPrior", "RandomFieldPrior", "class_fractions", "load_prior"]
