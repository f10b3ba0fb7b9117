# make run    set up, run the whole workbook, write build/html/index.html
# make test   set up, lint, unit tests, every notebook
# make lab    set up, open JupyterLab
# make bench  set up, time every loader on a 3.4 GB model (half an hour, 20 GB of disk)
# make execute  run the notebooks in place, so that their stored outputs are real

PYTHON ?= python3
BIN = .venv/bin
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: run test lab bench execute setup

run: setup
	$(BIN)/python tools/workbook.py site

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --quiet helpers workbook tests
	$(BIN)/python -m pytest --quiet --nbval --nbval-sanitize-with tests/nbval.cfg notebooks

lab: setup
	$(BIN)/jupyter lab notebooks

bench: setup
	$(BIN)/python -m workbook.bench --model 1.7b --rounds 5 --json build/bench.json

execute: setup
	$(BIN)/python tools/workbook.py execute

setup:
	@$(PYTHON) tools/setup.py workbook,test,peers,scale
