// One forward of a dense decoder (Llama, Mistral, Qwen2, Qwen3) over a paged KV cache, on AVX-512.
//
// The models' own modules are hundreds of small operations a step, and a step of a small model then
// costs what calling them costs. Here a step is one call, and a layer eight loops that all threads
// share: norm, query-key-value product, positions and KV write, attention, output product, norm,
// gate-up product, down product. The residual stream is float32 throughout.
//
// A row's result is the same bits whatever else is in the batch, however a prompt was cut, and
// whichever blocks are shared: every output is one sum in an order that its own length decides,
// taken by one thread, in vector lanes that hold other outputs and never other terms of the sum.
//
// Layouts. A weight [N, K] is packed into panels of 32 outputs: [N / 32][K / P][32][P], where P
// is how many products a lane takes at once (2 for bfloat16, 1 for float32). A KV block is 16-token
// cells of 16 * dim elements: keys [dim / P][16][P], values [16 / P][dim][P].

#include "vector.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

extern "C" {

struct Layer {
    const float *attention_norm, *mlp_norm;
    const void *qkv, *output, *gate_up, *down;
    const float *qkv_bias, *output_bias, *gate_up_bias, *down_bias;  // null: none
    const float *query_norm, *key_norm;                              // null: none (Qwen3 has them)
    void *keys, *values;
    int64_t window;  // 0: all of the context
};

struct Model {
    int64_t layers, hidden, heads, kv_heads, dim, intermediate, vocabulary, positions;
    int64_t bfloat16;  // else float32
    float epsilon, scaling;
    const void *embedding;     // [vocabulary, hidden]
    const float *cosines, *sines;  // [positions, dim / 2]
    const float *norm;
    const void *head;  // null: no language head
    const Layer *layer;
};

struct Step {
    int64_t tokens, sequences, kept, slots, block_size, threads, share;
    const int64_t *ids, *position, *slot;
    const int64_t *sequence;      // of each token, ascending
    const int64_t *table, *first;  // sequence s has the blocks table[first[s]] to table[first[s + 1]]
    const int64_t *keep;           // tokens whose hidden states and logits are wanted
    float *states;                 // [kept, hidden], after the final norm
    float *logits;                 // [kept, vocabulary]
    int64_t *finite;               // [kept]: whether the hidden state is
    int64_t read, attended;        // out: KV blocks fetched and looked at, in all layers
};

int decoder_forward(const Model *model, Step *step);
int64_t decoder_size(int of);
}

