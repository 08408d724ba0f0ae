// One forward of a dense decoder (Llama, Mistral, Qwen2, Qwen3) over a paged KV cache, on AVX-512 or
// AVX2, with AMX for bfloat16 where there is that.
//
// The models' own modules are hundreds of small operations a step, and a step of a small model then
// costs what calling them costs. Here a step is one call, and a layer eight loops that all threads
// share: norm, query-key-value product, positions and KV write, attention, output product, norm,
// gate-up product, down product. The residual stream is float32 throughout.
//
// A row's result is the same bits whatever else is in the batch, however a prompt was cut, and
// whichever blocks are shared: every sum is taken by one thread, in an order that the model's sizes
// and the row's own length decide.
//
// Layouts. A weight [N, K] is packed into panels of 32 outputs: [N / 32][K / P][32][P], where P
// is how many products a lane takes at once (2 for bfloat16, 1 for float32). A KV block is 16-token
// cells of 16 * dim elements: keys [dim / P][16][P], values [16 / P][dim][P].

#include "decoder.h"

#include "attention.h"
#include "product.h"

#include <omp.h>
#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace {

inline V silu(V x) {
    return x / (all(1.0f) + exponential(zero() - x));
}

// The sum of squares in lanes by index, and the lanes one after the other.
inline float squares(const float *x, int64_t count) {
    V sum = zero();
    int64_t at = 0;
    for (; at + LANES <= count; at += LANES) sum = times_plus(load(x + at), load(x + at), sum);
    float total = sum_of(sum);
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
        store(into + at, load(weight + at) * (load(x + at) * all(scale)));
    for (; at < count; at++) narrow(weight[at] * (x[at] * scale), into[at]);
    return std::isfinite(total);
}

// A head's vector, normalised where the model does so and turned to its position, into [dim].
void place(float *x, const float *weight, const Model &model, int64_t position, float *into) {
    const int64_t half = model.dim / 2;
    if (weight) norm(x, weight, model.epsilon, model.dim, x);
    const float *cosines = model.cosines + position * half, *sines = model.sines + position * half;
    for (int64_t j = 0; j < half; j += LANES) {
        const Mask some = lanes(half - j);
        const V low = load_some(x + j, some, zero()), high = load_some(x + j + half, some, zero());
        const V cosine = load_some(cosines + j, some, zero());
        const V sine = load_some(sines + j, some, zero());
        store_some(into + j, some, less_times(low * cosine, high, sine));
        store_some(into + j + half, some, times_plus(low, sine, high * cosine));
    }
}

// x [dim] times `scale` as T.
template <class T>
void narrow_all(const float *x, float scale, int64_t dim, T *into) {
    for (int64_t j = 0; j < dim; j += LANES) store(into + j, load(x + j) * all(scale));
}

