# Every target does its own set-up: `make demo` and `make test` work in a fresh clone.
.DEFAULT_GOAL := help
SHELL := bash
BIN := .venv/bin
# Renewed by a changed list of packages; with nothing changed, set-up costs nothing.
STAMP := .venv/.setup-done
OUTPUT ?= outputs/demo

$(STAMP): pyproject.toml constraints.txt $(wildcard scripts/*.sh scripts/*.txt)
	@bash scripts/setup.sh
	@touch $@

.PHONY: setup
setup: $(STAMP) ## uv, Python 3.11, .venv, and all that runs, tests and benchmarks need

.PHONY: demo
demo: $(STAMP) ## the main job: distils the real Gemma 3 270M and pushes a model (20 minutes on 2 cores)
	$(BIN)/gemma-distill run demo $(ARGS)

.PHONY: quick
quick: $(STAMP) ## the same, small: under 4 minutes
	$(BIN)/gemma-distill run quick $(ARGS)

.PHONY: doctor
doctor: $(STAMP) ## what this machine has, and whether the demo can run on it
	$(BIN)/gemma-distill doctor $(ARGS)

.PHONY: test
test: $(STAMP) ## the whole test suite; ARGS="-m 'not real_weights'" and the like go to pytest
	@bash scripts/test.sh $(ARGS)

.PHONY: lint
lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: format
format: $(STAMP) ## what ruff can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: tensorboard
tensorboard: $(STAMP) ## TensorBoard on OUTPUT (outputs/demo)
	$(BIN)/tensorboard --logdir $(OUTPUT)

.PHONY: constraints
constraints: ## pins anew what pyproject.toml asks for; ARGS=--upgrade takes the newest releases
	@bash scripts/uv.sh pip compile pyproject.toml --quiet --all-extras --python-version 3.11 --python-platform x86_64-manylinux_2_39 \
		--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command 'make constraints' -o constraints.txt $(ARGS)

.PHONY: docker
docker: ## the container image; EXTRAS= is a worker image without TFX
	docker build -t gemma-tf-distill $(if $(filter undefined,$(origin EXTRAS)),,--build-arg EXTRAS=$(EXTRAS)) .

.PHONY: clean
clean: ## removes .venv, caches and built files; outputs/ stays
	rm -rf .venv .tools build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
