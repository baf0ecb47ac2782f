"""What a study can do and by what; light, for --help must not wait."""

from __future__ import annotations

METHODS = {
    "zero-shot": "the potentials of `potentials.starts` as they are",
    "fine-tuned": "the same, trained further on the DFT frames",
    "scratch": "their architectures, trained on the DFT frames from random weights",
    "readout": "a linear fit to formation energies, on what the potentials as they are make of "
    "the structures that they relax",
    "energy-only": "a network trained on formation energies of structures that the fine-tuned "
    "potential relaxed",
    "energy-only-dft": "the same on structures that DFT relaxed, which nobody has of a new one",
    "ce-ols": "cluster expansion, least squares",
    "ce-ridge": "cluster expansion, ridge regression",
    "ce-lasso": "cluster expansion, LASSO",
    "ce-ardr": "cluster expansion, automatic relevance determination",
    "ce-all": "cluster expansion fitted to the held-out configurations too, as is often printed; "
    "not a prediction",
    "fractions": "a small network on the shares of the elements",
    "roost": "a network of messages between the elements of the composition",
    "ideal": "zero: an ideal mixture of the end members",
}
"""What predicts formation energies."""

STEPS = {
    "cells": "configurations that DFT frames hold, and those that are predicted",
    "compare": "every method on the same held-out configurations",
    "curve": "the same with fewer configurations to learn from",
    "predict": "all configurations by methods that have learnt from everything",
    "monte-carlo": "order against temperature",
}
"""Steps of a study, in order; the report is written after any of them."""

NOT_PREDICTIONS = ("ce-all", "energy-only-dft")
"""Methods that know of the held-out configurations what nobody knows of a new one."""
