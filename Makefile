# What a fresh machine with Python >= 3.10, a C++ compiler and make needs.
#
#   make demo        install, then the main job end to end; results in demo-out/
#   make test        `make check`, then every test that is not slow
#   make test-slow   the slow tests: empty environments, many kills, long learning runs
#   make check       ruff, mypy --strict, clang-format
#   make sanitize    drive the kernels: as they are, under ASan and UBSan, and under TSan; those of
#                    CUDA on the emulator of a device, but for TSan
#   make cuda-check  compile every CUDA kernel for sm_80 and sm_90; no spills, no missing symbols
#                    (part of `make test` where nvcc is on the PATH)
#   make build       install once; afterwards compile only what changed in csrc/
#   make compat      the tests on the oldest torch and transformers that are supported
#   make peers       the tests beside TRL, verl, OpenRLHF and Stable-Baselines3, in their company
#   make clean       remove the virtual environments and everything built
#
# Variables: PYTHON (the interpreter that makes the environment), VENV (where it lies),
# ALIGNZOO_CUDA (OFF, AUTO or ON), ALIGNZOO_DATA (the real data, for the tests that read it),
# PYTEST_ARGS (more arguments for pytest), WORKERS (processes that test side by side, 0 for none).

PYTHON ?= python3
VENV ?= .venv
ALIGNZOO_CUDA ?= OFF
CONSTRAINTS ?= .ci/constraints.txt
PYTEST_ARGS ?=
WORKERS ?= auto

BIN := $(abspath $(VENV))/bin
BUILD := $(abspath $(VENV))/build
INSTALLED := $(VENV)/.installed-$(ALIGNZOO_CUDA)
# For what may start Ninja, which would look in vain for the jobs that `make --jobs` hands out.
ALONE := MAKEFLAGS=
# What is imported is compiled when it first is, and kept: a tenth of what would be installed.
INSTALL := $(ALONE) $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-compile
export PYTHONDONTWRITEBYTECODE :=
# tests/conftest.py puts the files in order, the longest first.
PYTEST := $(ALONE) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
CPP_SOURCES = $(shell find csrc tests/native -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')

# Threads that wait must not spin: other work, the tests' own included, needs the cores.
export OMP_WAIT_POLICY ?= PASSIVE
test test-slow test-compat test-peers: export OMP_NUM_THREADS ?= 1
export ALIGNZOO_CUDA
ifneq ($(wildcard ../shared/data/.),)
export ALIGNZOO_DATA ?= $(abspath ../shared/data)
endif

.DELETE_ON_ERROR:
.PHONY: demo test test-slow check cuda-check cuda-report sanitize build compat test-compat peers test-peers clean
.DEFAULT_GOAL := test

demo: build
	rm -rf demo-out
	$(BIN)/python -m alignzoo demo --out demo-out

test: check
	HF_HUB_OFFLINE=1 $(PYTEST) -m "not slow" $(PYTEST_ARGS)

ifneq ($(shell command -v nvcc),)
test: cuda-check
endif

test-slow: build $(VENV)/.tools
	HF_HUB_OFFLINE=1 $(PYTEST) -m slow $(PYTEST_ARGS)

check: build $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers auto
	$(BIN)/clang-format --dry-run -Werror $(CPP_SOURCES)

cuda-check: $(VENV)/.build-requirements
	$(ALONE) $(BIN)/python bench/cuda_check.py --build $(BUILD)-cuda

# Writes bench/results/cuda_registers.md, which cuda-check compares with.
cuda-report: $(VENV)/.build-requirements
	$(ALONE) $(BIN)/python bench/cuda_check.py --build $(BUILD)-cuda --write

# The driver needs no Python; the environment lends it CMake.
sanitize: $(VENV)/.build-requirements
	@for sanitizer in none address thread; do \
		folder=$(BUILD)-native-$$sanitizer; echo "sanitizer: $$sanitizer"; \
		$(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(BIN)/ninja -S tests/native -B $$folder \
			-DALIGNZOO_SANITIZE=$$sanitizer >$$folder.log && \
		$(BIN)/cmake --build $$folder && $$folder/drive_kernels || exit 1; \
		[ $$sanitizer = thread ] || $$folder/drive_kernels --emulated || exit 1; \
	done

# The editable install leaves its build folder in the environment, so that two environments never
# share one. Python files are found where they are; only the C++ core is compiled and copied.
build: $(INSTALLED)
	@$(ALONE) $(BIN)/cmake --build $(BUILD)
	@$(BIN)/cmake --install $(BUILD) --prefix "$$(cat $(VENV)/.site-packages)" >$(BUILD)/install.log

$(INSTALLED): pyproject.toml CMakeLists.txt $(CONSTRAINTS) $(VENV)/.build-requirements
	rm -f $(VENV)/.installed-*
	$(INSTALL) --constraint $(CONSTRAINTS) --no-build-isolation \
		--config-settings=build-dir=$(BUILD) --editable .
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))' >$(VENV)/.site-packages
	touch $@

# alignzoo is installed by now, so this adds what its extras name and builds nothing.
$(VENV)/.tools: $(INSTALLED)
	$(INSTALL) --constraint $(CONSTRAINTS) 'alignzoo[bench,check,data,lora,test]'
	touch $@

$(VENV)/.build-requirements: $(VENV)/.created
	$(INSTALL) --constraint $(CONSTRAINTS) \
		'scikit-build-core>=0.11' 'pybind11>=2.13' 'cmake>=3.20' ninja
	touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "alignzoo needs Python 3.10 or newer, but '$(PYTHON)' is older or missing;" \
			"name one: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# Several gigabytes: the wheels of old torch releases bring their CUDA libraries along. The real
# models were saved by transformers 5, which 4.57 does not read, so the tests do without them.
compat:
	$(MAKE) test-compat VENV=.venv-compat CONSTRAINTS=.ci/constraints-oldest.txt ALIGNZOO_DATA=

test-compat: build $(VENV)/.tools
	$(BIN)/python -c 'import torch; print("torch", torch.__version__)'
	$(BIN)/python -c 'import transformers; print("transformers", transformers.__version__)'
	HF_HUB_OFFLINE=1 $(PYTEST) -m "not slow" $(PYTEST_ARGS)

# The peers' own dependencies stay away: they ask for other releases of transformers and for a GPU.
peers:
	$(MAKE) test-peers VENV=.venv-peers

test-peers: build $(VENV)/.peers
	HF_HUB_OFFLINE=1 $(PYTEST) -m peer $(PYTEST_ARGS)

$(VENV)/.peers: $(VENV)/.tools .ci/requirements-peers.txt
	$(INSTALL) --no-deps --requirement .ci/requirements-peers.txt
	touch $@

clean:
	rm -rf .venv .venv-compat .venv-peers build dist demo-out .mypy_cache .pytest_cache .ruff_cache
