"""The diffusion process: how images become noise, what the network predicts of them, and how sampling goes back.

    x_t = α_t·x_0 + σ_t·noise                     t = 0…999

    objective   target              α, σ                                   weight of the target's squared error
    x_0         x_0                 cosine                                 min(1 / σ², γ)
    v           α·noise − σ·x_0     cosine, σ_999 = 1 (zero terminal SNR)  min(1 / σ², γ)·σ²
    flow        noise − x_0         α = 1 − σ, σ = t / 1000                min(1 / σ², γ)·σ²
    epsilon     noise               the reference's                        min(γ / SNR, 1),  SNR = α² / σ²

γ is ``training.max_loss_weight``. The weights of the first three are the same weight of the squared error of x_0: that
of v (Salimans & Ho 2022, arXiv 2202.00512), cut off where nearly clean images, in which nothing is left to decide,
would take over (min-SNR, Hang et al. 2023, arXiv 2303.09556). A cosine schedule (Nichol & Dhariwal 2021, arXiv
2102.09672) ends in pure noise, so that sampling may start there: the brightness drift of schedules that stop earlier
does not arise (Lin et al. 2023, arXiv 2305.08891). ``epsilon`` cannot end there, since noise alone says nothing about
x_0; it has the schedule of Öttl et al. (ECCV 2024), betas from 0.0015 to 0.0205 with linear roots. ``flow``: Liu et
al. 2022 (arXiv 2209.03003).
"""

from __future__ import annotations

import math

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from jaxtyping import Float, Int
from torch import Tensor

from sedm.config import OBJECTIVES, known_name

N_TIMES = 1000
# σ / α of the solver's second step, of a sample's side, and of its last step; chosen on Gaussian images of all spreads,
# whose best denoiser is known in closed form
FIRST_RATIO, LAST_RATIO = 0.3, 0.03

_COSINE = {"beta_schedule": "squaredcos_cap_v2"}
_SCHEDULES = {
    "x_0": _COSINE | {"prediction_type": "sample"},
    "v": _COSINE | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    "epsilon": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.0015,
        "beta_end": 0.0205,
        "prediction_type": "epsilon",
    },
}


class Diffusion:
    """The process of one objective, see above.

    Args:
        objective: a name in ``sedm.config.OBJECTIVES``.

    Raises:
        ValueError: unknown objective.

    >>> diffusion = Diffusion("v")
    >>> x_0, noise, t = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([10, 900])
    >>> x_t = diffusion.add_noise(x_0, noise, t)
    >>> torch.allclose(diffusion.to_x_0(diffusion.target(x_0, noise, t), x_t, t), x_0, atol=1e-4)
    True
    """

    def __init__(self, objective: str):
        self.objective = known_name("objective", objective, OBJECTIVES)
        if objective == "flow":
            self.sigmas = torch.arange(N_TIMES) / N_TIMES
            self.alphas = 1 - self.sigmas
        else:
            products = DDPMScheduler(num_train_timesteps=N_TIMES, **_SCHEDULES[objective]).alphas_cumprod
            self.alphas, self.sigmas = products.sqrt(), (1 - products).sqrt()

    def add_noise(
        self, x_0: Float[Tensor, "batch c h w"], noise: Float[Tensor, "batch c h w"], t: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch c h w"]:
        """Mix image and noise to x_t."""
        alpha, sigma = self._at(t)
        return alpha * x_0 + sigma * noise

    def target(
        self, x_0: Float[Tensor, "batch c h w"], noise: Float[Tensor, "batch c h w"], t: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch c h w"]:
        """Compute what the network should answer for x_t."""
        alpha, sigma = self._at(t)
        match self.objective:
            case "x_0":
                return x_0
            case "epsilon":
                return noise
            case "v":
                return alpha * noise - sigma * x_0
            case "flow":
                return noise - x_0

    def to_x_0(
        self, output: Float[Tensor, "batch c h w"], x_t: Float[Tensor, "batch c h w"], t: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch c h w"]:
        """Compute the clean image that the network's answer stands for."""
        alpha, sigma = self._at(t)
        match self.objective:
            case "x_0":
                return output
            case "epsilon":
                return (x_t - sigma * output) / alpha
            case "v":
                return alpha * x_t - sigma * output
            case "flow":
                return x_t - sigma * output

    def loss_weights(self, t: Int[Tensor, " batch"], max_weight: float) -> Float[Tensor, " batch"]:
        """Compute the weight of each item's squared error, see above; ``max_weight`` is γ.

        >>> Diffusion("x_0").loss_weights(torch.tensor([0, 500, 999]), max_weight=5.0)
        tensor([5.0000, 1.9696, 1.0000])
        """
        alpha, sigma = self.alphas.to(t.device)[t], self.sigmas.to(t.device)[t]
        if self.objective == "epsilon":
            return (max_weight * sigma**2 / alpha**2).clamp(max=1)
        of_x_0 = (1 / sigma**2).clamp(max=max_weight)
        return of_x_0 if self.objective == "x_0" else of_x_0 * sigma**2

    def start(
        self, solver: DPMSolverMultistepScheduler, n_steps: int, size: int, device: torch.device | str = "cpu"
    ) -> None:
        """Let a solver begin, and choose the times of its steps.

        For x_0 and v, after pure noise, σ / α falls by the same factor at every step, from 0.3·``size`` to 0.03. What
        varies most over an image, colours of large regions, is decided where noise is many times stronger than the
        image, the more the larger it is (Hoogeboom et al. 2023, arXiv 2301.11093). With steps even in time the first
        step alone would decide it, near the mean, and images of one style would be too alike.

        Args:
            size: px a side of a sample.

        Raises:
            ValueError: fewer than one step, or more than there are times.

        >>> diffusion = Diffusion("x_0")
        >>> solver = diffusion.solver()
        >>> diffusion.start(solver, 8, size=128)
        >>> solver.timesteps
        tensor([999, 982, 944, 822, 518, 193,  55,  12])
        """
        if not 1 <= n_steps <= N_TIMES:
            raise ValueError(f"n_steps={n_steps}; a solver takes 1 to {N_TIMES} steps")
        if self.objective not in ("x_0", "v"):
            solver.set_timesteps(n_steps, device=device)
            return
        wanted = torch.linspace(math.log(FIRST_RATIO * size), math.log(LAST_RATIO), n_steps - 1)
        nearest = (wanted[:, None] - (self.sigmas / self.alphas).log()).abs().argmin(dim=1).tolist()
        times = [N_TIMES - 1]
        for i, t in enumerate(nearest, start=1):  # many steps would fall on one time
            times.append(max(min(t, times[-1] - 1), n_steps - 1 - i))
        solver.set_timesteps(timesteps=times, device=device)

    def solver(self) -> DPMSolverMultistepScheduler:
        """Make the solver DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095) for a network of this objective.

        >>> Diffusion("flow").solver().config.prediction_type
        'flow_prediction'
        """
        if self.objective == "flow":
            return DPMSolverMultistepScheduler(N_TIMES, prediction_type="flow_prediction", use_flow_sigmas=True)
        # the reference's schedule is steep where little noise is left: steps even in t would end with too large a one
        even = self.objective != "epsilon"
        spacing = {"timestep_spacing": "trailing"} if even else {"use_karras_sigmas": True}
        return DPMSolverMultistepScheduler(N_TIMES, **spacing, **_SCHEDULES[self.objective])

    def _at(self, t: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        return tuple(values.to(t.device)[t].view(-1, 1, 1, 1) for values in (self.alphas, self.sigmas))
