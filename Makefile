# Every target works on a machine that has Python >= 3.11 and make; the rest is installed into .venv.
# PYTHON=python3.12 picks another interpreter, PG=15 another PostgreSQL (14 to 18). With RBAC=namespaced the operator of the
# integration tests has a Role in each namespace that it serves, in place of its ClusterRole; test-matrix leaves none out then.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
VERSIONS ?= 14 15 16 17 18
# In the order of the files: by the number of their tests, the longest ones would come last.
PARALLEL := --numprocesses 3 --dist loadfile --no-loadscope-reorder
MATRIX := $(if $(RBAC),,-m "not version_independent")
PIP_TOOLS := pip-tools==7.6.2

.DEFAULT_GOAL := help
.PHONY: help up down demo test check bench test-matrix e2e docs plugin crds manifests requirements

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: $(INSTALLED) ## Start control plane, PostgreSQL and operator in the background
	@PYTHONPATH=deploy $(BIN)/python -m local up

down: $(INSTALLED) ## Stop them; their data stays in .local/
	@PYTHONPATH=deploy $(BIN)/python -m local down

demo: $(INSTALLED) ## Watch the operator do its main job, step by step
	@PYTHONPATH=deploy $(BIN)/python -m local.demo

test: $(INSTALLED) ## Run every test that needs no foreign cluster
	$(BIN)/pytest tests/unit tests/exploration tests/integration $(PARALLEL)

check: $(INSTALLED) docs ## Lint, types, import contracts, generated files up to date, the site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy operator/hoop_operator operator/kubectl_hoop deploy/local deploy/image deploy/krew deploy/generated.py \
	  deploy/site tests
	$(BIN)/lint-imports
	$(BIN)/python -m hoop_operator.crd --check
	@PYTHONPATH=deploy $(BIN)/python -m generated --check
	$(BIN)/hadolint Dockerfile
	$(BIN)/zizmor --offline --quiet .github

bench: $(INSTALLED) ## Measure what plans, servers, failures and a long life cost (about 20 minutes)
	@PYTHONPATH=deploy:tests $(BIN)/python -m bench

test-matrix: $(INSTALLED) ## Run the integration tests with PostgreSQL 14 to 18, or those of VERSIONS="14 16"
	@set -e; for version in $(VERSIONS); do echo "PostgreSQL $$version"; \
	  PG=$$version LAW_EXAMPLES=150 $(BIN)/pytest tests/integration $(MATRIX) $(PARALLEL); done

e2e: $(INSTALLED) ## Run the end-to-end tests: on KUBECONFIG's cluster, in a kind cluster, or on local processes
	@PYTHONPATH=deploy $(BIN)/python -m local.e2e

docs: $(INSTALLED) ## Build the site of docs/ into build/site
	@PYTHONPATH=deploy NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

plugin: $(INSTALLED) ## Build kubectl hoop for krew into dist/plugin, for all platforms or PLATFORMS="linux/amd64"
	$(BIN)/python deploy/krew/archive.py $(PLATFORMS)

crds: $(INSTALLED) ## Write crds/ anew from the models, and what is generated from it
	$(BIN)/python -m hoop_operator.crd
	@PYTHONPATH=deploy $(BIN)/python -m generated

manifests: $(INSTALLED) ## Write deploy/manifests/ and the generated files of deploy/chart/ anew
	@PYTHONPATH=deploy $(BIN)/python -m generated

requirements: export CUSTOM_COMPILE_COMMAND := make requirements
requirements: ## Pin what pyproject.toml asks for, anew
	$(PYTHON) -m venv build/pip-tools
	build/pip-tools/bin/pip install --quiet $(PIP_TOOLS)
	build/pip-tools/bin/pip-compile $(COMPILE) --extra api --extra aws --output-file requirements.txt pyproject.toml
	build/pip-tools/bin/pip-compile $(COMPILE) --extra plugin --output-file requirements-plugin.txt pyproject.toml
	build/pip-tools/bin/pip-compile $(COMPILE) --extra api --extra aws --extra dev --build-deps-for editable --allow-unsafe \
	  --output-file requirements-dev.txt pyproject.toml
	build/pip-tools/bin/pip-compile $(COMPILE) --only-build-deps --build-deps-for wheel --allow-unsafe \
	  --output-file deploy/image/requirements-build.txt pyproject.toml

COMPILE := --quiet --upgrade --strip-extras --generate-hashes \
  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options

$(INSTALLED): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
	  echo "Python 3.11 or newer with its venv module is needed; this is what '$(PYTHON)' is:"; \
	  $(PYTHON) --version; \
	  echo "Install one (on Debian and Ubuntu also python3-venv), or name it: make PYTHON=/path/to/python3"; \
	  exit 1; } >&2
	@echo "Installing the pinned requirements into .venv"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
