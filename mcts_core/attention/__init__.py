"""Attention backends over the paged KV cache, behind one interface."""

from mcts_core.attention.backend import CPU, Backend, choose
from mcts_core.attention.interface import AttentionRefused

__all__ = ["CPU", "AttentionRefused", "Backend", "choose"]
