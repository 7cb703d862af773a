# rank_xmodal: `make` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RX := $(BIN)/rank-xmodal

# What a training works on: make listnet DATA=data/flickr30k-... SEED=1 EPOCHS=30 FEATURES=concat
DATA ?= data/scenes
SEED ?= 0
EPOCHS ?=
FOLDS ?=
PAPER ?=
FEATURES ?= full
MODEL ?= ViT-B-32-quickgelu
PRETRAINED ?= openai
PORT ?= 5000
NAME = $(notdir $(patsubst %/,%,$(DATA)))
SUFFIX = $(if $(filter-out full,$(FEATURES)),-$(FEATURES))$(if $(filter-out 0,$(SEED)),-seed$(SEED))$(if $(EPOCHS),-epochs$(EPOCHS))
LOSSES := lambdarank neuralndcg listnet ranknet

.PHONY: help setup demo data verify-flickr30k verify-coco $(LOSSES) compare ablation systems crossval grid paper baselines bench ui test faults lint clean

help:  ## This list
	@grep -hE '^[a-z0-9$$()LOSSE -]+:.*##' $(MAKEFILE_LIST) | sed -e 's/$$(LOSSES)/lambdarank | neuralndcg | listnet | ranknet/' \
	  | awk -F ':.*## ' '{printf "  make %-42s %s\n", $$1, $$2}'
	@echo "  variables: DATA=$(DATA) SEED=$(SEED) EPOCHS=$(EPOCHS) FEATURES=full|embeddings|concat FOLDS= PAPER=full; data: DATASET= ROOT= MODEL= PRETRAINED=; ui: PORT="

# torch first and by exact version: pip then has no choice left that could pull in another build of it.
# allRank last and without its dependencies: its wheel pins torch<=1.8, torchvision<=0.9 and gcsfs==0.6.2, which can't be
# installed beside a current torch; what it really imports is named on the line before it.
$(BIN)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed; name one: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt gcsfs tensorboardX flatten_dict attrs setuptools
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps allRank
	@touch $@

setup: $(BIN)/.ready  ## Make .venv with everything in it

demo: setup  ## Scenes -> embeddings -> lists -> 4 losses x 2 directions -> table and MLflow runs
	$(RX) demo

data: setup  ## Embed a data set: make data DATASET=flickr30k ROOT=/path/to/flickr30k
	@test -n "$(DATASET)" -a -n "$(ROOT)" || { echo "Say which: make data DATASET=flickr30k|coco|folder ROOT=/path"; exit 2; }
	$(RX) embed --dataset $(DATASET) --root "$(ROOT)" --model $(MODEL) --pretrained "$(PRETRAINED)" --out data/$(DATASET)-$(MODEL)

verify-flickr30k: DATA = data/flickr30k-$(MODEL)
verify-flickr30k: setup  ## Are CLIP's figures on Flickr30K as published? Before training; DATA=data/flickr30k-MODEL
	$(RX) verify flickr30k --data $(DATA)

verify-coco: DATA = data/coco-$(MODEL)
verify-coco: setup  ## The same for COCO
	$(RX) verify coco --data $(DATA)

$(LOSSES): setup  ## Train with this loss, both directions, as MLflow runs
	@test -d "$(DATA)" || { echo "$(DATA): no such embedding set. Make one with 'make data', 'make demo' or rank-xmodal import."; exit 2; }
	@for direction in t2i i2t; do \
	  $(RX) train --data $(DATA) --direction $$direction --loss $@ --features $(FEATURES) --seed $(SEED) \
	    $(if $(EPOCHS),--set epochs=$(EPOCHS)) --out runs/$(NAME)/$@-$$direction$(SUFFIX) || exit $$?; \
	done

compare: setup  ## The finished runs on DATA as a table
	$(RX) compare --experiment $(NAME)

STUDY = $(RX) study --data $(DATA) $(if $(FOLDS),--folds $(FOLDS)) $(if $(EPOCHS),--set epochs=$(EPOCHS))

ablation: setup  ## What each part is worth, taken away in turn: 5 seeds on validation (hours; EPOCHS=6 is less), or FOLDS=5
	$(STUDY) ablation

systems: setup  ## Every system that fits DATA in one table: needs, figures, p, seconds to fit, milliseconds, bytes (half an hour; with words and cells hours)
	$(STUDY) systems

grid: setup  ## Grid search over the model's sizes and lr, both directions, judged on validation: experiments/plans/grid.yaml
	@for direction in t2i i2t; do \
	  $(RX) grid --data $(DATA) --direction $$direction $(if $(EPOCHS),--set epochs=$(EPOCHS)) || exit $$?; \
	done

TABLE = $(RX) paper --data $(DATA) $(if $(filter full,$(PAPER)),--full) $(if $(EPOCHS),--epochs $(EPOCHS))

paper: setup  ## The paper's Table 2, four losses and all baselines on the same lists; PAPER=full: 100 epochs, 5 seeds
	$(TABLE)

baselines: setup  ## CLIP, CSLS, CCA, DCCA, CMPM, VSE++ and our ranker on CLIP's top 51 of the test gallery
	$(TABLE) --baselines

bench: setup  ## Our stages against allRank, sentence-transformers and faiss; exits with 1 if a ratio is missed (about an hour)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'
	TQDM_DISABLE=1 $(BIN)/python -W ignore -m benchmarks

crossval: FOLDS := $(or $(FOLDS),5)
crossval: setup  ## The four losses over folds of a small set, against CLIP and CSLS
	$(STUDY) losses

ui: setup  ## MLflow UI on 127.0.0.1
	$(RX) ui --port $(PORT)

test: setup  ## The test suite, doctests included; COVERAGE=1 prints what it doesn't reach
	$(BIN)/python -m pytest $(if $(COVERAGE),--cov --cov-report=term)

faults: setup  ## The fault campaign: kills, full disks, broken files, hostile input (15 minutes); docs/reliability.md
	$(BIN)/python -m tests.faults

lint: setup  ## Linter and type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## Remove what can be made again: caches and the virtual environment; data, runs and mlruns stay
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
