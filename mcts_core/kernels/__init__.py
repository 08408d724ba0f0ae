"""Compiled kernels for CPUs; built with the package where there is a C++ compiler for them."""

from mcts_core.kernels.library import (
    Draw,
    Layer,
    Library,
    Model,
    Step,
    best_library,
    libraries,
)

__all__ = ["Draw", "Layer", "Library", "Model", "Step", "best_library", "libraries"]
