"""Attention backends over the paged KV cache, behind one interface."""

from mcts_core.attention.backend import CPU, AttentionRefused, Backend, choose

__all__ = ["CPU", "AttentionRefused", "Backend", "choose"]
