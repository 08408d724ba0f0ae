"""What a search visits: trees over training puzzles, for the critics to learn from.

Drawing without replacement digs options out of the policy's tail that its samples hardly ever
show, and a search goes wherever its critics are wrong. So critics learn from the states that a
search with them visits (dataset aggregation: Ross, Gordon and Bagnell, 2011), exactly labelled.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from demo.puzzle import Puzzle
from demo.sampler import sample
from demo.tokenizer import EOS_ID
from demo.traces import Trace, trace_of
from mcts_core.query import Query, Reply
from mcts_core.search.search import TreeNode
from mcts_core.search.work import Sampling
from mcts_core.served import ServedModel, load

_IN_FLIGHT = 32
_MAX_TOKENS = 120
_CUTS = (0.0, 0.02, 0.05)
"""`min_p` of the searches, in turn: with less of the policy's tail cut off, stranger states."""


@dataclass(frozen=True)
class Leaf:
    """Of a tree: the text that leads there, how much of it an earlier leaf shares, and
    whether it is a terminal."""

    puzzle: Puzzle
    text: str
    shared: str
    finished: bool


def searched_traces(
    folder: Path,
    policy: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    puzzles: Sequence[Puzzle],
    seed: int,
    temperature: float,
) -> list[Trace]:
    """Search every puzzle by the preset of the served model in `folder`; a trace for each leaf.

    Unfinished leaves are completed by one sample of the policy at `temperature`, so that `won` is
    a Monte-Carlo return. Each position of a tree is read in one trace only."""
    model = load(folder, name="demo", threads=1)
    try:
        leaves = asyncio.run(_search(model, puzzles, seed))
    finally:
        model.close()
    prompts = tokenizer([leaf.puzzle.prompt for leaf in leaves])["input_ids"]
    texts = tokenizer([leaf.text for leaf in leaves])["input_ids"]
    open_ = [at for at, leaf in enumerate(leaves) if not leaf.finished]
    generator = torch.Generator().manual_seed(seed)
    prefixes = [[*prompts[at], *texts[at]] for at in open_]
    made: list[list[int]] = [[EOS_ID] for _ in leaves]
    for at, rest in zip(open_, sample(policy, prefixes, generator, temperature), strict=True):
        made[at] = rest
    found: list[Trace] = []
    for leaf, prompt, text, rest in zip(leaves, prompts, texts, made, strict=True):
        trace = trace_of(leaf.puzzle, prompt, [*text, *rest], tokenizer)
        shared = len(tokenizer(leaf.shared)["input_ids"]) if leaf.shared else 0
        found.append(trace.after(len(prompt) + shared) if leaf.shared else trace)
    return found


async def _search(model: ServedModel, puzzles: Sequence[Puzzle], seed: int) -> list[Leaf]:
    room = asyncio.Semaphore(_IN_FLIGHT)

    async def tree(at: int, puzzle: Puzzle) -> list[Leaf]:
        search = model.preset.model_copy(
            update={"min_p": _CUTS[at % len(_CUTS)], "include": ("tree",)}
        )
        prompt = tuple(model.tokenizer.encode(puzzle.prompt))
        query = Query(prompt, search, Sampling(seed=seed + at), _MAX_TOKENS)
        async with room:
            events = [event async for event in model.search(query)]
        reply = events[-1]
        assert isinstance(reply, Reply)
        return list(_leaves(puzzle, reply.result.tree or ()))

    groups = await asyncio.gather(*(tree(at, puzzle) for at, puzzle in enumerate(puzzles)))
    return [leaf for group in groups for leaf in group]


def _leaves(puzzle: Puzzle, tree: Sequence[TreeNode]) -> Iterator[Leaf]:
    parents = {node.parent for node in tree}
    seen = set[int]()
    for leaf in tree:
        if leaf.id in parents or leaf.parent is None:
            continue
        way, node = [leaf], leaf
        while node.parent:  # the root's id is 0
            node = tree[node.parent]
            way.append(node)
        way.reverse()
        shared = "".join(node.text for node in way if node.id in seen)
        seen.update(node.id for node in way)
        yield Leaf(puzzle, "".join(node.text for node in way), shared, leaf.end == "stop")
