"""Run scripts by one process or, through torchrun, by several; end or kill them with all that they started."""

import os
import subprocess
import sys

import psutil


def start(script, n_processes, *arguments):
    """Start a script and return its process: the script itself, or the launcher of its ``n_processes`` workers."""
    launcher = [sys.executable]
    if n_processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n_processes)]
    return subprocess.Popen(
        [*launcher, str(script), *map(str, arguments)],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    """Wait for a process, which has to end well."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]


def kill(process):
    """Kill a process and its workers, each of which is in a session of its own, by SIGKILL."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.suspend()  # so that the launcher sees nobody die
    for member in family:
        member.kill()
    process.wait()
    assert psutil.wait_procs(family, timeout=60)[1] == []
