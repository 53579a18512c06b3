# make quickstart   set up, run suites/quickstart.yaml, print its table and where the page is
# make test         set up, check style and types, run the tests
# make smoke        each method, tuner and precision of every suite in two steps; an outside package and a wide page too
# make kernels      a sample of the tests with the CPU kernels of older machines (KERNEL_TESTS=tests runs them all)
# make chaos        kill running grids at random moments; nothing may be lost, doubled or left over (CHAOS_ARGS="--kills 1000")
# make exports      the tests of exports to trackers and of results at S3, with the real libraries, which it installs
# make cluster      the tests of runs on a cluster of Ray and of its results at S3, with the real libraries, which it installs
#                   (CLUSTER_ARGS=--run-slow: those that take minutes too)
# make e2e          the tests of the E2E scorer's metrics, with their library, which it installs, and Java
# make quantizers   the tests of base models that optional libraries have stored quantized, which it installs
# make fuzz         wrong inputs of every kind for FUZZ_SECONDS (default 3600); adds their counts to docs/trust.md
# make gpu          measure on a CUDA device what cannot be known without one (docs/gpu.md; GPU_ARGS="--dry-run --out DIR")
# make bench        measure peftbench itself and print the ratios (BENCH_ARGS=--write renews docs/bench.md)
# make reference    run the quickstart afresh and renew everything in the project that is made from results
# RUNS              which results it makes: quickstart (default) quickstart_again nano_grid nano_tuning peft_zoo parallel deployed memory_ladder precisions all
# PIP_ARGS          passed to every pip install (which build of torch: see README, Installation)

PYTHON ?= python3
PIP_ARGS ?=
RUNS ?= quickstart
BENCH_ARGS ?=
FUZZ_SECONDS ?= 3600
CHAOS_ARGS ?=
CLUSTER_ARGS ?=
GPU_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# What torch, oneDNN and MKL may use: no vector extension beyond SSE4 on one thread, AVX2 on four.
SSE4 := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 OMP_NUM_THREADS=1
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OMP_NUM_THREADS=4
KERNEL_TESTS ?= tests/models/test_causality.py tests/methods/test_adapter.py tests/training/test_loop.py

.PHONY: quickstart test check smoke kernels chaos exports cluster e2e quantizers fuzz gpu bench reference clean

quickstart: $(STAMP)
	$(BIN)/peftbench run suites/quickstart.yaml
	$(BIN)/peftbench report results/quickstart -o reports/quickstart.html > /dev/null  # run has printed the table
	@echo "page: reports/quickstart.html"
	@echo "the command peftbench is in $(BIN): put it on the shell's path with . $(BIN)/activate"

# a crash of a test process ends the run, which names the test: with a new process xdist was seen to wait forever
test: $(STAMP) check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --max-worker-restart 0 --session-timeout 1300

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

smoke: $(STAMP)
	$(BIN)/python -m pytest --run-slow -m slow --timeout 450 --session-timeout 900 --numprocesses 2 --dist worksteal \
		tests/runner/test_smoke.py tests/methods/test_plugins.py tests/report/test_browser.py

kernels: $(STAMP)
	$(SSE4) $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(KERNEL_TESTS)
	$(AVX2) $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(KERNEL_TESTS)

chaos: $(STAMP)
	$(BIN)/python -m tools.validation.chaos $(CHAOS_ARGS)

# no test of these may skip: PEFTBENCH_ALL_GROUPS makes a library that is missing an error
exports: $(STAMP)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --group export --group s3
	PEFTBENCH_ALL_GROUPS=1 $(BIN)/python -m pytest --session-timeout 600 --numprocesses 2 --dist loadfile --max-worker-restart 0 \
		tests/report/test_trackers.py tests/results/test_remote_s3.py

# two clusters of several nodes at the same time, so no more test processes
cluster: $(STAMP)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --group ray --group s3
	PEFTBENCH_ALL_GROUPS=1 $(BIN)/python -m pytest --session-timeout 900 --numprocesses 2 --dist loadfile --max-worker-restart 0 \
		$(CLUSTER_ARGS) tests/runner/test_ray_parts.py tests/runner/test_ray_faults.py tests/runner/test_ray_trials.py

# the metrics of the E2E scorer, with Java
e2e: $(STAMP)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --group e2e
	PEFTBENCH_ALL_GROUPS=1 $(BIN)/python -m pytest --session-timeout 600 tests/evaluation/test_more_metrics.py

# precisions of torchao, and base models that it has stored
quantizers: $(STAMP)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --group quantizers
	PEFTBENCH_ALL_GROUPS=1 $(BIN)/python -m pytest --run-slow --session-timeout 900 --numprocesses 2 tests/models/test_stored.py \
		tests/models/test_precision.py tests/planner/test_fake_quantized.py tests/models/test_torchao_precisions.py \
		tests/planner/test_loading.py tests/training/test_float8.py \
		tests/runner/test_resuming.py::test_an_interrupted_trial_in_the_precision_of_an_extra_equals_the_unbroken_one

fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --group fuzz
	$(BIN)/python -m tools.validation.fuzz --seconds $(FUZZ_SECONDS) --write

gpu: $(STAMP)
	$(BIN)/python -m tools.validation.gpu $(GPU_ARGS)

bench: $(STAMP)
	$(BIN)/python tests/benchmarks/run.py $(BENCH_ARGS)

reference: $(STAMP)
	$(BIN)/python -m tools.docs.reference --run $(RUNS)

# torch first and alone: its build must be the one that PIP_ARGS asks for, and nothing later may replace it
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable . --group test --group browser
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
