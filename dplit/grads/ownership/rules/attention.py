"""Attention kernels: each head of each example attends to its own keys and values."""

from __future__ import annotations

from torch import Tensor

from dplit.grads.ownership.call import Call
from dplit.grads.ownership.owner_map import Owned, joined_over
from dplit.grads.ownership.registry import owner_rule


@owner_rule(
    *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention", "_flash_attention_forward"),
    *("_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention", "_efficient_attention_forward"),
    "_scaled_dot_product_fused_attention_overrideable",
)
def attention(call: Call) -> list[Owned]:
    """`query (n, heads, t, d)`, keys and values `(n, heads, s, d)`, a mask that broadcasts to `(n, heads, t, s)`."""
    query, key, value = call["query"], call["key"], call["value"]
    mask = call.get("attn_mask", "attn_bias")
    if call.refuse_order(query, key, value, mask) or query.dim() != 4:
        return [call.all_mixed(r, "records decide the order of what is attended to") for r in call.results]
    owners = [joined_over(call.owner(v), [-2, -1] if v is not query else [-1], call.mixed) for v in (query, key, value)]
    owners = [owners[0], *(_heads(call, o, query.shape[1]) for o in owners[1:])]
    if mask is not None:
        owners.append(joined_over(call.owner(mask), [-1], call.mixed))
    row = call.together(*owners)
    return [_fitted(call, row, result) for result in call.results]


def _heads(call: Call, owner: Tensor, heads: int) -> Tensor:
    """Return the owners of keys for each head of the queries, where several share a key."""
    return owner if owner.shape[1] in (1, heads) else joined_over(owner, [1], call.mixed)


def _fitted(call: Call, row: Tensor, result: Tensor) -> Owned:
    """Return the map of the output, of the log-sums of a row, or of a state that tells nothing of the data."""
    if result.dim() == 4:
        return Owned(row.expand(result.shape))
    if result.dim() == 3:
        return Owned(row[..., 0].expand(result.shape))
    return Owned(call.owner(None).expand(result.shape))


@owner_rule(
    *("_scaled_dot_product_flash_attention_for_cpu_backward", "_scaled_dot_product_efficient_attention_backward"),
    *("_scaled_dot_product_flash_attention_backward", "_scaled_dot_product_cudnn_attention_backward"),
)
def attention_backward(call: Call) -> list[Owned]:
    """Gradients of query, key and value: of the same example, whatever the head."""
    given = [v for name in ("grad_out", "grad_out_", "query", "key", "value") if (v := call.get(name)) is not None]
    if call.refuse_order(*given):
        return [call.all_mixed(r) for r in call.results]
    mask = call.get("attn_mask", "attn_bias")
    owners = [joined_over(call.owner(v), range(1, v.dim()), call.mixed) for v in given]
    if mask is not None:
        owners.append(joined_over(call.owner(mask), range(max(0, mask.dim() - 3), mask.dim()), call.mixed))
    whole = call.together(*owners)
    return [Owned(whole.expand(r.shape)) for r in call.results]
