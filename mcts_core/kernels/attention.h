// Attention over a paged KV cache.

#pragma once

#include "decoder.h"
#include "element.h"
#include "tiles.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace {

constexpr int64_t CELL = 16;   // tokens of a KV block that stand together
constexpr int64_t GROUP = 48;  // query rows that attend together

// A step, and where each of its tokens belongs.
struct Batch : Step {
    std::vector<int64_t> sequence, position, slot;

    explicit Batch(const Step &step) : Step(step) {
        for (int64_t s = 0; s < sequences; s++)
            for (int64_t at = start[s]; at < start[s] + rows[s + 1] - rows[s]; at++) {
                sequence.push_back(s), position.push_back(at);
                slot.push_back(table[first[s] + at / block_size] * block_size + at % block_size);
            }
    }
};

// Tokens that attend together: those of one sequence, or of sequences that begin with the same
// blocks. The cells that all of them share are read once for all.
struct Group {
    std::vector<int64_t> rows;
    int64_t shared;  // blocks
};

std::vector<Group> groups_of(const Batch &step, int64_t most) {
    std::vector<int64_t> order(step.sequences);
    for (int64_t s = 0; s < step.sequences; s++) order[s] = s;
    const auto begin = [&](int64_t s) { return step.table + step.first[s]; };
    const auto end = [&](int64_t s) { return step.table + step.first[s + 1]; };
    std::stable_sort(order.begin(), order.end(), [&](int64_t one, int64_t two) {
        return std::lexicographical_compare(begin(one), end(one), begin(two), end(two));
    });
    std::vector<Group> groups;
    int64_t last = -1;
    for (int64_t s : order) {
        int64_t common = 0;
        if (last >= 0 && step.share) {
            const int64_t length = std::min(groups.back().shared, step.first[s + 1] - step.first[s]);
            while (common < length && begin(last)[common] == begin(s)[common]) common++;
        }
        for (int64_t row = step.rows[s]; row < step.rows[s + 1]; row++) {
            const bool same = last == s;
            if (groups.empty() || int64_t(groups.back().rows.size()) >= most ||
                (!same && 2 * common <= groups.back().shared))
                groups.push_back({{}, step.first[s + 1] - step.first[s]});
            else if (!same)
                groups.back().shared = common;
            groups.back().rows.push_back(row);
            last = s;
        }
    }
    return groups;
}

// Vectors of a row that are summed up at once, so that the sums stay in registers.
constexpr int columns(int rows) {
    return REGISTERS == 32 ? (rows <= 4 ? 4 : 2) : (rows == 1 ? 2 : 1);
}

