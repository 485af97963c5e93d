"""Synthetic tables made by two processes, and by one that is killed again and again: byte for byte the same."""

import json
import time

import pytest
from benchmarks import generation
from launching import finish, kill, start

from sedm.data.patch_table import load_patches

pytestmark = [pytest.mark.slow, pytest.mark.processes]

SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
import torch
from sedm.config import ModelConfig, SamplingConfig
from sedm.generation.generate import generate_patches
from sedm.layouts import RandomFieldPrior
from sedm.generator.denoiser import build_model
from sedm.generator.pipeline import SEDMPipeline
from sedm.styles.bank import StyleBank

model = build_model(ModelConfig((8, 16), style_dim=8, style_channels=(8,)), n_classes=2, image_size=16, seed=0)
pipeline = SEDMPipeline.from_model(model.eval())
masks = torch.zeros(4, 16, 16, dtype=torch.uint8)
masks[:, 4:11, 4:11] = 1
prior = RandomFieldPrior.fit_masks(masks, ("background", "foreground"))
generator = torch.Generator().manual_seed(0)
bank = StyleBank(torch.randn(8, 8, generator=generator), [f"g{row // 2}" for row in range(8)], list("01234567"))
config = SamplingConfig(n_images=37, n_steps=2, n_style_images=2, n_mixed_groups=2, micro_batch=1)
folder = Path(sys.argv[1])


def make(folder):
    return generate_patches(pipeline, prior, bank, config, 0, folder, progress=False)
"""

ALONE = """
import threading
from tqdm import tqdm

tqdm.set_lock(threading.RLock())  # a forked child that is killed must not take the lock of its parent's bars with it
started = time.monotonic()
make(folder / "whole")
duration = time.monotonic() - started


def hold(folder):  # what a killed process left
    return {path.name: path.stat().st_size for path in folder.iterdir()} if folder.exists() else {}


held, draws = [], torch.rand(12, generator=generator).tolist()
for draw in draws:  # each goes on from what the last one left
    child = os.fork()
    if child == 0:
        make(folder / "killed")
        os._exit(0)
    time.sleep(draw * duration / 4)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    held.append(hold(folder / "killed"))
make(folder / "killed")
(folder / "held.json").write_text(json.dumps(held))
"""

TOGETHER = """
import sedm.generation.generate
from accelerate import PartialState
from sedm.generation.shards import save_shard

made, n_made = [], int(sys.argv[2])


def save_and_wait(table, path):
    if len(made) == n_made:
        time.sleep(600)  # to be killed
    save_shard(table, path)
    made.append(path.name)


sedm.generation.generate.save_shard = save_and_wait
table = make(folder / "two")
state = PartialState()
told = {"of": state.num_processes, "index": table["index"][:], "made": made}
(folder / f"rank-{state.process_index}.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One process alone, undisturbed ("whole") and killed at twelve moments ("killed")."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "alone.py").write_text(SCRIPT + ALONE)
    finish(start(folder / "alone.py", 1, folder))
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_killed_at_random_moments_ends_byte_for_byte_as_an_undisturbed_one(folder):
    whole = contents(folder / "whole")
    assert len([name for name in whole if name.endswith(".parquet")]) == 10
    assert contents(folder / "killed") == whole  # nothing half-written remains either
    held = json.loads((folder / "held.json").read_text())
    counts = [len([name for name in one if name.startswith("train")]) for one in held]
    assert counts == sorted(counts)  # what was finished is not lost
    assert len(set(counts)) > 2, counts  # they were killed at work
    for one in held:
        for name, size in one.items():
            assert name.startswith(".") or size == len(whole[name])  # a final name is a whole file


def test_two_processes_make_the_table_of_one_also_after_both_were_killed(folder):
    script = folder / "together.py"
    script.write_text(SCRIPT + TOGETHER)
    process = start(script, 2, folder, 2)  # each process makes two of its five shards
    while len(list((folder / "two").glob("train-*"))) < 4:
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.01)
    kill(process)
    whole = contents(folder / "whole")
    assert all(whole[path.name] == path.read_bytes() for path in (folder / "two").glob("train-*"))
    finish(start(script, 2, folder, 10))
    assert contents(folder / "two") == whole
    names = sorted(name for name in whole if name.endswith(".parquet"))
    for rank in range(2):
        told = json.loads((folder / f"rank-{rank}.json").read_text())
        # every second shard is its own, and the whole table its answer
        assert told == {"of": 2, "index": list(range(37)), "made": names[rank::2][2:]}


def test_the_benchmark_makes_tables_of_the_length_it_says(tmp_path):
    generation.make_table(generation.tiny(), 5, tmp_path)
    assert load_patches(tmp_path)["index"][:] == list(range(5))
