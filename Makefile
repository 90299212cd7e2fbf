# The two commands that matter. Both make their own private environment; nothing is installed outside this folder.
PYTHON ?= python3
TOX := .bootstrap/bin/tox

.PHONY: demo test clean

# Score vital-nano on all 11 tasks in four modes and print the leaderboard (same as `tox -e demo`).
demo: $(TOX)
	$(TOX) -e demo

# Lint, types and all tests (same as `tox`).
test: $(TOX)
	$(TOX)

$(TOX):
	$(PYTHON) -m venv .bootstrap
	.bootstrap/bin/python -m pip install --quiet --disable-pip-version-check "tox>=4.23"

clean:
	rm -rf .bootstrap .tox