void count_reads(const Model &model, const std::vector<Group> &groups, Batch &step) {
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
void forward(const Model &model, Batch &step) {
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
        scratch.placed.resize(dim);
        scratch.narrowed.resize(dim);
        float *placed = scratch.placed.data();
        T *narrowed = scratch.narrowed.data();
        const auto plus = [&](const float *bias) {  // onto the residual stream
            return [&, bias](int64_t row, int64_t panel, V low, V high) {
                int64_t n = panel * PANEL;
                for (V each : {low, high}) {
                    const Mask some = lanes(hidden - n);
                    if (bias) each = each + load_some(bias + n, some, zero());
                    float *at = x.data() + row * hidden + n;
                    store_some(at, some, load_some(at, some, zero()) + each);
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
            product<T>(scratch.tiles, tokens, normed.data(), layer.qkv, width, hidden,
                       [&](int64_t row, int64_t panel, V low, V high) {
                           float *at = qkv.data() + row * padded + panel * PANEL;
                           if (const float *bias = layer.qkv_bias) {
                               low = low + load(bias + panel * PANEL);
                               high = high + load(bias + panel * PANEL + LANES);
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
                    place(from + h * dim, layer.query_norm, model, position, placed);
                    narrow_all(placed, model.scaling, dim, query.data() + row * queries + h * dim);
                }
                for (int64_t h = 0; h < model.kv_heads; h++) {
                    const int64_t at = (h * step.slots + cell) * dim;
                    T *key = static_cast<T *>(layer.keys) + at + token * P<T>;
                    place(from + queries + h * dim, layer.key_norm, model, position, placed);
                    narrow_all(placed, 1.0f, dim, narrowed);
                    for (int64_t j = 0; j < dim; j += P<T>)
                        std::memcpy(key + j * CELL, narrowed + j, P<T> * sizeof(T));
                    T *value = static_cast<T *>(layer.values) + at + token / P<T> * P<T> * dim;
                    narrow_all(from + queries + own + h * dim, 1.0f, dim, narrowed);
                    for (int64_t j = 0; j < dim; j++) value[j * P<T> + token % P<T>] = narrowed[j];
                }
            }
#pragma omp for schedule(dynamic, 1)
            for (int64_t task = 0; task < int64_t(groups.size()) * model.kv_heads; task++)
                attend<T>(model, layer, step, groups[task / model.kv_heads], task % model.kv_heads,
                          query.data(), attended.data(), scratch);
            product<T>(scratch.tiles, tokens, attended.data(), layer.output, hidden, queries,
                       plus(layer.output_bias));
#pragma omp for
            for (int64_t row = 0; row < tokens; row++)
                norm(x.data() + row * hidden, layer.mlp_norm, model.epsilon, hidden,
                     normed.data() + row * hidden);
            // A panel holds 16 gates and their 16 ups.
            product<T>(scratch.tiles, tokens, normed.data(), layer.gate_up, 2 * deep, hidden,
                       [&](int64_t row, int64_t panel, V gate, V up) {
                           if (const float *bias = layer.gate_up_bias) {
                               gate = gate + load(bias + panel * PANEL);
                               up = up + load(bias + panel * PANEL + LANES);
                           }
                           store(inner.data() + row * deep + panel * LANES, silu(gate) * up);
                       });
            product<T>(scratch.tiles, tokens, inner.data(), layer.down, hidden, deep, plus(layer.down_bias));
        }
#pragma omp for
        for (int64_t kept = 0; kept < step.kept; kept++) {
            float *into = step.states + kept * hidden;
            const float *from = x.data() + step.keep[kept] * hidden;
            step.finite[kept] = norm(from, model.norm, model.epsilon, hidden, into);
            for (int64_t j = 0; j < hidden; j++) narrow(into[j], normed[kept * hidden + j]);
        }
        if (model.head)
            product<T>(scratch.tiles, step.kept, normed.data(), model.head, model.vocabulary, hidden,
                       [&](int64_t row, int64_t panel, V low, V high) {
                           const int64_t n = panel * PANEL;
                           float *at = step.logits + row * model.vocabulary + n;
                           store_some(at, lanes(model.vocabulary - n), low);
                           store_some(at + LANES, lanes(model.vocabulary - n - LANES), high);
                       });
    }
}

}  // namespace

// Bytes of a Layer, a Model, a Step: whoever calls must have the same.
int64_t decoder_size(int of) { return of == 0 ? sizeof(Layer) : of == 1 ? sizeof(Model) : sizeof(Step); }

// Whether this build may run here: tiles are the process's to use once it has asked Linux for them.
int decoder_permitted() {
#ifdef __AMX_BF16__
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return 1;
#endif
}

// 0, or which of a step's numbers is out of range: 1 a token id, 2 a position; 3 when this build
// has no bfloat16.
int decoder_forward(const Model *model, Step *step) {
    for (int64_t row = 0; row < step->tokens; row++)
        if (step->ids[row] < 0 || step->ids[row] >= model->vocabulary) return 1;
    for (int64_t s = 0; s < step->sequences; s++) {
        const int64_t end = step->start[s] + step->rows[s + 1] - step->rows[s];
        if (step->start[s] < 0 || end > model->positions) return 2;
    }
    Batch batch(*step);
    if (!model->bfloat16) {
        forward<float>(*model, batch);
    } else {
#ifdef __AVX512BF16__
        forward<BFloat16>(*model, batch);
#else
        return 3;
#endif
    }
    step->read = batch.read, step->attended = batch.attended;
    return 0;
}
