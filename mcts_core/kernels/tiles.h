// Intel's AMX: tiles of 16 rows of 64 bytes, and sums of products of 16 rows with 16 outputs, 32
// numbers deep.
//
// Packed panels and KV cells are what a tile's right side wants: pairs along the depth, the outputs
// side by side. A row's sums are added up in the same order whichever rows are beside it.

#pragma once

#include "element.h"

#include <algorithm>
#include <initializer_list>

namespace {

#ifdef __AMX_BF16__

// Whether T is multiplied by tiles.
template <class T>
constexpr bool TILES = std::is_same_v<T, BFloat16>;
constexpr int64_t TILE_ROWS = 16, TILE_DEPTH = 32;

// The layout that _tile_loadconfig reads.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
};

// What a thread's tiles are shaped for; to shape them takes as long as three steps along the depth.
class Tiles {
public:
    ~Tiles() {
        if (key) _tile_release();
    }
    // 0 and 1 are the sums of the upper 16 rows, 2 and 3 of the lower, 4 and 5 their left sides, 6
    // and 7 the right ones. `rows`: 1 to 32.
    void for_products(int64_t rows) {
        if (!changes(rows)) return;
        const int64_t upper = std::min(rows, TILE_ROWS), lower = std::max<int64_t>(1, rows - upper);
        shape({upper, upper, lower, lower, upper, lower, TILE_ROWS, TILE_ROWS});
    }
    // 0 to 3 are sums. Of scores: 4 queries, 6 keys. Of what they weigh: 5 weights of 16 tokens, 7
    // their values. `rows`: 1 to 16.
    void for_attention(int64_t rows) {
        if (!changes(-rows)) return;
        shape({rows, rows, rows, rows, rows, rows, TILE_ROWS, TILE_ROWS / 2}, 2 * TILE_ROWS);
    }

private:
    int64_t key = 0;

    // True if the tiles have another shape. What they are loaded from has been written by then: the
    // compiler does not know that the instructions read it.
    bool changes(int64_t wanted) {
        asm volatile("" : : : "memory");
        const bool other = key != wanted;
        key = wanted;
        return other;
    }
    void shape(std::initializer_list<int64_t> rows, int64_t fifth = 64) {
        TileShapes shapes;
        int each = 0;
        for (int64_t count : rows) {
            shapes.bytes[each] = 64;
            shapes.rows[each++] = uint8_t(count);
        }
        shapes.bytes[5] = uint16_t(fifth);
        // Of this the compiler knows that the instruction reads the first 8 bytes.
        asm volatile("" : : "r"(&shapes) : "memory");
        _tile_loadconfig(&shapes);
    }
};

// Up to 32 rows of x [., depth] times a panel of 32 outputs; `done(row, low, high)` takes a row's
// sums. `depth` is a multiple of TILE_DEPTH.
template <class Done>
void tiled(Tiles &tiles, int64_t rows, const BFloat16 *x, const BFloat16 *panel, int64_t depth,
           const Done &done) {
    const int64_t upper = std::min(rows, TILE_ROWS), lower = rows - upper;
    tiles.for_products(rows);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < depth; k += TILE_DEPTH) {
        const BFloat16 *right = panel + k * 2 * LANES;
        _tile_loadd(6, right, 8 * LANES);
        _tile_loadd(7, right + 2 * LANES, 8 * LANES);
        _tile_loadd(4, x + k, 2 * depth);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (lower) {
            _tile_loadd(5, x + TILE_ROWS * depth + k, 2 * depth);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    alignas(64) float sums[4][TILE_ROWS][LANES];
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    for (int64_t r = 0; r < upper; r++) done(r, load(sums[0][r]), load(sums[1][r]));
    if (lower) {
        _tile_stored(2, sums[2], 64);
        _tile_stored(3, sums[3], 64);
        for (int64_t r = 0; r < lower; r++)
            done(TILE_ROWS + r, load(sums[2][r]), load(sums[3][r]));
    }
}

// As `score_cells`, of up to 16 rows; `dim` is a multiple of TILE_DEPTH.
inline void tiled_scores(Tiles &tiles, int64_t rows, const BFloat16 *query, int64_t dim,
                         const BFloat16 *const *cell, const BFloat16 *const *ahead, int64_t count,
                         float *into, int64_t stride) {
    tiles.for_attention(rows);
    const auto load_keys = [&](int64_t c, int64_t j) {
        _tile_loadd(6, cell[c] + j * LANES, 64);
        if (ahead)
            for (int64_t line = 0; line < TILE_ROWS; line++)
                prefetch(ahead[c] + (j + 2 * line) * LANES);
    };
    int64_t c = 0;
    for (; c + 4 <= count; c += 4) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t j = 0; j < dim; j += TILE_DEPTH) {
            _tile_loadd(4, query + j, 2 * dim);
            load_keys(c, j);
            _tile_dpbf16ps(0, 4, 6);
            load_keys(c + 1, j);
            _tile_dpbf16ps(1, 4, 6);
            load_keys(c + 2, j);
            _tile_dpbf16ps(2, 4, 6);
            load_keys(c + 3, j);
            _tile_dpbf16ps(3, 4, 6);
        }
        float *to = into + c * LANES;
        _tile_stored(0, to, 4 * stride);
        _tile_stored(1, to + LANES, 4 * stride);
        _tile_stored(2, to + 2 * LANES, 4 * stride);
        _tile_stored(3, to + 3 * LANES, 4 * stride);
    }
    for (; c < count; c++) {
        _tile_zero(0);
        for (int64_t j = 0; j < dim; j += TILE_DEPTH) {
            _tile_loadd(4, query + j, 2 * dim);
            load_keys(c, j);
            _tile_dpbf16ps(0, 4, 6);
        }
        _tile_stored(0, into + c * LANES, 4 * stride);
    }
}

// As `gather_cells`, of up to 16 rows; `dim` is a multiple of TILE_DEPTH.
inline void tiled_values(Tiles &tiles, int64_t rows, const BFloat16 *weight, int64_t stride,
                         const BFloat16 *const *cell, int64_t count, int64_t dim, float *into) {
    tiles.for_attention(rows);
    for (int64_t from = 0; from < dim; from += 2 * LANES) {
        _tile_loadd(0, into + from, 4 * dim);
        _tile_loadd(1, into + from + LANES, 4 * dim);
        for (int64_t c = 0; c < count; c++) {
            _tile_loadd(5, weight + c * LANES, 2 * stride);
            _tile_loadd(7, cell[c] + 2 * from, 4 * dim);
            _tile_dpbf16ps(0, 5, 7);
            _tile_loadd(7, cell[c] + 2 * from + 2 * LANES, 4 * dim);
            _tile_dpbf16ps(1, 5, 7);
        }
        _tile_stored(0, into + from, 4 * dim);
        _tile_stored(1, into + from + LANES, 4 * dim);
    }
}

#else

template <class T>
constexpr bool TILES = false;
constexpr int64_t TILE_ROWS = 16, TILE_DEPTH = 32;

class Tiles {};

template <class Done>
void tiled(Tiles &, int64_t, const BFloat16 *, const BFloat16 *, int64_t, const Done &) {}
inline void tiled_scores(Tiles &, int64_t, const BFloat16 *, int64_t, const BFloat16 *const *,
                         int64_t, float *, int64_t) {}
inline void tiled_values(Tiles &, int64_t, const BFloat16 *, int64_t, const BFloat16 *const *,
                         int64_t, int64_t, float *) {}

#endif

}  // namespace
