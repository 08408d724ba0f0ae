"""Token log-probabilities in OpenAI's two forms. They are always the policy's own."""

from __future__ import annotations

from collections.abc import Sequence

from mcts_core.query import Tokenizer
from mcts_core.search.work import TokenLogprob
from server.responses import ChatLogprobs, ChatTokenLogprob, CompletionLogprobs, TopLogprob


def completion_logprobs(
    tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob], offset: int = 0
) -> CompletionLogprobs:
    """Parallel lists. `offset` is where the first token's text begins within the choice's text."""
    texts = [tokenizer.token_text(each.token) for each in logprobs]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return CompletionLogprobs(
        tokens=texts,
        token_logprobs=[each.logprob for each in logprobs],
        top_logprobs=[_alternatives(tokenizer, each) for each in logprobs],
        text_offset=offsets,
    )


def _alternatives(tokenizer: Tokenizer, logprob: TokenLogprob) -> dict[str, float]:
    """The most likely tokens and, as OpenAI has it, the sampled one even if it is none of them.

    Where two ids have the same text, the likelier is named.
    """
    named: dict[str, float] = {}
    for token, value in (*logprob.top, (logprob.token, logprob.logprob)):
        named.setdefault(tokenizer.token_text(token), value)
    return named


def chat_logprobs(tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob]) -> ChatLogprobs:
    """One entry for each token, with the UTF-8 bytes of its text."""
    content = []
    for each in logprobs:
        sampled = _top(tokenizer, each.token, each.logprob)
        content.append(
            ChatTokenLogprob(
                token=sampled.token,
                logprob=sampled.logprob,
                bytes=sampled.bytes,
                top_logprobs=[_top(tokenizer, token, value) for token, value in each.top],
            )
        )
    return ChatLogprobs(content=content, refusal=None)


def _top(tokenizer: Tokenizer, token: int, logprob: float) -> TopLogprob:
    text = tokenizer.token_text(token)
    return TopLogprob(token=text, logprob=logprob, bytes=list(text.encode("utf-8", "replace")))