// Scores of a few rows for some cells. `ahead`: as many other cells, or null, that are read next; a
// cache line of theirs is fetched with each that is read here.
template <class T, int ROWS, int CELLS>
inline void score(const T *query, int64_t dim, const T *const *cell, const T *const *ahead,
                  float *into, int64_t stride) {
    V sum[ROWS][CELLS];
    for (auto &row : sum)
        for (V &each : row) each = zero();
    for (int64_t j = 0; j < dim; j += P<T>) {
        V right[CELLS];
        for (int c = 0; c < CELLS; c++) right[c] = part(cell[c] + j * CELL);
        if (ahead)
            for (int c = 0; c < CELLS; c++) prefetch(ahead[c] + j * CELL);
        for (int r = 0; r < ROWS; r++) {
            const V left = everywhere(query + r * dim + j);
            for (int c = 0; c < CELLS; c++) sum[r][c] = fma(sum[r][c], left, right[c], T{});
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < CELLS; c++) store(into + r * stride + c * CELL, sum[r][c]);
}

// Scores of query rows [rows, dim] for the tokens of `count` cells, into [rows, stride]; `ahead` as
// above.
template <class T, int ROWS>
void score_cells(const T *query, int64_t dim, const T *const *cell, const T *const *ahead,
                 int64_t count, float *into, int64_t stride) {
    constexpr int CELLS = columns(ROWS);
    int64_t c = 0;
    for (; c + CELLS <= count; c += CELLS)
        score<T, ROWS, CELLS>(query, dim, cell + c, ahead ? ahead + c : nullptr, into + c * CELL,
                              stride);
    for (; c < count; c++)
        score<T, ROWS, 1>(query, dim, cell + c, ahead ? ahead + c : nullptr, into + c * CELL, stride);
}

template <class T, int ROWS, int WIDTH>
inline void gather(const T *weight, int64_t stride, const T *const *cell, int64_t count,
                   int64_t dim, int64_t from, float *into) {
    V sum[ROWS][WIDTH];
    for (int r = 0; r < ROWS; r++)
        for (int w = 0; w < WIDTH; w++) sum[r][w] = load(into + r * dim + from + w * LANES);
    for (int64_t c = 0; c < count; c++)
        for (int64_t t = 0; t < CELL; t += P<T>) {
            const T *values = cell[c] + t * dim + from * P<T>;
            V right[WIDTH];
            for (int w = 0; w < WIDTH; w++) right[w] = part(values + w * LANES * P<T>);
            for (int r = 0; r < ROWS; r++) {
                const V left = everywhere(weight + r * stride + c * CELL + t);
                for (int w = 0; w < WIDTH; w++) sum[r][w] = fma(sum[r][w], left, right[w], T{});
            }
        }
    for (int r = 0; r < ROWS; r++)
        for (int w = 0; w < WIDTH; w++) store(into + r * dim + from + w * LANES, sum[r][w]);
}

// Adds the cells' values, weighted by weight [rows, stride], to into [rows, dim].
template <class T, int ROWS>
void gather_cells(const T *weight, int64_t stride, const T *const *cell, int64_t count,
                  int64_t dim, float *into) {
    constexpr int WIDTH = columns(ROWS);
    int64_t from = 0;
    for (; from + WIDTH * LANES <= dim; from += WIDTH * LANES)
        gather<T, ROWS, WIDTH>(weight, stride, cell, count, dim, from, into);
    for (; from < dim; from += LANES)
        gather<T, ROWS, 1>(weight, stride, cell, count, dim, from, into);
}

template <class Call>
void by_tile(int64_t rows, const Call &call) {
    int64_t at = 0;
    for (; at + TILE <= rows; at += TILE) call(at, std::integral_constant<int, TILE>{});
    if (at < rows) with_rows(rows - at, [&](auto count) { call(at, count); });
}

// The softmax's numerators of scores [begin, end) of a row as T, 0 in the rest of [0, whole);
// returns their sum.
template <class T>
float soften(float *scores, int64_t begin, int64_t end, int64_t whole, T *into) {
    const V never = all(-std::numeric_limits<float>::infinity());
    V peak = never;
    const int64_t from = begin / LANES * LANES;
    for (int64_t at = from; at < end; at += LANES) {
        const Mask seen = first_without(lanes(end - at), lanes(begin - at));
        const V value = pick(seen, load(scores + at), never);
        store(scores + at, value);
        peak = most(peak, value);
    }
    const V top = all(most_of(peak));
    V sum = zero();
    for (int64_t at = 0; at < from; at += LANES) store(into + at, zero());
    for (int64_t at = from; at < whole; at += LANES) {
        V weight = zero();
        if (at < end) weight = exponential(load(scores + at) - top);
        sum = sum + weight;
        store(into + at, weight);
    }
    return sum_of(sum);
}

template <class T>
struct Scratch {
    std::vector<float> scores, totals, sums, placed;
    std::vector<T> packed, weights, narrowed;
    std::vector<const T *> keys, values;
    Tiles tiles;
};

// The attention of a group's tokens in one KV head: query and into are [tokens, heads, dim].
template <class T>
void attend(const Model &model, const Layer &layer, const Batch &step, const Group &group,
            int64_t head, const T *query, T *into, Scratch<T> &scratch) {
    const int64_t dim = model.dim, grouped = model.heads / model.kv_heads;
    const int64_t rows = group.rows.size() * grouped, cells = step.block_size / CELL;
    [[maybe_unused]] const bool by_tiles = dim % TILE_DEPTH == 0;
    const T *keys = static_cast<const T *>(layer.keys) + head * step.slots * dim;
    const T *values = static_cast<const T *>(layer.values) + head * step.slots * dim;
    const auto length = [&](int64_t row) { return step.position[row] + 1; };
    int64_t longest = 0, start = std::numeric_limits<int64_t>::max();
    for (int64_t row : group.rows) {
        longest = std::max(longest, length(row));
        start = std::min(start, layer.window ? std::max<int64_t>(0, length(row) - layer.window) : 0);
    }
    start = start / CELL;  // the first cell that any of them sees
    const int64_t stride = (longest + CELL - 1) / CELL * CELL;
    const int64_t shared = std::min(group.shared * cells, stride / CELL);
    scratch.scores.resize(rows * stride);
    scratch.weights.resize(rows * stride);
    scratch.sums.assign(rows * dim, 0.0f);
    scratch.packed.resize(rows * dim);
    for (size_t r = 0; r < group.rows.size(); r++)
        std::memcpy(scratch.packed.data() + r * grouped * dim,
                    query + (group.rows[r] * model.heads + head * grouped) * dim,
                    grouped * dim * sizeof(T));
    const auto locate = [&](int64_t sequence, int64_t from, int64_t to) {
        scratch.keys.clear();
        scratch.values.clear();
        for (int64_t c = from; c < to; c++) {
            const int64_t block = step.table[step.first[sequence] + c / cells];
            const int64_t at = (block * step.block_size + c % cells * CELL) * dim;
            scratch.keys.push_back(keys + at);
            scratch.values.push_back(values + at);
        }
    };
    // Both passes go over the cells that all rows share, and then over each row's own.
    const auto both = [&](const auto &pass) {
        if (start < shared) {
            locate(step.sequence[group.rows[0]], start, shared);
            pass(0, rows, start, shared - start);
        }
        for (size_t r = 0; r < group.rows.size(); r++) {
            const int64_t end = (length(group.rows[r]) + CELL - 1) / CELL;
            const int64_t from = std::max(start, shared);
            if (from >= end) continue;
            locate(step.sequence[group.rows[r]], from, end);
            pass(r * grouped, grouped, from, end - from);
        }
    };
    both([&](int64_t first, int64_t count, int64_t from, int64_t found) {
        if constexpr (TILES<T>)
            if (by_tiles) {
                for (int64_t at = 0; at < count; at += TILE_ROWS)
                    tiled_scores(scratch.tiles, std::min(TILE_ROWS, count - at),
                                 scratch.packed.data() + (first + at) * dim, dim,
                                 scratch.keys.data(), at ? nullptr : scratch.values.data(),
                                 found,
                                 scratch.scores.data() + (first + at) * stride + from * CELL,
                                 stride);
                return;
            }
        by_tile(count, [&](int64_t at, auto size) {
            score_cells<T, size>(scratch.packed.data() + (first + at) * dim, dim,
                                 scratch.keys.data(), at ? nullptr : scratch.values.data(), found,
                                 scratch.scores.data() + (first + at) * stride + from * CELL,
                                 stride);
        });
    });
    scratch.totals.resize(rows);
    for (int64_t r = 0; r < rows; r++) {
        const int64_t end = length(group.rows[r / grouped]);
        const int64_t begin = layer.window ? std::max<int64_t>(0, end - layer.window) : 0;
        scratch.totals[r] = soften(scratch.scores.data() + r * stride, begin, end, stride,
                                   scratch.weights.data() + r * stride);
    }
    both([&](int64_t first, int64_t count, int64_t from, int64_t found) {
        if constexpr (TILES<T>)
            if (by_tiles) {
                for (int64_t at = 0; at < count; at += TILE_ROWS)
                    tiled_values(scratch.tiles, std::min(TILE_ROWS, count - at),
                                 scratch.weights.data() + (first + at) * stride + from * CELL,
                                 stride, scratch.values.data(), found, dim,
                                 scratch.sums.data() + (first + at) * dim);
                return;
            }
        by_tile(count, [&](int64_t at, auto size) {
            gather_cells<T, size>(scratch.weights.data() + (first + at) * stride + from * CELL,
                                  stride, scratch.values.data(), found, dim,
                                  scratch.sums.data() + (first + at) * dim);
        });
    });
    for (int64_t r = 0; r < rows; r++) {
        T *out = into + (group.rows[r / grouped] * model.heads + head * grouped + r % grouped) * dim;
        const V scale = all(1.0f / scratch.totals[r]);
        for (int64_t d = 0; d < dim; d += LANES)
            store(out + d, load(scratch.sums.data() + r * dim + d) * scale);
    }
}

}  // namespace
