"""Muon: steps along the nearest semi-orthogonal matrix of the gradient's moving average, for convolutions.

    M ← μ·M + (1 − μ)·G                                  gradient G of a layer's kernels, flattened to (out, in · h · w)
    W ← W − lr·(0.2·√max(out, in) · U Vᵀ + λ·W)        where (1 − μ)·G + μ·M = U Σ Vᵀ

All directions in which a layer can change get steps of the same size, also those of small gradients. The factor gives
steps of the size that AdamW's have, so both take the same learning rates. Everything else is trained by AdamW: biases,
norms, kernels with a short side, and linear layers too, where Muon took a tenth longer and gained nothing here.

U Vᵀ comes from the Newton–Schulz iteration X ← (a·I + b·A + c·A²)·X with A = X Xᵀ. As all these polynomials commute,
they are multiplied first and the wide X once, at the end: a third of the arithmetic. It runs in float32: in bfloat16,
as torch.optim.Muon has it, it is many times slower on CPUs without such arithmetic; and that one refuses kernels.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (kellerjordan.github.io), with the
coefficients; Liu et al. 2025 (arXiv 2502.16982) for the factor.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

SHORTEST_SIDE = 16  # of kernels that count as a matrix
MOMENTUM = 0.95
STEP_SCALE = 0.2
COEFFICIENTS, N_ITERATIONS = (3.4445, -4.7750, 2.0315), 5


class Muon(torch.optim.AdamW):
    """Muon for the convolutions of ``module`` that learn, AdamW for its other weights.

    Args:
        lr: learning rate of both.
        weight_decay: decoupled, of both.
        fused: as of AdamW.

    >>> network = nn.Sequential(nn.Conv2d(32, 32, 3), nn.GroupNorm(4, 32))
    >>> [len(group["params"]) for group in Muon(network, lr=1e-3).param_groups]  # the kernels; their bias and the norm
    [1, 3]
    """

    def __init__(self, module: nn.Module, lr: float, weight_decay: float = 0.01, fused: bool = False):
        matrices = {
            layer.weight
            for layer in module.modules()
            if isinstance(layer, nn.Conv2d) and min(layer.weight.flatten(1).shape) >= SHORTEST_SIDE
        }
        learned = [weights for weights in module.parameters() if weights.requires_grad]
        groups = [
            {"params": [weights for weights in learned if (weights in matrices) == is_matrix], "is_matrix": is_matrix}
            for is_matrix in (True, False)
        ]
        groups = [group for group in groups if group["params"]]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, fused=fused)

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step; see `torch.optim.Optimizer.step`."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["is_matrix"]]
        loss = super().step(closure)
        self.param_groups = groups
        for group in groups:
            for weights in group["params"] if group["is_matrix"] else ():
                if weights.grad is not None:
                    self._step_along_factor(weights, group["lr"], group["weight_decay"])
        return loss

    def _step_along_factor(self, weights: Tensor, rate: float, decay: float) -> None:
        state = self.state[weights]
        if not state:
            state["average"] = torch.zeros_like(weights)
            state["step"] = torch.zeros(())  # AdamW looks for it where a state is loaded
        state["average"].lerp_(weights.grad, 1 - MOMENTUM)
        direction = weights.grad.lerp(state["average"], MOMENTUM)
        # the order of the columns does not matter: that of memory needs no copy
        columns_last = [0, 2, 3, 1] if direction.is_contiguous(memory_format=torch.channels_last) else [0, 1, 2, 3]
        matrix = direction.permute(columns_last)
        factor = orthogonal_factor(matrix.flatten(1)).view(matrix.shape)
        scale = STEP_SCALE * max(matrix.flatten(1).shape) ** 0.5
        weights.mul_(1 - rate * decay).permute(columns_last).add_(factor, alpha=-rate * scale)


def orthogonal_factor(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """Compute roughly U Vᵀ of ``matrix`` = U Σ Vᵀ: singular values become about 0.7 to 1.2.

    Those below about a thousandth of the matrix's norm stay smaller.

    >>> torch.linalg.svdvals(orthogonal_factor(torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]])))
    tensor([1.0420, 0.7136])
    """
    with torch.autocast(matrix.device.type, enabled=False):
        wide = matrix.float() if matrix.shape[0] <= matrix.shape[1] else matrix.float().mT
        wide = wide / (wide.norm() + 1e-7)
        a, b, c = COEFFICIENTS
        gram, product = wide @ wide.mT, None
        identity = torch.eye(len(gram), device=gram.device)
        for n_left in reversed(range(N_ITERATIONS)):
            polynomial = a * identity + b * gram + c * (gram @ gram)
            product = polynomial if product is None else polynomial @ product
            if n_left:
                gram = polynomial @ gram @ polynomial
        factor = product @ wide
    return (factor if matrix.shape[0] <= matrix.shape[1] else factor.mT).to(matrix.dtype)
