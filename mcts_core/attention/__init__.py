"""Attention backends over the paged KV cache, behind one interface."""

from transformers import AttentionInterface

from mcts_core.attention.cpu import paged_attention

NAME = "tree_paged"
"""The name under which transformers' model classes find our attention."""


def register() -> None:
    """Makes our attention known to transformers; doing it again changes nothing."""
    AttentionInterface.register(NAME, paged_attention)
