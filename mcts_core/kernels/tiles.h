// Products by the tiles of Intel's AMX: 16 rows times 16 outputs, 32 numbers deep at a time.
//
// A packed panel is what a tile's right side wants: pairs along the depth, the outputs side by side.
// A row's sums are added up in the same order whichever rows are beside it.

#pragma once

#include "element.h"

namespace {

#ifdef __AMX_BF16__

constexpr bool TILES = true;
constexpr int64_t TILE_ROWS = 16, TILE_DEPTH = 32;

// The layout that _tile_loadconfig reads.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
};

// Tiles 0 and 1 are the upper rows' sums, 2 and 3 the lower's, 4 and 5 their left sides.
inline void shape_tiles(int64_t upper, int64_t lower) {
    TileShapes shapes;
    for (int each = 0; each < 8; each++) shapes.bytes[each] = 64;
    for (int each : {0, 1, 4}) shapes.rows[each] = uint8_t(upper);
    for (int each : {2, 3, 5}) shapes.rows[each] = uint8_t(lower ? lower : 1);
    for (int each : {6, 7}) shapes.rows[each] = TILE_ROWS;
    _tile_loadconfig(&shapes);
}

// Up to 32 rows of x [., depth] times a panel of 32 outputs; `done(row, low, high)` takes a row's
// sums. `depth` is a multiple of TILE_DEPTH.
template <class Done>
void tiled(int64_t rows, const BFloat16 *x, const BFloat16 *panel, int64_t depth,
           const Done &done) {
    const int64_t upper = rows < TILE_ROWS ? rows : TILE_ROWS, lower = rows - upper;
    shape_tiles(upper, lower);
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
    _tile_release();
}

#else

constexpr bool TILES = false;
constexpr int64_t TILE_ROWS = 16, TILE_DEPTH = 32;

template <class Done>
void tiled(int64_t, const BFloat16 *, const BFloat16 *, int64_t, const Done &) {}

#endif

}  // namespace
