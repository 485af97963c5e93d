"""One loop for every module: killed runs end as undisturbed ones, on one process and on two, and bad ones stop."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from launching import finish, kill, start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.testing import assert_close

from sedm.commands.train_command import main
from sedm.config import SegmentationConfig, TrainingConfig, build_config
from sedm.generator.pipeline import SEDMPipeline
from sedm.runtime.checkpoints import Checkpoints, load_raw_weights
from sedm.runtime.loop import WINDOW, OneProcess, learning_rate_share, make_accelerator, optimise
from sedm.runtime.notebook import mark_ready

SETTINGS = TrainingConfig(n_steps=30, batch_size=4, warmup_steps=0, learning_rate=0.05, checkpoint_every=10)


def line(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(3, 1)


def batch(step, rank=0):
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(100 * step + rank))
    return inputs, inputs @ torch.tensor([[1.0], [-2.0], [0.5]]) + 1


def squared_error(model, step, rank=0):
    inputs, wanted = batch(step, rank)
    return (model(inputs) - wanted).square().mean()


def fit(folder, settings=SETTINGS, loss_of=squared_error, module=None, fingerprint="line", **options):
    module = module or line()
    optimise(make_accelerator(), module, loss_of, settings, folder, fingerprint, progress=False, **options)
    return module


def metrics_of(folder):
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_it_fits_a_line_and_ends_frozen_and_in_evaluation_mode(tmp_path):
    module = fit(tmp_path, replace(SETTINGS, n_steps=300, ema_decay=0.9))
    assert_close(module.weight.detach(), torch.tensor([[1.0, -2.0, 0.5]]), rtol=0, atol=0.05)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_the_result_is_the_average_of_the_weights_over_the_steps(tmp_path):
    """Against AdamW, clipping, a half cosine and the average (1 − d)·w + d·mean, written out by hand."""
    settings = replace(SETTINGS, ema_decay=0.6, max_grad_norm=0.5)
    by_hand = line()
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=settings.learning_rate)
    mean = [parameter.detach().clone() for parameter in by_hand.parameters()]
    for step in range(settings.n_steps):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 + np.cos(np.pi * step / settings.n_steps)) / 2
        optimizer.zero_grad()
        squared_error(by_hand, step).backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), settings.max_grad_norm)
        optimizer.step()
        decay = min(1 - (1 + step) ** -0.75, settings.ema_decay) if step else 0.0
        mean = [decay * old + (1 - decay) * new.detach() for old, new in zip(mean, by_hand.parameters(), strict=True)]
    for found, wanted in zip(fit(tmp_path, settings).parameters(), mean, strict=True):
        assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n_warmup", "n_steps"), [(0, 7), (3, 10), (10, 10)])
def test_the_learning_rate_follows_the_schedule_of_diffusers(n_warmup, n_steps):
    config = replace(SETTINGS, n_steps=n_steps, warmup_steps=n_warmup)
    optimizer = torch.optim.SGD(line().parameters(), lr=1.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, n_warmup, n_steps)
    for step in range(n_steps + 1):
        assert learning_rate_share(step, config) == schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()


def test_without_a_folder_it_takes_the_same_steps_and_writes_nothing(tmp_path, monkeypatch):
    """Against the loop as most would write it: a warm-up that begins above zero, no clipping, no average."""
    config = SegmentationConfig(n_steps=40, learning_rate=0.05)
    by_hand, module = line(), line()
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.05, weight_decay=0.01)
    for step in range(40):
        share = (step + 1) / 2 if step < 2 else (1 + np.cos(np.pi * (step - 2) / 38)) / 2
        optimizer.param_groups[0]["lr"] = 0.05 * share
        optimizer.zero_grad()
        squared_error(by_hand, step).backward()
        optimizer.step()
    monkeypatch.chdir(tmp_path)
    optimise(OneProcess(torch.device("cpu")), module, squared_error, config, progress=False)
    assert_close(module.weight, by_hand.weight, rtol=1e-6, atol=1e-7)
    assert list(tmp_path.iterdir()) == []


def test_metrics_hold_every_step_once_also_after_an_interruption(tmp_path):
    def interrupted(model, step):
        if step == 17:
            raise KeyboardInterrupt
        return squared_error(model, step)

    whole = fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", loss_of=interrupted)
    assert [line["step"] for line in metrics_of(tmp_path / "cut")] == list(range(17))
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 17, "lo')  # what a kill in the middle of a line leaves
    resumed = fit(tmp_path / "cut")
    assert resumed.weight.equal(whole.weight)
    assert metrics_of(tmp_path / "cut") == metrics_of(tmp_path / "whole")
    board = EventAccumulator(str(tmp_path / "cut" / "tensorboard")).Reload()
    logged = {event.step: event.value for event in board.Scalars("training/loss")}
    assert sorted(logged) == list(range(30))
    assert np.allclose([logged[i] for i in range(30)], [line["loss"] for line in metrics_of(tmp_path / "whole")])


def test_the_last_checkpoints_are_kept_and_others_only_until_this_run_writes_its_own(tmp_path):
    fit(tmp_path, fingerprint="first")
    assert sorted(path.name[11:-3] for path in tmp_path.glob("*.pt")) == ["first-00000020", "first-00000030"]

    def stop(model, step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, loss_of=stop, fingerprint="second")
    assert len(list(tmp_path.glob("checkpoint-first-*.pt"))) == 2  # started by mistake: nothing is lost
    fit(tmp_path, replace(SETTINGS, n_checkpoints=1), fingerprint="second")
    assert [path.name[11:-3] for path in tmp_path.glob("*.pt")] == ["second-00000030"]


def test_callbacks_see_averaged_weights_and_change_nothing(tmp_path):
    seen, module = {}, line()

    def look(n_steps):
        seen[n_steps] = module.weight.detach().clone()
        torch.rand(3)  # a careless draw from the global state
        module.eval()

    undisturbed = fit(tmp_path / "a")
    assert fit(tmp_path / "b", module=module, on_checkpoint=look).weight.equal(undisturbed.weight)
    assert sorted(seen) == [10, 20, 30]
    assert seen[30].equal(undisturbed.weight)


def test_raw_weights_are_those_of_the_last_step(tmp_path):
    averaged = fit(tmp_path, replace(SETTINGS, ema_decay=0.99))
    kept, raw = averaged.weight.clone(), load_raw_weights(averaged, tmp_path)
    fast = fit(tmp_path / "fast", replace(SETTINGS, ema_decay=0.0))  # an average that forgets at once
    assert_close(raw.weight, fast.weight)
    assert averaged.weight.equal(kept)
    assert not raw.weight.equal(kept)


def test_global_random_numbers_are_left_as_they_were_and_resume_too(tmp_path):
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = line()

        def forward(self, inputs):
            return self.line(nn.functional.dropout(inputs, 0.5))

    def interrupted(model, step):
        if step == 15:
            raise KeyboardInterrupt
        return squared_error(model, step)

    before = torch.random.get_rng_state()
    whole = fit(tmp_path / "whole", module=Dropping())
    assert torch.random.get_rng_state().equal(before)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", module=Dropping(), loss_of=interrupted)
    torch.rand(5)
    assert fit(tmp_path / "cut", module=Dropping()).line.weight.equal(whole.line.weight)


def test_a_loss_that_explodes_stops_the_run_with_one_sentence(tmp_path):
    def exploding(model, step):
        return squared_error(model, step) + (1000.0 if step >= 2 * WINDOW else 0.0)

    sentence = (
        rf"step 40: the loss of the last 20 steps .* more than {SETTINGS.max_loss_growth:g} times .*-00000040\.pt holds"
    )
    with pytest.raises(FloatingPointError, match=sentence):
        fit(tmp_path, replace(SETTINGS, n_steps=60), loss_of=exploding)


def test_a_loss_that_is_no_number_names_the_checkpoint_to_go_on_from(tmp_path):
    def broken(model, step):
        return squared_error(model, step) * (float("nan") if step == 12 else 1)

    with pytest.raises(FloatingPointError, match=r"step 12: the loss is nan, .*line-00000010\.pt holds the last good"):
        fit(tmp_path, loss_of=broken)
    with pytest.raises(FloatingPointError, match="no checkpoint had been written yet"):
        fit(tmp_path / "new", loss_of=lambda model, step: squared_error(model, step) * float("inf"))


def test_a_checkpoint_that_does_not_say_how_many_processes_made_it_is_not_gone_on_from(tmp_path):
    """As versions before this count left them; one of a finished run is loaded."""

    def forget(path):
        state = torch.load(path)
        del state["n_processes"]
        torch.save(state, path)

    finished = fit(tmp_path)
    *_, half, whole = sorted(tmp_path.glob("*.pt"))
    forget(half)
    forget(whole)
    assert fit(tmp_path).weight.equal(finished.weight)
    whole.unlink()
    with pytest.raises(ValueError, match=r"00000020\.pt does not say how many processes made it, .* another folder"):
        fit(tmp_path)
    assert list(tmp_path.glob("*.pt")) == [half]


# --------------------------------------------------------------------------------- processes and kill -9

WORKER = """
import os
import sys
from dataclasses import replace
from pathlib import Path
import torch
from sedm.config import ModelConfig, TrainingConfig, build_config
from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches
from sedm.generator.training import train_model

