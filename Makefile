# make run      set up, run the whole workbook, write build/html/index.html
# make site     set up, build the site from the stored outputs, run nothing
# make lab      set up, open notebook 00 in JupyterLab
# make quick    set up, check the code and run the tests that start no server and no browser (two minutes)
# make test     set up, check the code, run every test and every notebook
# make quantised   set up, fetch torchao into a folder of its own, run the tests of quantised weights
# make bench    set up, time every loader on a 3.4 GB model (an hour or more, 20 GB of disk)
# make gpu      on a machine with a GPU, with a Python that has torch: its tests and the benchmark (nine minutes)
# make gpu-wheels   fetch what such a Python may lack, for a machine without a network
# make execute  run the notebooks in place, so that their stored outputs are real
# make house    draw which part of the package imports which

PYTHON ?= python3
PYTHON_VERSION ?= 3.12
MACHINE ?= x86_64
BIN = .venv/bin
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: run site lab quick test quantised bench gpu gpu-wheels execute house check setup

run: setup
	$(BIN)/python tools/workbook.py site

site: setup
	$(BIN)/python tools/workbook.py site --stored

# as in a container; otherwise JupyterLab refuses to start
AS_ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)

lab: setup
	$(BIN)/jupyter lab $(AS_ROOT) --LabApp.app_settings_dir=tools/jupyterlab --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

quick: check
	$(BIN)/python -m pytest --quiet -m "not slow" helpers workbook tests

# Two processes, a file of tests in one of them; what measures the machine comes after, alone.
test: check quantised
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadfile -m "not alone" helpers workbook tests
	$(BIN)/python -m pytest --quiet -m alone tests
	$(BIN)/python -m pytest --quiet --nbval --nbval-sanitize-with tests/nbval.cfg notebooks

# Where torchao is installed, every from_pretrained imports it; so these tests alone see it.
quantised: setup build/torchao
	PYTHONPATH=build/torchao $(BIN)/python -m pytest --quiet tests/helpers/test_quantised.py

build/torchao: constraints.txt | setup
	rm -rf $@
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --constraint $< --target $@ torchao
	touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy helpers
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m workbook.bench --model 1.7b --rounds 5 --json build/bench.json

# no set-up: the Python that is named is the one that is tested
gpu:
	$(PYTHON) tools/gpu.py $(if $(PARTS),--parts $(PARTS))

gpu-wheels: setup
	$(BIN)/python tools/gpu_wheels.py $(PYTHON_VERSION) $(MACHINE)

execute: setup
	$(BIN)/python tools/workbook.py execute

house: setup
	$(BIN)/python tools/house.py data/house.svg

setup:
	@$(PYTHON) tools/setup.py workbook,test,peers,scale,site
