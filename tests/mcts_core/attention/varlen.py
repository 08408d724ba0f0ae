"""What flash-attn's documentation says of `flash_attn_varlen_func`, computed as it reads; and what
its source demands of the arguments."""

from __future__ import annotations

import torch


def attend_by_definition(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    softmax_scale: float,
    causal: bool,
    window_size: tuple[int, int],
    softcap: float,
    block_table: torch.Tensor,
) -> torch.Tensor:
    """Implements `attention.flash.Kernel`, in any format and for blocks of any size."""
    heads = q.shape[1]
    blocks, size, kv_heads, _ = k.shape
    left, right = window_size
    assert {q.stride(-1), k.stride(-1), v.stride(-1)} == {1}
    assert {cu_seqlens_q.dtype, cu_seqlens_k.dtype, block_table.dtype} == {torch.int32}
    assert cu_seqlens_q.is_contiguous()
    assert cu_seqlens_k.is_contiguous()
    assert block_table.stride(-1) == 1
    assert v.shape == k.shape
    assert len(cu_seqlens_q) == len(cu_seqlens_k) == len(block_table) + 1
    assert int(cu_seqlens_q[0]) == int(cu_seqlens_k[0]) == 0
    assert int(cu_seqlens_q[-1]) == len(q)
    assert int(block_table.min()) >= 0
    assert int(block_table.max()) < blocks
    split = max_seqlen_q == 1 and heads > kv_heads and left < 0 and right < 0
    assert not split, "the number of splits would follow from the batch"
    out = torch.empty_like(q)
    for number, table in enumerate(block_table):
        first, end = cu_seqlens_q[number : number + 2].tolist()
        begun, ended = cu_seqlens_k[number : number + 2].tolist()
        length, queries = ended - begun, end - first
        assert 0 < queries <= max_seqlen_q
        assert 0 < length <= max_seqlen_k
        assert length <= block_table.shape[1] * size
        keys, values = (
            each[table.long()].flatten(0, 1)[:length].repeat_interleave(heads // kv_heads, 1)
            for each in (k, v)
        )
        scores = torch.einsum("qhd,khd->hqk", q[first:end].double(), keys.double()) * softmax_scale
        if softcap:
            scores = torch.tanh(scores / softcap) * softcap
        place = torch.arange(queries, device=q.device)[:, None] + length - queries
        key = torch.arange(length, device=q.device)
        visible = key <= place + (0 if causal else length if right < 0 else right)
        if left >= 0:
            visible &= key >= place - left
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        out[first:end] = torch.einsum("hqk,khd->qhd", weights, values.double()).to(q.dtype)
    return out