generator = torch.Generator().manual_seed(0)
images = torch.randint(0, 256, (12, 3, 16, 16), generator=generator).to(torch.uint8)
masks = torch.randint(0, 2, (12, 16, 16), generator=generator).to(torch.uint8)
masks[6:] = UNKNOWN
patches = Patches(images, masks, [f"group-{row // 3}" for row in range(12)], classes=("stroma", "tumour"))
config = build_config("tissue", "smoke")
config = replace(
    config,
    data=replace(config.data, image_size=16),
    model=ModelConfig((8, 16), style_dim=8, style_channels=(8, 8), aggregation="attention"),
    training=TrainingConfig(n_steps=24, batch_size=4, warmup_steps=2, checkpoint_every=3, unannotated="null_layout"),
)
folder = Path(sys.argv[1])
model = train_model(config, patches, folder, held_out=(), progress=False)
torch.save(model.state_dict(), folder / f"weights-{os.environ.get('RANK', 0)}.pt")
"""


@pytest.mark.processes
@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_run_killed_at_any_moment_ends_bit_for_bit_as_an_undisturbed_one(tmp_path, n_processes):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(script, n_processes, whole)
    process = start(script, n_processes, killed)
    while not list(killed.glob("checkpoint-*-00000006.pt")):
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.005)
    kill(process)
    steps = [int(path.stem[-8:]) for path in killed.glob("checkpoint-*.pt")]
    assert max(steps) < 24  # it was killed, not done
    finish(start(script, n_processes, killed))
    finish(undisturbed)
    for rank in range(n_processes):
        wanted, found = (torch.load(folder / f"weights-{rank}.pt") for folder in (whole, killed))
        assert wanted.keys() == found.keys()
        assert all(wanted[name].equal(found[name]) for name in wanted)
    assert (whole / "metrics.jsonl").read_bytes() == (killed / "metrics.jsonl").read_bytes()
    assert len(list(whole.glob("weights-*.pt"))) == n_processes


TWO_PROCESSES = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[2], str(Path(sys.argv[2]).parent)]
import torch
from test_loop import SETTINGS, line, squared_error
from sedm.runtime.loop import make_accelerator, optimise

accelerator, module = make_accelerator(), line()
assert accelerator.num_processes == 2
loss_of = lambda model, step: squared_error(model, step, accelerator.process_index)
optimise(accelerator, module, loss_of, SETTINGS, sys.argv[1], "two", progress=False)
torch.save(module.state_dict(), f"{sys.argv[1]}/weights-{accelerator.process_index}.pt")
"""


