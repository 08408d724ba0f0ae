"""Nodes as the plain data that leaves the search."""

from __future__ import annotations

from operator import attrgetter

from mcts_core.search.search import RootOption, Trajectory, TreeNode
from mcts_core.search.tree import Node, Tree


def trajectory(node: Node) -> Trajectory:
    """What leads from the root to `node`."""
    path = node.path()
    return Trajectory(
        tokens=tuple(token for step in path for token in step.tokens),
        logprobs=tuple(logprob for step in path for logprob in step.logprobs),
        text=node.completion,
        finish_reason="stop" if node.end == "stop" else "length",
        score=node.score,
        scores=dict(node.scores),
    )


def root_option(node: Node) -> RootOption:
    """A child of the root, for the statistics of a response."""
    return RootOption(node.text, node.visits, node.value, node.prior, dict(node.scores))


def tree_nodes(tree: Tree) -> tuple[TreeNode, ...]:
    """Every node that was ever made, the pruned included, by their ids."""
    made = sorted([*tree.walk(), *tree.pruned], key=attrgetter("id"))
    return tuple(map(_tree_node, made))


def _tree_node(node: Node) -> TreeNode:
    return TreeNode(
        id=node.id,
        parent=None if node.parent is None else node.parent.id,
        depth=node.depth,
        text=node.text,
        tokens=len(node.tokens),
        visits=node.visits,
        value=node.value if node.visits else None,
        prior=node.prior,
        certainty=node.certainty,
        score=node.score,
        scores=dict(node.scores),
        end=node.end,
        origin=node.origin,
        merged=node.merged,
        solved=node.solved,
        pruned=node.pruned,
        time_ms=round(node.seconds * 1000, 3),
    )
