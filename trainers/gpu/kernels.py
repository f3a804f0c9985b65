"""Triton kernels of the GPU pass: what a row of tokens needs between two matrix products, in one launch each.

With a few hundred tokens a step a kernel's launch and its trip through memory are what it costs, so each of these does
what plain tensor operations would do in four to nine. `trainers.gpu.ops.PlainOps` computes the same so and is
the reference in tests, which run these kernels in Triton's interpreter where there is no GPU.

Shapes: R segments of L tokens, N = R L tokens in all, D model width, H query and K key heads of width d, I width of the
gated layer, T scored positions, V vocabulary. Tensors are contiguous. No kernel adds atomically: equal input gives
equal bytes.
"""

# mypy: disable-error-code="no-untyped-def"
# Their parameters are pointers and numbers on the device, for which there are no types.

from __future__ import annotations

import triton
import triton.language as tl

# -- norms -----------------------------------------------------------------------------------------------------------


@triton.jit
def norm(x, onto, total, weight, normed, scale, width, eps, ADDS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    here = row * width + at
    own = tl.load(x + here, mask=inside, other=0.0)
    if ADDS:
        own = (own.to(tl.float32) + tl.load(onto + here, mask=inside, other=0.0).to(tl.float32)).to(own.dtype)
        tl.store(total + here, own, mask=inside)
    wide = own.to(tl.float32)
    factor = 1.0 / tl.sqrt(tl.sum(wide * wide, 0) / width + eps)
    rounded = (wide * factor).to(own.dtype)
    tl.store(normed + here, tl.load(weight + at, mask=inside, other=0.0) * rounded, mask=inside)
    tl.store(scale + row, factor)


@triton.jit
def norm_backward(grad, x, scale, weight, residual, out, width, ADDS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    here = row * width + at
    factor = tl.load(scale + row)
    own = tl.load(grad + here, mask=inside, other=0.0)
    wide = (own * tl.load(weight + at, mask=inside, other=0.0)).to(tl.float32)
    normed = tl.load(x + here, mask=inside, other=0.0).to(tl.float32) * factor
    along = tl.sum(wide * normed, 0) / width
    slope = (wide - normed * along) * factor
    if ADDS:
        slope += tl.load(residual + here, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + here, slope.to(own.dtype), mask=inside)


# -- rotary embedding ------------------------------------------------------------------------------------------------


@triton.jit
def rotate(qkv, cos, sin, positions, stride, heads, half, HEADS: tl.constexpr, HALF: tl.constexpr):
    """Turn the first `heads` heads of each token in place."""
    token = tl.program_id(0).to(tl.int64)
    head, at = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    inside = (head < heads) & (at < half)
    place = tl.load(positions + token).to(tl.int64) * half + at
    c = tl.load(cos + place, mask=at < half, other=0.0).to(tl.float32)
    s = tl.load(sin + place, mask=at < half, other=0.0).to(tl.float32)
    here = qkv + token * stride + head * 2 * half + at
    first = tl.load(here, mask=inside, other=0.0)
    second = tl.load(here + half, mask=inside, other=0.0)
    kind = first.dtype
    first, second = first.to(tl.float32), second.to(tl.float32)
    tl.store(here, (first * c - second * s).to(kind), mask=inside)
    tl.store(here + half, (second * c + first * s).to(kind), mask=inside)


@triton.jit
def gather_heads(
    to_q, to_k, to_v, out, cos, sin, positions, heads, key_heads, half,
    GROUP: tl.constexpr, HEADS: tl.constexpr, KEYS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Gradients of one token's queries, and of its keys and values by query head -> of its row before the rotation."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, HALF)[None, :]
    place = tl.load(positions + token).to(tl.int64) * half + at
    c = tl.load(cos + place, mask=at < half, other=0.0).to(tl.float32)
    s = tl.load(sin + place, mask=at < half, other=0.0).to(tl.float32)
    kind = out.dtype.element_ty
    row, width = token * heads * 2 * half, 2 * half
    to = out + token * (heads + 2 * key_heads) * 2 * half

    head = tl.arange(0, HEADS)[:, None]
    inside = (head < heads) & (at < half)
    first = tl.load(to_q + row + head * width + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(to_q + row + head * width + half + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(to + head * width + at, (first * c + second * s).to(kind), mask=inside)
    tl.store(to + head * width + half + at, (second * c - first * s).to(kind), mask=inside)

    key = tl.arange(0, KEYS)[:, None]
    inside = (key < key_heads) & (at < half)
    first_k = tl.zeros((KEYS, HALF), tl.float32)
    second_k = tl.zeros((KEYS, HALF), tl.float32)
    first_v = tl.zeros((KEYS, HALF), tl.float32)
    second_v = tl.zeros((KEYS, HALF), tl.float32)
    for member in tl.static_range(GROUP):
        here = row + (key * GROUP + member) * width + at
        first_k += tl.load(to_k + here, mask=inside, other=0.0)
        second_k += tl.load(to_k + here + half, mask=inside, other=0.0)
        first_v += tl.load(to_v + here, mask=inside, other=0.0)
        second_v += tl.load(to_v + here + half, mask=inside, other=0.0)
    to_key = to + (heads + key) * width + at
    tl.store(to_key, (first_k * c + second_k * s).to(kind), mask=inside)
    tl.store(to_key + half, (second_k * c - first_k * s).to(kind), mask=inside)
    to_value = to + (heads + key_heads + key) * width + at
    tl.store(to_value, first_v.to(kind), mask=inside)
    tl.store(to_value + half, second_v.to(kind), mask=inside)


# -- attention -------------------------------------------------------------------------------------------------------
#
# A token sees, at and before itself, its segment's shared prefix and its own row: keys j <= i with j < prefix or
# j >= start[i]. Blocks of keys between the prefix and the first row of a block of queries are never loaded.


@triton.jit
def heads_of(base, rows, inside, stride, column, WIDTH: tl.constexpr, WIDE: tl.constexpr):
    """(BLOCK, WIDE) of some tokens' head that begins at `column`; zeros outside."""
    at = tl.arange(0, WIDE)
    return tl.load(
        base + rows[:, None] * stride + column + at[None, :],
        mask=inside[:, None] & (at < WIDTH)[None, :],
        other=0.0,
    )


@triton.jit
def seen(q_at, k_at, begin, shared, length):
    """(queries, keys): whether each query sees each key."""
    before = k_at[None, :] <= q_at[:, None]
    own = (k_at[None, :] < shared) | (k_at[None, :] >= begin[:, None])
    return before & own & (q_at < length)[:, None]


@triton.jit
def attend(
    qkv, out, lse, start, prefix, length, tokens, stride, scale,
    GROUP: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    block, head, segment = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    heads: tl.constexpr = GROUP * KEYS
    first = segment.to(tl.int64) * length
    q_at = block * BLOCK + tl.arange(0, BLOCK)
    q_in, rows = q_at < length, first + q_at
    q = heads_of(qkv, rows, q_in, stride, head * WIDTH, WIDTH, WIDE)
    begin = tl.load(start + rows, mask=q_in, other=0)
    shared = tl.load(prefix + segment)
    end = tl.minimum((block + 1) * BLOCK, length)
    prefix_blocks = tl.cdiv(tl.minimum(shared, end), BLOCK)
    own_block = tl.maximum(tl.load(start + first + block * BLOCK) // BLOCK, prefix_blocks)
    highest = tl.full((BLOCK,), -1e30, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    mixed = tl.zeros((BLOCK, WIDE), tl.float32)
    skipped = own_block - prefix_blocks
    for number in range(tl.cdiv(end, BLOCK) - skipped):
        k_block = tl.where(number < prefix_blocks, number, number + skipped)
        k_at = k_block * BLOCK + tl.arange(0, BLOCK)
        k_in = k_at < length
        k = heads_of(qkv, first + k_at, k_in, stride, (heads + head // GROUP) * WIDTH, WIDTH, WIDE)
        v = heads_of(qkv, first + k_at, k_in, stride, (heads + KEYS + head // GROUP) * WIDTH, WIDTH, WIDE)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(seen(q_at, k_at, begin, shared, length), scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shares, rescale = tl.exp(scores - higher[:, None]), tl.exp(highest - higher)
        total = total * rescale + tl.sum(shares, 1)
        mixed = mixed * rescale[:, None] + tl.dot(shares.to(v.dtype), v, input_precision="ieee")
        highest = higher
    mixed = mixed / total[:, None]
    at = tl.arange(0, WIDE)
    to = out + rows[:, None] * heads * WIDTH + head * WIDTH + at[None, :]
    tl.store(to, mixed.to(q.dtype), mask=q_in[:, None] & (at < WIDTH)[None, :])
    tl.store(lse + head.to(tl.int64) * tokens + rows, highest + tl.log(total), mask=q_in)


@triton.jit
def attend_to_q(
    qkv, grad, out, lse, delta, to_q, start, prefix, length, tokens, stride, scale,
    GROUP: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The queries' gradient, and of each query the sum of gradient times output, which `attend_to_kv` needs too."""
    block, head, segment = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    heads: tl.constexpr = GROUP * KEYS
    first = segment.to(tl.int64) * length
    q_at = block * BLOCK + tl.arange(0, BLOCK)
    q_in, rows = q_at < length, first + q_at
    q = heads_of(qkv, rows, q_in, stride, head * WIDTH, WIDTH, WIDE)
    own = heads_of(grad, rows, q_in, heads * WIDTH, head * WIDTH, WIDTH, WIDE)
    result = heads_of(out, rows, q_in, heads * WIDTH, head * WIDTH, WIDTH, WIDE)
    along = tl.sum(own.to(tl.float32) * result.to(tl.float32), 1)
    here = head.to(tl.int64) * tokens + rows
    tl.store(delta + here, along, mask=q_in)
    sums = tl.load(lse + here, mask=q_in, other=0.0)
    begin = tl.load(start + rows, mask=q_in, other=0)
    shared = tl.load(prefix + segment)
    end = tl.minimum((block + 1) * BLOCK, length)
    prefix_blocks = tl.cdiv(tl.minimum(shared, end), BLOCK)
    own_block = tl.maximum(tl.load(start + first + block * BLOCK) // BLOCK, prefix_blocks)
    slope = tl.zeros((BLOCK, WIDE), tl.float32)
    skipped = own_block - prefix_blocks
    for number in range(tl.cdiv(end, BLOCK) - skipped):
        k_block = tl.where(number < prefix_blocks, number, number + skipped)
        k_at = k_block * BLOCK + tl.arange(0, BLOCK)
        k_in = k_at < length
        k = heads_of(qkv, first + k_at, k_in, stride, (heads + head // GROUP) * WIDTH, WIDTH, WIDE)
        v = heads_of(qkv, first + k_at, k_in, stride, (heads + KEYS + head // GROUP) * WIDTH, WIDTH, WIDE)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        shares = tl.exp(tl.where(seen(q_at, k_at, begin, shared, length), scores - sums[:, None], float("-inf")))
        on_shares = tl.dot(own, tl.trans(v), input_precision="ieee")
        on_scores = shares * (on_shares - along[:, None]) * scale
        slope += tl.dot(on_scores.to(k.dtype), k, input_precision="ieee")
    at = tl.arange(0, WIDE)
    to = to_q + rows[:, None] * heads * WIDTH + head * WIDTH + at[None, :]
    tl.store(to, slope.to(q.dtype), mask=q_in[:, None] & (at < WIDTH)[None, :])


@triton.jit
def attend_to_kv(
    qkv, grad, lse, delta, to_k, to_v, start, stop, prefix, length, tokens, stride, scale,
    GROUP: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The gradient of keys and values from one query head each; `gather_heads` adds up the heads that share a key."""
    block, head, segment = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    heads: tl.constexpr = GROUP * KEYS
    first = segment.to(tl.int64) * length
    k_at = block * BLOCK + tl.arange(0, BLOCK)
    k_in, rows = k_at < length, first + k_at
    k = heads_of(qkv, rows, k_in, stride, (heads + head // GROUP) * WIDTH, WIDTH, WIDE)
    v = heads_of(qkv, rows, k_in, stride, (heads + KEYS + head // GROUP) * WIDTH, WIDTH, WIDE)
    shared = tl.load(prefix + segment)
    last = tl.minimum((block + 1) * BLOCK, length) - 1
    # A key of the prefix is seen to the segment's end, one of a row to the row's: `stop` rises within what follows.
    end = tl.maximum(tl.load(stop + first + block * BLOCK), tl.load(stop + first + last))
    on_k = tl.zeros((BLOCK, WIDE), tl.float32)
    on_v = tl.zeros((BLOCK, WIDE), tl.float32)
    for q_block in range(block, tl.cdiv(end, BLOCK)):
        q_at = q_block * BLOCK + tl.arange(0, BLOCK)
        q_in, q_rows = q_at < length, first + q_at
        q = heads_of(qkv, q_rows, q_in, stride, head * WIDTH, WIDTH, WIDE)
        own = heads_of(grad, q_rows, q_in, heads * WIDTH, head * WIDTH, WIDTH, WIDE)
        here = head.to(tl.int64) * tokens + q_rows
        sums = tl.load(lse + here, mask=q_in, other=0.0)
        along = tl.load(delta + here, mask=q_in, other=0.0)
        begin = tl.load(start + q_rows, mask=q_in, other=0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        shares = tl.exp(tl.where(seen(q_at, k_at, begin, shared, length), scores - sums[:, None], float("-inf")))
        on_v += tl.dot(tl.trans(shares.to(own.dtype)), own, input_precision="ieee")
        on_shares = tl.dot(own, tl.trans(v), input_precision="ieee")
        on_scores = shares * (on_shares - along[:, None]) * scale
        on_k += tl.dot(tl.trans(on_scores.to(q.dtype)), q, input_precision="ieee")
    at = tl.arange(0, WIDE)
    to = rows[:, None] * heads * WIDTH + head * WIDTH + at[None, :]
    inside = k_in[:, None] & (at < WIDTH)[None, :]
    tl.store(to_k + to, on_k, mask=inside)
    tl.store(to_v + to, on_v, mask=inside)


# -- gated layer -----------------------------------------------------------------------------------------------------


@triton.jit
def swiglu(
    gate_up, low, high, out, length, inner, rank, high_stride, scale,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """Add the adapters of gate and up, low (R, L, 2 rank) times the two blocks of high (R, 2 I, 2 rank), then gate."""
    segment = tl.program_id(2).to(tl.int64)
    row, column = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    at = tl.arange(0, RANK)
    in_rows, in_columns, in_rank = row < length, column < inner, at < rank
    rows = segment * length + row
    from_low = low + rows[:, None] * 2 * rank + at[None, :]
    low_mask = in_rows[:, None] & in_rank[None, :]
    from_high = high + segment * high_stride + column[:, None] * 2 * rank + at[None, :]
    high_mask = in_columns[:, None] & in_rank[None, :]
    here, inside = rows[:, None] * 2 * inner + column[None, :], in_rows[:, None] & in_columns[None, :]
    low_gate = tl.load(from_low, mask=low_mask, other=0.0)
    high_gate = tl.load(from_high, mask=high_mask, other=0.0)
    gate = tl.load(gate_up + here, mask=inside, other=0.0)
    kind = gate.dtype
    gate = (gate.to(tl.float32) + tl.dot(low_gate, tl.trans(high_gate), input_precision="ieee") * scale).to(kind)
    tl.store(gate_up + here, gate, mask=inside)
    low_up = tl.load(from_low + rank, mask=low_mask, other=0.0)
    high_up = tl.load(from_high + inner * 2 * rank + rank, mask=high_mask, other=0.0)
    up = tl.load(gate_up + here + inner, mask=inside, other=0.0)
    up = (up.to(tl.float32) + tl.dot(low_up, tl.trans(high_up), input_precision="ieee") * scale).to(kind)
    tl.store(gate_up + here + inner, up, mask=inside)
    wide = gate.to(tl.float32)
    active = (wide / (1.0 + tl.exp(-wide))).to(kind)
    tl.store(out + rows[:, None] * inner + column[None, :], active * up, mask=inside)


@triton.jit
def swiglu_backward(
    grad, low, high, gate_up, out, length, inner, rank, high_stride, scale,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """Add the adapter of down, low (R, L, rank) times high (R, rank, I), to the gradient, then through the gate."""
    segment = tl.program_id(2).to(tl.int64)
    row, column = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    at = tl.arange(0, RANK)
    in_rows, in_columns, in_rank = row < length, column < inner, at < rank
    rows = segment * length + row
    left = tl.load(low + rows[:, None] * rank + at[None, :], mask=in_rows[:, None] & in_rank[None, :], other=0.0)
    right = tl.load(
        high + segment * high_stride + at[:, None] * inner + column[None, :],
        mask=in_rank[:, None] & in_columns[None, :],
        other=0.0,
    )
    inside = in_rows[:, None] & in_columns[None, :]
    own = tl.load(grad + rows[:, None] * inner + column[None, :], mask=inside, other=0.0)
    kind = own.dtype
    own = own.to(tl.float32) + tl.dot(left, right, input_precision="ieee") * scale
    here = rows[:, None] * 2 * inner + column[None, :]
    gate = tl.load(gate_up + here, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + here + inner, mask=inside, other=0.0).to(tl.float32)
    sigmoid = 1.0 / (1.0 + tl.exp(-gate))
    to_gate = own * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    tl.store(out + here, to_gate.to(kind), mask=inside)
    tl.store(out + here + inner, (own * gate * sigmoid).to(kind), mask=inside)


# -- loss ------------------------------------------------------------------------------------------------------------


@triton.jit
def token_losses(logits, targets, losses, lse, vocabulary, BLOCK: tl.constexpr):
    """-log softmax(logits)[target] of one position, with a running maximum and sum over blocks of the vocabulary."""
    row = tl.program_id(0)
    start = logits + row.to(tl.int64) * vocabulary
    highest = tl.full((BLOCK,), -1e30, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for block in range(0, vocabulary, BLOCK):
        at = block + tl.arange(0, BLOCK)
        own = tl.load(start + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(highest, own)
        total = total * tl.exp(highest - higher) + tl.exp(own - higher)
        highest = higher
    top = tl.max(highest, 0)
    whole = top + tl.log(tl.sum(total * tl.exp(highest - top), 0))
    tl.store(lse + row, whole)
    tl.store(losses + row, whole - tl.load(start + tl.load(targets + row)).to(tl.float32))


@triton.jit
def token_slopes(logits, targets, lse, coefficients, vocabulary, BLOCK: tl.constexpr):
    """The logits of one position become the gradient of its loss times its coefficient, in place."""
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = logits + row.to(tl.int64) * vocabulary + at
    own = tl.load(here, mask=at < vocabulary, other=float("-inf"))
    shares = tl.exp(own.to(tl.float32) - tl.load(lse + row))
    slope = (shares - tl.where(at == tl.load(targets + row), 1.0, 0.0)) * tl.load(coefficients + row)
    tl.store(here, slope.to(own.dtype), mask=at < vocabulary)


# -- adapters ---------------------------------------------------------------------------------------------------------


@triton.jit
def spread(source, table, size, rank, BLOCK: tl.constexpr):
    """Copy a site's B matrix of one slot to its place on the diagonal of its group."""
    site, slot = table + tl.program_id(0) * 5, tl.program_id(2).to(tl.int64)
    offset, count, to, step, slot_step = (
        tl.load(site), tl.load(site + 1), tl.load(site + 2), tl.load(site + 3), tl.load(site + 4),
    )  # fmt: skip
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    value = tl.load(source + slot * size + offset + at, mask=inside, other=0.0)
    target = to.to(tl.pointer_type(source.dtype.element_ty))
    tl.store(target + slot * slot_step + (at // rank) * step + at % rank, value, mask=inside)
