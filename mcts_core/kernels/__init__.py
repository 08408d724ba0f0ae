"""Compiled kernels for CPUs; built with the package where there is a C++ compiler for them."""

from mcts_core.kernels.library import (
    DRAW_SIZE,
    DRAWN,
    WANTED,
    Layer,
    Library,
    Model,
    Step,
    best_library,
    libraries,
)

__all__ = [
    "DRAWN",
    "DRAW_SIZE",
    "WANTED",
    "Layer",
    "Library",
    "Model",
    "Step",
    "best_library",
    "libraries",
]