@pytest.mark.processes
def test_two_processes_take_the_steps_of_one_with_both_batches(tmp_path, capsys):
    script, folder = tmp_path / "two.py", tmp_path / "two"
    script.write_text(TWO_PROCESSES)
    finish(start(script, 2, folder, Path(__file__).parent))

    def both(model, step):
        return (squared_error(model, step, 0) + squared_error(model, step, 1)) / 2

    alone = fit(tmp_path / "one", loss_of=both).state_dict()
    first, second = (torch.load(folder / f"weights-{rank}.pt") for rank in (0, 1))
    for name, weight in alone.items():
        assert first[name].equal(second[name])
        assert_close(first[name], weight, rtol=1e-4, atol=1e-6)
    losses = [[line["loss"] for line in metrics_of(where)] for where in (folder, tmp_path / "one")]
    assert np.allclose(*losses, rtol=1e-4)

    # one process loads what two finished, and says so, but does not go on with what two began
    module = line()
    optimise(make_accelerator(), module, squared_error, SETTINGS, folder, "two")
    assert module.weight.equal(first["weight"])
    assert f"{folder} holds what 2 processes finished" in capsys.readouterr().err
    (folder / "checkpoint-two-00000030.pt").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match=r"00000020\.pt was made by 2 processes, but 1 .*; go on with 2 processes, or"):
        fit(folder, fingerprint="two")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


