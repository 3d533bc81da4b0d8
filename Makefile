# make demo   trains small LMs on real text, rescores real N-best lists, prints a WER table, writes a report
# make test   the whole test suite
# make docs   the pages of docs/ as a site in runs/docs/site; a broken link is an error
# All install what they need into .venv first.
# make hashes writes requirements.txt anew after a change of constraints.txt

PYTHON ?= python3
BIN := .venv/bin
DLM := $(BIN)/dlm
DEMO := runs/demo
DATA := data/demo
TRAIN := data.vocab=$(DEMO)/vocab data.text=$(DATA)/train.txt.gz data.valid_text.dev=$(DATA)/dev.txt

.PHONY: demo test lint install hashes docs
.DELETE_ON_ERROR:

PIP := $(BIN)/pip install --quiet --disable-pip-version-check

install: .venv/installed

# Everything but torch is checked against the hashes of requirements.txt. torch can not be: its builds for CPU and for
# CUDA share a version but no hash, and only the latter needs a dozen packages of NVIDIA. It is pinned by version.
.venv/installed: setup.cfg constraints.txt requirements.txt
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes --no-deps --requirement requirements.txt
	$(PIP) --constraint constraints.txt torch
	$(PIP) --no-deps --editable .
	touch $@

# After a change of constraints.txt: the hashes of all files of each version, from the package index.
hashes:
	$(PYTHON) -m venv .venv/uv && .venv/uv/bin/pip install --quiet uv
	.venv/uv/bin/uv pip compile --quiet --no-config --no-deps --generate-hashes --no-emit-package torch --no-header \
	  --no-annotate constraints.txt --output-file requirements.txt

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy recipe/diffusion_lm recipe/returnn_bridge rescore

# An environment of its own: it takes half a minute to install, and nothing else needs it.
.venv/docs/installed: docs/requirements.txt
	$(PYTHON) -m venv .venv/docs
	.venv/docs/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement docs/requirements.txt
	touch $@

docs: .venv/docs/installed
	rm -rf runs/docs && mkdir -p runs/docs/pages
	tar cf - README.md CHANGELOG.md docs/*.md docs/*.svg data/demo/README.md benchmarks/README.md | tar xf - -C runs/docs/pages
	NO_MKDOCS_2_WARNING=1 .venv/docs/bin/mkdocs build
	@echo "runs/docs/site/index.html"

$(DEMO)/vocab/spm.model: | install
	$(DLM) vocab $(DATA)/train.txt.gz --size 1000 --out $(DEMO)/vocab

$(DEMO)/4gram.arpa: | install
	$(DLM) ngram $(DATA)/train.txt.gz --order 4 --out $@

$(DEMO)/ar/model/config.json: $(DEMO)/vocab/spm.model
	$(DLM) train --preset demo_ar --out $(DEMO)/ar $(TRAIN)

$(DEMO)/masked/model/config.json: $(DEMO)/ar/model/config.json
	$(DLM) train --preset demo_masked --out $(DEMO)/masked $(TRAIN) init_from=$(DEMO)/ar/model

demo: $(DEMO)/4gram.arpa $(DEMO)/ar/model/config.json $(DEMO)/masked/model/config.json
	$(DLM) rescore --title "Demo: 200 utterances, up to 60 hypotheses each" --out $(DEMO)/rescore \
	  --tune am=$(DATA)/dev.nbest.py.gz --tune bigram=$(DATA)/dev.bigram.py.gz --tune-refs $(DATA)/dev.ref.py.gz \
	  --test am=$(DATA)/test.nbest.py.gz --test bigram=$(DATA)/test.bigram.py.gz --test-refs $(DATA)/test.ref.py.gz \
	  --lm 4gram=$(DEMO)/4gram.arpa --lm ar=$(DEMO)/ar/model --lm masked=$(DEMO)/masked/model@strided:6 \
	  --lm long=$(DATA)/masked-long@strided:6 \
	  --precision bf16 --baseline "first pass" \
	  --row "acoustic only=am:1" --row "first pass=am:1,bigram:0.7,words:1" \
	  --row "+ 4-gram=am:1,4gram,words" --row "+ AR LM=am:1,ar,words" --row "+ masked diffusion LM=am:1,masked,words" \
	  --row "+ AR and diffusion=am:1,ar,masked,words" --row "+ 4-gram and diffusion=am:1,4gram,masked,words" \
	  --row "+ masked diffusion LM, shipped=am:1,long,words" --row "+ AR and diffusion, shipped=am:1,ar,long,words" \
	  --row "+ 4-gram and diffusion, shipped=am:1,4gram,long,words"
