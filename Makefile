# Everything sets itself up: Python 3.11+ and its package registry are all that a fresh machine needs.
PYTHON ?= python3
VENV   ?= .venv
LIBRARIES ?= .venv-libraries
BIN    := $(VENV)/bin
PORT   ?= 8000

.PHONY: run test check demo bench docs libraries clean

run: $(VENV)/.run
	$(BIN)/thalweg serve --host 127.0.0.1 --port $(PORT) --data ./data

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

check: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy clients/python/src/thalweg

demo: $(VENV)/.demo
	$(BIN)/python clients/python/examples/digits.py $(ARGS)

bench: $(VENV)/.peers
	$(BIN)/python -m tests.benchmarks $(ARGS)

docs: $(VENV)/.test
	$(BIN)/python -m tests.docs.convergence
	$(BIN)/python -m tests.docs.tables

# Moving sessions to and from the real torch, optax and Keras, in an environment of its own: 2 GB, a few minutes.
libraries: $(LIBRARIES)/.ready
	$(LIBRARIES)/bin/python -m pytest --numprocesses auto --dist loadfile clients/python/tests_libraries $(ARGS)

clean:
	rm -rf $(VENV) $(LIBRARIES) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# One environment; each stamp is a set of extras in it.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fast]'
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml clients/python/pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fast,test]' --editable clients/python
	@touch $@

$(VENV)/.check: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fast,test,check]' --editable clients/python
	@touch $@

$(VENV)/.peers: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fast,test,peers]' --editable clients/python
	@touch $@

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml clients/python/pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fast,demo]' --editable 'clients/python[fast]'
	@touch $@

# The versions of tests/golden/README.md; torch alone first, so that nothing else chooses its build.
$(LIBRARIES)/.ready: pyproject.toml clients/python/pyproject.toml
	$(PYTHON) -m venv $(LIBRARIES)
	$(LIBRARIES)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(LIBRARIES)/bin/python -m pip install --quiet --disable-pip-version-check \
		jax==0.10.2 jaxlib==0.10.2 optax==0.2.8 keras==3.15.1 numpy==2.4.6 \
		--editable '.[fast,test]' --editable clients/python
	@touch $@