namespace {

constexpr int64_t PANEL = 32, CELL = 16;
constexpr int64_t TILE = 8;         // rows of a product that are computed at once
constexpr int64_t GROUP = 48;       // query rows that attend together
constexpr int64_t ROWS_A_TASK = 64;  // of a product

struct BFloat16 {
    uint16_t bits;
};

template <class T>
constexpr int64_t P = std::is_same_v<T, BFloat16> ? 2 : 1;

inline float widen(float value) { return value; }
inline float widen(BFloat16 value) {
    uint32_t bits = uint32_t(value.bits) << 16;
    float found;
    std::memcpy(&found, &bits, 4);
    return found;
}

inline void narrow(float value, float &into) { into = value; }
inline void narrow(float value, BFloat16 &into) {  // to nearest, ties to even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    into.bits = value != value ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

// What a lane multiplies: one float32, or a pair of bfloat16.
inline V part(const float *from) { return _mm512_loadu_ps(from); }
inline V everywhere(const float *from) { return _mm512_set1_ps(*from); }
inline V fma(V sum, V left, V right, float) { return _mm512_fmadd_ps(left, right, sum); }
#ifdef __AVX512BF16__
inline V part(const BFloat16 *from) { return _mm512_loadu_ps(from); }
inline V everywhere(const BFloat16 *from) {
    int32_t pair;
    std::memcpy(&pair, from, 4);
    return _mm512_castsi512_ps(_mm512_set1_epi32(pair));
}
inline V fma(V sum, V left, V right, BFloat16) {
    return _mm512_dpbf16_ps(sum, (__m512bh)left, (__m512bh)right);
}
inline void store(BFloat16 *into, V value) {
    _mm256_storeu_si256((__m256i *)into, (__m256i)_mm512_cvtneps_pbh(value));
}
#endif

inline V silu(V x) {
    const V one = _mm512_set1_ps(1.0f);
    const V grown = exponential(_mm512_sub_ps(_mm512_setzero_ps(), x));
    return _mm512_div_ps(x, _mm512_add_ps(one, grown));
}

// The sum of squares in lanes by index, and the lanes one after the other.
inline float squares(const float *x, int64_t count) {
    V sum = _mm512_setzero_ps();
    int64_t at = 0;
    for (; at + LANES <= count; at += LANES) sum = _mm512_fmadd_ps(load(x + at), load(x + at), sum);
    float total = _mm512_reduce_add_ps(sum);
    for (; at < count; at++) total += x[at] * x[at];
    return total;
}

// True if all of x is finite.
template <class T>
bool norm(const float *x, const float *weight, float epsilon, int64_t count, T *into) {
    const float total = squares(x, count);
    const float scale = 1.0f / std::sqrt(total / float(count) + epsilon);
    int64_t at = 0;
    for (; at + LANES <= count; at += LANES)
        store(into + at, _mm512_mul_ps(load(weight + at),
                                       _mm512_mul_ps(load(x + at), _mm512_set1_ps(scale))));
    for (; at < count; at++) narrow(weight[at] * (x[at] * scale), into[at]);
    return std::isfinite(total);
}

// `rows` rows (at most TILE) of x [., depth] times `panels` panels; `done(row, panel, low, high)`
// takes the 32 sums.
template <class T, int ROWS, int PANELS, class Done>
inline void tile(const T *x, const T *weight, int64_t depth, const Done &done) {
    V sum[ROWS][2 * PANELS];
    for (auto &row : sum)
        for (V &each : row) each = _mm512_setzero_ps();
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
    switch (rows) {
        case 1: return tile<T, 1, PANELS>(x, weight, depth, done);
        case 2: return tile<T, 2, PANELS>(x, weight, depth, done);
        case 3: return tile<T, 3, PANELS>(x, weight, depth, done);
        case 4: return tile<T, 4, PANELS>(x, weight, depth, done);
        case 5: return tile<T, 5, PANELS>(x, weight, depth, done);
        case 6: return tile<T, 6, PANELS>(x, weight, depth, done);
        case 7: return tile<T, 7, PANELS>(x, weight, depth, done);
        default: return tile<T, 8, PANELS>(x, weight, depth, done);
    }
}

// x [rows, depth] times a packed weight, shared out among the threads of the enclosing region;
// done(row, panel, low, high). A few rows take several panels at once, for enough sums in flight.
template <class T, class Done>
void product(int64_t rows, const T *x, const void *packed, int64_t outputs, int64_t depth,
             const Done &done) {
    const T *weight = static_cast<const T *>(packed);
    const int64_t panels = (outputs + PANEL - 1) / PANEL;
    const int64_t wide = rows <= 3 ? 4 : 1;
    const int64_t across = (panels + wide - 1) / wide;
    const int64_t down = (rows + ROWS_A_TASK - 1) / ROWS_A_TASK;
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < across * down; task++) {
        const int64_t top = task / across * ROWS_A_TASK, first = task % across * wide;
        const int64_t bottom = std::min(rows, top + ROWS_A_TASK);
        const T *from = weight + first * PANEL * depth;
        if (wide == 4 && first + wide <= panels) {
            tile_of<T, 4>(rows, x, from, depth, [&](int r, int p, V low, V high) {
                done(r, first + p, low, high);
            });
            continue;
        }
        for (int64_t panel = first; panel < std::min(panels, first + wide); panel++)
            for (int64_t row = top; row < bottom; row += TILE)
                tile_of<T, 1>(std::min(TILE, bottom - row), x + row * depth,
                              weight + panel * PANEL * depth, depth,
                              [&](int r, int, V low, V high) { done(row + r, panel, low, high); });
    }
}

// Tokens that attend together: those of one sequence, or of sequences that begin with the same
// blocks. The cells that all of them share are read once for all.
struct Group {
    std::vector<int64_t> rows;
    int64_t shared;  // blocks
};

std::vector<Group> groups_of(const Step &step, int64_t most) {
    std::vector<int64_t> order(step.sequences);
    for (int64_t s = 0; s < step.sequences; s++) order[s] = s;
    const auto begin = [&](int64_t s) { return step.table + step.first[s]; };
    const auto end = [&](int64_t s) { return step.table + step.first[s + 1]; };
    std::stable_sort(order.begin(), order.end(), [&](int64_t one, int64_t two) {
        return std::lexicographical_compare(begin(one), end(one), begin(two), end(two));
    });
    std::vector<int64_t> starts(step.sequences + 1, step.tokens);
    for (int64_t row = step.tokens; row-- > 0;) starts[step.sequence[row]] = row;
    for (int64_t s = step.sequences; s-- > 0;) starts[s] = std::min(starts[s], starts[s + 1]);
    std::vector<Group> groups;
    int64_t last = -1;
    for (int64_t s : order) {
        int64_t common = 0;
        if (last >= 0 && step.share) {
            const int64_t length = std::min(groups.back().shared, step.first[s + 1] - step.first[s]);
            while (common < length && begin(last)[common] == begin(s)[common]) common++;
        }
        for (int64_t row = starts[s]; row < starts[s + 1]; row++) {
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

template <class T, int ROWS, int CELLS>
inline void score(const T *query, int64_t dim, const T *const *cell, float *into, int64_t stride) {
    V sum[ROWS][CELLS];
    for (auto &row : sum)
        for (V &each : row) each = _mm512_setzero_ps();
    for (int64_t j = 0; j < dim; j += P<T>) {
        V right[CELLS];
        for (int c = 0; c < CELLS; c++) right[c] = part(cell[c] + j * CELL);
        for (int r = 0; r < ROWS; r++) {
            const V left = everywhere(query + r * dim + j);
            for (int c = 0; c < CELLS; c++) sum[r][c] = fma(sum[r][c], left, right[c], T{});
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < CELLS; c++) store(into + r * stride + c * CELL, sum[r][c]);
}

// Scores of query rows [rows, dim] for the tokens of `count` cells, into [rows, stride].
template <class T, int ROWS>
void score_cells(const T *query, int64_t dim, const T *const *cell, int64_t count, float *into,
                 int64_t stride) {
    constexpr int CELLS = ROWS <= 4 ? 4 : 2;
    int64_t c = 0;
    for (; c + CELLS <= count; c += CELLS)
        score<T, ROWS, CELLS>(query, dim, cell + c, into + c * CELL, stride);
    for (; c < count; c++) score<T, ROWS, 1>(query, dim, cell + c, into + c * CELL, stride);
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
    constexpr int WIDTH = ROWS <= 4 ? 4 : 2;
    int64_t from = 0;
    for (; from + WIDTH * LANES <= dim; from += WIDTH * LANES)
        gather<T, ROWS, WIDTH>(weight, stride, cell, count, dim, from, into);
    for (; from < dim; from += LANES)
        gather<T, ROWS, 1>(weight, stride, cell, count, dim, from, into);
}

template <class Call>
void by_tile(int64_t rows, const Call &call) {
    int64_t at = 0;
    for (; at + 8 <= rows; at += 8) call(at, std::integral_constant<int, 8>{});
    switch (rows - at) {
        case 1: return call(at, std::integral_constant<int, 1>{});
        case 2: return call(at, std::integral_constant<int, 2>{});
        case 3: return call(at, std::integral_constant<int, 3>{});
        case 4: return call(at, std::integral_constant<int, 4>{});
        case 5: return call(at, std::integral_constant<int, 5>{});
        case 6: return call(at, std::integral_constant<int, 6>{});
        case 7: return call(at, std::integral_constant<int, 7>{});
        default: return;
    }
}

// The softmax's numerators of scores [begin, end) of a row as T, 0 in the rest of [0, whole);
// returns their sum.
template <class T>
float soften(float *scores, int64_t begin, int64_t end, int64_t whole, T *into) {
    const V never = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    V most = never;
    const int64_t from = begin / LANES * LANES;
    for (int64_t at = from; at < end; at += LANES) {
        const __mmask16 seen = lanes(end - at) & ~lanes(begin - at);
        const V value = _mm512_mask_mov_ps(never, seen, load(scores + at));
        store(scores + at, value);
        most = _mm512_max_ps(most, value);
    }
    const V top = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    V sum = _mm512_setzero_ps();
    for (int64_t at = 0; at < from; at += LANES) store(into + at, _mm512_setzero_ps());
    for (int64_t at = from; at < whole; at += LANES) {
        V weight = _mm512_setzero_ps();
        if (at < end) weight = exponential(_mm512_sub_ps(load(scores + at), top));
        sum = _mm512_add_ps(sum, weight);
        store(into + at, weight);
    }
    return _mm512_reduce_add_ps(sum);
}

template <class T>
struct Scratch {
    std::vector<float> scores, totals, sums;
    std::vector<T> packed, weights;
    std::vector<const T *> keys, values;
};

// The attention of a group's tokens in one KV head: query and into are [tokens, heads, dim].
template <class T>
void attend(const Model &model, const Layer &layer, const Step &step, const Group &group,
            int64_t head, const T *query, T *into, Scratch<T> &scratch) {
    const int64_t dim = model.dim, grouped = model.heads / model.kv_heads;
    const int64_t rows = group.rows.size() * grouped, cells = step.block_size / CELL;
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
        by_tile(count, [&](int64_t at, auto size) {
            score_cells<T, size>(scratch.packed.data() + (first + at) * dim, dim, scratch.keys.data(), found,
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
        by_tile(count, [&](int64_t at, auto size) {
            gather_cells<T, size>(scratch.weights.data() + (first + at) * stride + from * CELL,
                                  stride, scratch.values.data(), found, dim,
                                  scratch.sums.data() + (first + at) * dim);
        });
    });
    for (int64_t r = 0; r < rows; r++) {
        T *out = into + (group.rows[r / grouped] * model.heads + head * grouped + r % grouped) * dim;
        const V scale = _mm512_set1_ps(1.0f / scratch.totals[r]);
        for (int64_t d = 0; d < dim; d += LANES)
            store(out + d, _mm512_mul_ps(load(scratch.sums.data() + r * dim + d), scale));
    }
}

// A head's vector, normalised where the model does so, at its position, times `scale`.
template <class Put>
void place(float *x, const float *weight, const Model &model, int64_t position, float scale,
           const Put &put) {
    const int64_t half = model.dim / 2;
    if (weight) norm(x, weight, model.epsilon, model.dim, x);
    const float *cosine = model.cosines + position * half, *sine = model.sines + position * half;
    for (int64_t j = 0; j < half; j++) {
        const float low = x[j] * cosine[j] - x[j + half] * sine[j];
        const float high = x[j + half] * cosine[j] + x[j] * sine[j];
        put(j, low * scale);
        put(j + half, high * scale);
    }
}

void count_reads(const Model &model, const std::vector<Group> &groups, Step &step) {
    step.read = step.attended = 0;
    for (int64_t l = 0; l < model.layers; l++) {
        const int64_t window = model.layer[l].window;
        for (const Group &group : groups) {
            int64_t most = 0, start = std::numeric_limits<int64_t>::max();
            for (int64_t row : group.rows) {
                const int64_t length = step.position[row] + 1;
                const int64_t from = window ? std::max<int64_t>(0, length - window) : 0;
                start = std::min(start, from / step.block_size);
                most = std::max(most, (length + step.block_size - 1) / step.block_size);
            }
            const int64_t shared = std::min(group.shared, most);
            step.read += std::max<int64_t>(0, shared - start);
            for (int64_t row : group.rows) {
                const int64_t length = step.position[row] + 1;
                const int64_t from = window ? std::max<int64_t>(0, length - window) : 0;
                const int64_t end = (length + step.block_size - 1) / step.block_size;
                step.read += std::max<int64_t>(0, end - std::max(start, shared));
                step.attended += end - from / step.block_size;
            }
        }
    }
}

template <class T>
void forward(const Model &model, Step &step) {
    const int64_t tokens = step.tokens, hidden = model.hidden, dim = model.dim;
    const int64_t queries = model.heads * dim, own = model.kv_heads * dim;
    const int64_t width = queries + 2 * own, deep = model.intermediate;
    const int64_t padded = (width + PANEL - 1) / PANEL * PANEL;
    const auto groups = groups_of(step, std::max<int64_t>(1, GROUP * model.kv_heads / model.heads));
    count_reads(model, groups, step);
    std::vector<float> x(tokens * hidden), qkv(tokens * padded);
    std::vector<T> normed(std::max(tokens, step.kept) * hidden), query(tokens * queries);
    std::vector<T> attended(tokens * queries), inner(tokens * deep);
    const T *embedding = static_cast<const T *>(model.embedding);

#pragma omp parallel num_threads(int(step.threads))
    {
        Scratch<T> scratch;
        const auto plus = [&](const float *bias) {  // onto the residual stream
            return [&, bias](int64_t row, int64_t panel, V low, V high) {
                int64_t n = panel * PANEL;
                for (V each : {low, high}) {
                    const __mmask16 some = lanes(hidden - n);
                    if (bias) each = _mm512_add_ps(each, _mm512_maskz_loadu_ps(some, bias + n));
                    float *at = x.data() + row * hidden + n;
                    _mm512_mask_storeu_ps(
                        at, some, _mm512_add_ps(_mm512_maskz_loadu_ps(some, at), each));
                    n += LANES;
                }
            };
        };
#pragma omp for
        for (int64_t row = 0; row < tokens; row++)
            for (int64_t j = 0; j < hidden; j++)
                x[row * hidden + j] = widen(embedding[step.ids[row] * hidden + j]);

        for (int64_t l = 0; l < model.layers; l++) {
            const Layer &layer = model.layer[l];
#pragma omp for
            for (int64_t row = 0; row < tokens; row++)
                norm(x.data() + row * hidden, layer.attention_norm, model.epsilon, hidden,
                     normed.data() + row * hidden);
            product<T>(tokens, normed.data(), layer.qkv, width, hidden,
                       [&](int64_t row, int64_t panel, V low, V high) {
                           float *at = qkv.data() + row * padded + panel * PANEL;
                           if (const float *bias = layer.qkv_bias) {
                               low = _mm512_add_ps(low, load(bias + panel * PANEL));
                               high = _mm512_add_ps(high, load(bias + panel * PANEL + LANES));
                           }
                           store(at, low);
                           store(at + LANES, high);
                       });
#pragma omp for
            for (int64_t row = 0; row < tokens; row++) {
                float *from = qkv.data() + row * padded;
                const int64_t position = step.position[row], slot = step.slot[row];
                const int64_t cell = slot / CELL * CELL, token = slot % CELL;
                for (int64_t h = 0; h < model.heads; h++) {
                    T *to = query.data() + row * queries + h * dim;
                    place(from + h * dim, layer.query_norm, model, position, model.scaling,
                          [&](int64_t j, float value) { narrow(value, to[j]); });
                }
                for (int64_t h = 0; h < model.kv_heads; h++) {
                    const int64_t at = (h * step.slots + cell) * dim;
                    T *key = static_cast<T *>(layer.keys) + at;
                    T *value = static_cast<T *>(layer.values) + at;
                    place(from + queries + h * dim, layer.key_norm, model, position, 1.0f,
                          [&](int64_t j, float each) {
                              const int64_t lane = token * P<T> + j % P<T>;
                              narrow(each, key[j / P<T> * P<T> * CELL + lane]);
                          });
                    const float *values = from + queries + own + h * dim;
                    for (int64_t j = 0; j < dim; j++)
                        narrow(values[j],
                               value[token / P<T> * P<T> * dim + j * P<T> + token % P<T>]);
                }
            }
#pragma omp for schedule(dynamic, 1)
            for (int64_t task = 0; task < int64_t(groups.size()) * model.kv_heads; task++)
                attend<T>(model, layer, step, groups[task / model.kv_heads], task % model.kv_heads,
                          query.data(), attended.data(), scratch);
            product<T>(tokens, attended.data(), layer.output, hidden, queries,
                       plus(layer.output_bias));
#pragma omp for
            for (int64_t row = 0; row < tokens; row++)
                norm(x.data() + row * hidden, layer.mlp_norm, model.epsilon, hidden,
                     normed.data() + row * hidden);
            // A panel holds 16 gates and their 16 ups.
            product<T>(tokens, normed.data(), layer.gate_up, 2 * deep, hidden,
                       [&](int64_t row, int64_t panel, V gate, V up) {
                           if (const float *bias = layer.gate_up_bias) {
                               gate = _mm512_add_ps(gate, load(bias + panel * PANEL));
                               up = _mm512_add_ps(up, load(bias + panel * PANEL + LANES));
                           }
                           store(inner.data() + row * deep + panel * LANES,
                                 _mm512_mul_ps(silu(gate), up));
                       });
            product<T>(tokens, inner.data(), layer.down, hidden, deep, plus(layer.down_bias));
        }
#pragma omp for
        for (int64_t kept = 0; kept < step.kept; kept++) {
            float *into = step.states + kept * hidden;
            const float *from = x.data() + step.keep[kept] * hidden;
            step.finite[kept] = norm(from, model.norm, model.epsilon, hidden, into);
            for (int64_t j = 0; j < hidden; j++) narrow(into[j], normed[kept * hidden + j]);
        }
        if (model.head)
            product<T>(step.kept, normed.data(), model.head, model.vocabulary, hidden,
                       [&](int64_t row, int64_t panel, V low, V high) {
                           const int64_t n = panel * PANEL;
                           float *at = step.logits + row * model.vocabulary + n;
                           _mm512_mask_storeu_ps(at, lanes(model.vocabulary - n), low);
                           _mm512_mask_storeu_ps(at + LANES, lanes(model.vocabulary - n - LANES),
                                                 high);
                       });
    }
}

}  // namespace

// Bytes of a Layer, a Model, a Step: whoever calls must have the same.
int64_t decoder_size(int of) { return of == 0 ? sizeof(Layer) : of == 1 ? sizeof(Model) : sizeof(Step); }

// 0, or which of a step's numbers is out of range: 1 a token id, 2 a position; 3 when this build
// has no bfloat16.
int decoder_forward(const Model *model, Step *step) {
    for (int64_t row = 0; row < step->tokens; row++) {
        if (step->ids[row] < 0 || step->ids[row] >= model->vocabulary) return 1;
        if (step->position[row] < 0 || step->position[row] >= model->positions) return 2;
    }
    if (!model->bfloat16) {
        forward<float>(*model, *step);
        return 0;
    }
#ifdef __AVX512BF16__
    forward<BFloat16>(*model, *step);
    return 0;
#else
    return 3;
#endif
}
