# make reproduce   every notebook of the embedded studies, with its figures and values, and the paper
# make test        unit tests, doctests and every notebook at the smallest size
# make check       the linter and the fast tests, in a few minutes
# make check-figures   run the embedded studies once more and compare the values with the committed ones
# make bench       how fast training, sampling and generation are, against the reference's recipe: figures/benchmarks/
# make paper       paper/main.pdf from the committed values and figures, in seconds, without training anything
# make demo        style mixing as a page, for this computer alone, with the included models; Ctrl-C ends it
# make lab         JupyterLab in this folder
# make clean       remove everything that can be made again
# Each of them first makes the virtual environment if it is missing or older than the lock file.

PYTHON ?= python3
BIN := .venv/bin

# Keep large freed blocks: returning them to the system and asking for them again costs more than the arithmetic.
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 17179869184
export TOKENIZERS_PARALLELISM := false
# Keep compiled modules, for the many processes that import the same ones.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: reproduce check-figures check test bench paper demo lab clean

# run.py reads and checks the variables on the command line (STUDY=… PRESET=… DATA=… SEED=… JOBS=…).
reproduce: .venv/installed
	@$(BIN)/python notebooks/run.py make

check-figures: .venv/installed
	@$(BIN)/python notebooks/check.py

# By file, in the order that tests/conftest.py gives them.
PARALLEL := --numprocesses 2 --no-loadscope-reorder

check: .venv/installed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not browser and not processes"

test: .venv/installed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pytest $(PARALLEL)

# For a quiet machine. MODEL=… is the folder of a trained pipeline of tissue, by default the one of make reproduce.
MODEL = data/runs/tissue/quick/model
bench: .venv/installed
	$(BIN)/python -m tests.benchmarks.generator
	$(BIN)/python -m tests.benchmarks.scaling
	$(BIN)/python -m tests.benchmarks.generation
	$(BIN)/python -m tests.benchmarks.steps --model "$(MODEL)"
	$(BIN)/python -m tests.benchmarks.demo
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.quality tissue

# Not committed: it follows from committed files, and a copy would fall behind.
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