@pytest.mark.processes
def test_what_one_process_began_two_refuse_in_one_sentence_and_one_finishes(tmp_path, monkeypatch):
    """By the command; the sentence comes from the main process alone, and nothing in the folder changes."""

    def train(folder):
        main(["tissue", "--preset", "smoke", "--out", str(folder)])

    def save_and_stop(self, losses):
        save(self, losses)
        raise KeyboardInterrupt

    train(tmp_path / "whole")
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut")
    monkeypatch.setattr(Checkpoints, "save", save)
    before = {path.name: path.read_bytes() for path in (tmp_path / "cut").iterdir() if path.is_file()}
    options = ("tissue", "--preset", "smoke", "--out", tmp_path / "cut")
    process = start("-m", 2, "sedm", "train", *options)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert output.count("sedm train: ") == 1
    assert "00000003.pt was made by 1 process, but 2 processes would go on" in output
    assert "exitcode  : 2 " in output
    assert {path.name: path.read_bytes() for path in (tmp_path / "cut").iterdir() if path.is_file()} == before

    train(tmp_path / "cut")
    whole, resumed = (
        SEDMPipeline.from_pretrained(tmp_path / name / "model").denoiser.state_dict() for name in ("whole", "cut")
    )
    assert all(weight.equal(resumed[name]) for name, weight in whole.items())


@pytest.mark.processes
@pytest.mark.parametrize("study", ["tissue", "flowers"])
def test_what_two_processes_trained_by_hand_is_what_the_notebook_finds(tmp_path, monkeypatch, root, study):
    """The cells of notebook 03, or 01, that lead to the trained model; a step of training would end them."""
    (name,) = (root / "notebooks").glob({"tissue": "03*", "flowers": "01*"}[study])
    folder = tmp_path / study / "smoke"
    finish(start("-m", 2, "sedm", "train", study, "--preset", "smoke", "--out", folder / "training"))
    trained = {path: path.read_bytes() for path in (folder / "training").glob("checkpoint-*")}
    assert trained
    if study == "tissue":  # as notebook 02 leaves them
        mark_ready("02_layout_priors", build_config(study, "smoke"), folder)
    monkeypatch.setattr("sedm.generator.training.training_batch", lambda *_: pytest.fail("it was trained again"))
    code = [cell for cell in json.loads(name.read_text())["cells"] if cell["cell_type"] == "code"]
    (last,) = (index for index, cell in enumerate(code) if "train_generator(" in "".join(cell["source"]))
    known = {}
    for cell in code[: last + 1]:
        exec("".join(cell["source"]), known)
        if "parameters" in cell["metadata"].get("tags", []):
            known |= {"preset": "smoke", "runs": str(tmp_path), "figures": str(tmp_path / "figures")}
    assert known["pipeline"] is not None
    assert {path: path.read_bytes() for path in (folder / "training").glob("checkpoint-*")} == trained
