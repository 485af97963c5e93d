# make reproduce   every notebook of the embedded studies, with its figures and values, and the paper
# make test        unit tests, doctests and every notebook at the smallest size
# make check       the linter and the fast ones among them, in less than a minute
# make check-figures   the embedded studies once more, beside the committed results, and their values compared
# make bench       how fast training, sampling and generation are, against the reference's recipe: figures/benchmarks/
# make paper       paper/main.pdf from the committed values and figures, in seconds, without training anything
# make demo        style mixing as a page, for this computer alone, with the models that come along; Ctrl-C ends it
# make lab         JupyterLab in this folder
# make clean       removes what can be made again
# Each of them first makes the virtual environment, when it is missing or older than the lock file.

PYTHON ?= python3
BIN := .venv/bin

# Keep large freed blocks: handing them back to the system and asking again costs more than the arithmetic.
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 17179869184
export TOKENIZERS_PARALLELISM := false

.PHONY: reproduce check-figures check test bench paper demo lab clean

# Variables on the command line (STUDY=… PRESET=… DATA=… SEED=… JOBS=…) are read and checked there.
reproduce: .venv/installed
	@$(BIN)/python notebooks/run.py make

check-figures: .venv/installed
	@$(BIN)/python notebooks/check.py

check: .venv/installed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m "not slow and not browser and not processes"

test: .venv/installed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

# On a quiet machine; MODEL=… is the folder of a trained pipeline of tissue, from make reproduce where left out.
MODEL = data/runs/tissue/quick/model
bench: .venv/installed
	$(BIN)/python -m tests.benchmarks.generator
	$(BIN)/python -m tests.benchmarks.scaling
	$(BIN)/python -m tests.benchmarks.generation
	$(BIN)/python -m tests.benchmarks.steps --model "$(MODEL)"
	$(BIN)/python -m tests.benchmarks.demo

# Not committed: it follows from what is, and a copy would fall behind.
paper: .venv/installed
	@$(BIN)/python paper/build.py

demo: .venv/installed
	@$(BIN)/python -m sedm demo

lab: .venv/installed
	$(BIN)/python -m jupyter lab --notebook-dir=.

clean:
	rm -rf .venv .snakemake data/runs paper/main.pdf

.venv/installed: requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, not " + sys.version)'
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
