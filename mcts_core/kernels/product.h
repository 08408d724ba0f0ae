// Matrix products with packed weights.

#pragma once

#include "element.h"
#include "tiles.h"

#include <algorithm>

namespace {

constexpr int64_t PANEL = 32;
constexpr int64_t FEW = REGISTERS == 32 ? 3 : 1;  // rows that take `WIDE` panels at once
constexpr int64_t WIDE = REGISTERS == 32 ? 4 : 2;
constexpr int64_t ROWS_A_TASK = 64;

// `rows` rows (at most TILE) of x [., depth] times `panels` panels; `done(row, panel, low, high)`
// takes the 32 sums.
template <class T, int ROWS, int PANELS, class Done>
inline void tile(const T *x, const T *weight, int64_t depth, const Done &done) {
    V sum[ROWS][2 * PANELS];
    for (auto &row : sum)
        for (V &each : row) each = zero();
    for (int64_t k = 0; k < depth; k += P<T>) {
        V right[2 * PANELS];
        for (int p = 0; p < PANELS; p++) {
            const T *from = weight + p * PANEL * depth + k * PANEL;
            right[2 * p] = part(from);
            right[2 * p + 1] = part(from + LANES * P<T>);
        }
        for (int r = 0; r < ROWS; r++) {
            const V left = everywhere(x + r * depth + k);
            for (int c = 0; c < 2 * PANELS; c++) sum[r][c] = fma(sum[r][c], left, right[c], T{});
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int p = 0; p < PANELS; p++) done(r, p, sum[r][2 * p], sum[r][2 * p + 1]);
}

template <class T, int PANELS, class Done>
void tile_of(int64_t rows, const T *x, const T *weight, int64_t depth, const Done &done) {
    with_rows(rows, [&](auto count) { tile<T, count, PANELS>(x, weight, depth, done); });
}

// As `product`, by tiles. Two panels a task: of what they write, cache lines are one thread's alone.
template <class Done>
void product_by_tiles(Tiles &tiles, int64_t rows, const BFloat16 *x, const BFloat16 *weight,
                      int64_t panels, int64_t depth, const Done &done) {
    const int64_t down = (rows + ROWS_A_TASK - 1) / ROWS_A_TASK;
#pragma omp for schedule(dynamic, 2)
    for (int64_t task = 0; task < panels * down; task++) {
        const int64_t top = task % down * ROWS_A_TASK, panel = task / down;
        const int64_t bottom = std::min(rows, top + ROWS_A_TASK);
        for (int64_t row = top; row < bottom; row += 2 * TILE_ROWS)
            tiled(tiles, std::min(2 * TILE_ROWS, bottom - row), x + row * depth,
                  weight + panel * PANEL * depth, depth,
                  [&](int64_t r, V low, V high) { done(row + r, panel, low, high); });
    }
}

// x [rows, depth] times a packed weight, shared out among the threads of the enclosing region;
// done(row, panel, low, high). A few rows take several panels at once, for enough sums in flight.
template <class T, class Done>
void product([[maybe_unused]] Tiles &tiles, int64_t rows, const T *x, const void *packed,
             int64_t outputs, int64_t depth, const Done &done) {
    const T *weight = static_cast<const T *>(packed);
    const int64_t panels = (outputs + PANEL - 1) / PANEL;
    if constexpr (TILES<T>)
        if (depth % TILE_DEPTH == 0) return product_by_tiles(tiles, rows, x, weight, panels, depth, done);
    const int64_t wide = rows <= FEW ? WIDE : 1;
    const int64_t across = (panels + wide - 1) / wide;
    const int64_t down = (rows + ROWS_A_TASK - 1) / ROWS_A_TASK;
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < across * down; task++) {
        // Panels one after the other: what comes from memory is read once.
        const int64_t top = task % down * ROWS_A_TASK, first = task / down * wide;
        const int64_t bottom = std::min(rows, top + ROWS_A_TASK);
        const T *from = weight + first * PANEL * depth;
        if (wide > 1 && first + wide <= panels) {
            tile_of<T, WIDE>(rows, x, from, depth, [&](int r, int p, V low, V high) {
                done(r, first + p, low, high);
            });
            continue;
        }
        for (int64_t panel = first; panel < std::min(panels, first + wide); panel++)
            for (int64_t row = top; row < bottom; row += TILE)
                tile_of<T, 1>(std::min<int64_t>(TILE, bottom - row), x + row * depth,
                              weight + panel * PANEL * depth, depth,
                              [&](int r, int, V low, V high) { done(row + r, panel, low, high); });
    }
}

}  // namespace
