#!/usr/bin/env bash
# diffusers 0.42.1: use_karras_sigmas or use_exponential_sigmas on a cosine schedule end in an IndexError.
#
# The cosine schedule ends in nearly pure noise, sigma / alpha about 20,000, so several of the solver's first sigmas lie
# beyond its last time but one, and all become the time 999. The solver then looks its place up by the time, finds
# the second of the equal ones, as it does for image-to-image, starts there, and runs out of sigmas at the last step. With
# the linear schedule all is well. No message names the schedule.
# What to do: give set_timesteps times of your own without a repeat, or use_lu_lambdas.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 numpy==2.4.6
cd "$place"
HF_HUB_OFFLINE=1 HF_HOME="$place/home" "$place/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
from diffusers import DPMSolverMultistepScheduler

found = {}
for schedule in ("linear", "squaredcos_cap_v2"):
    for option in ("use_karras_sigmas", "use_exponential_sigmas"):
        solver = DPMSolverMultistepScheduler(1000, beta_schedule=schedule, prediction_type="sample", **{option: True})
        solver.set_timesteps(20)
        times, x_t = solver.timesteps, torch.randn(1, 3, 8, 8)
        try:
            for t in times:
                x_t = solver.step(torch.zeros_like(x_t), t, x_t).prev_sample
            end = "samples"
        except IndexError as error:
            end = f"IndexError: {error}"
        found[schedule, option] = end, len(times) - len(times.unique())
        print(f"diffusers {diffusers.__version__}, {schedule}, {option}: {found[schedule, option][1]} repeats, {end}")
for (schedule, option), (end, n_repeats) in found.items():
    expected = "samples" if schedule == "linear" else "IndexError"
    assert end.startswith(expected), "the behaviour changed"
    assert (n_repeats > 0) == (schedule != "linear"), "the behaviour changed"
PYTHON
