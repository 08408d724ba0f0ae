// Draws a token for each row of logits: temperature, top-k, top-p and min-p, tokens that siblings
// have taken, and the inverse of the cumulative distribution at the row's noise. A row is drawn by
// one thread, the same whatever the others are.

#include "vector.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

extern "C" {

struct Draw {
    const float *own;     // the model's logits
    const float *scaled;  // the same after bias and penalties
    double noise;         // in [0, 1)
    float temperature, top_p, min_p;
    int64_t top_k;   // 0: all
    int64_t greedy;  // the most likely token
    const int64_t *taken;   // tokens whose probabilities are multiplied by `factors`
    const double *factors;
    int64_t taken_count;
    int64_t token;                 // out; -1: logits are not finite
    double logprob, draw_logprob;  // out: of the model, and at the temperature after the filters
};

void sampler_draw(Draw *draws, int64_t count, int64_t vocabulary, int64_t threads);
int64_t sampler_size();
}

namespace {

constexpr int64_t RUN = 256;            // tokens whose probabilities are added up together
constexpr double NOTHING_LEFT = 1e-6;  // probability below which there is no new option

struct Weighed {
    float weight;
    int64_t token;
};

constexpr int32_t BAND = 768;  // buckets that are counted at once

struct Scratch {
    std::vector<float> weights;  // exp(x - peak)
    std::vector<double> runs;    // sums of RUN weights
    std::array<double, BAND> sums;
    std::array<int32_t, BAND> counts;
    std::vector<Weighed> inside;  // a bucket
};

double sum(const float *weights, int64_t count) {
    V total = zero();
    for (int64_t at = 0; at < count; at += LANES)
        total = total + load_some(weights + at, lanes(count - at), zero());
    return sum_of(total);
}

double add_runs(Scratch &scratch, int64_t vocabulary) {
    double total = 0;
    scratch.runs.clear();
    for (int64_t at = 0; at < vocabulary; at += RUN) {
        scratch.runs.push_back(sum(scratch.weights.data() + at, std::min(RUN, vocabulary - at)));
        total += scratch.runs.back();
    }
    return total;
}

const float NEVER = -std::numeric_limits<float>::infinity();

float highest(const float *logits, int64_t vocabulary) {
    V found[4] = {all(NEVER), all(NEVER), all(NEVER), all(NEVER)};
    int64_t at = 0;
    for (; at + 4 * LANES <= vocabulary; at += 4 * LANES)
        for (int64_t i = 0; i < 4; i++) found[i] = most(found[i], load(logits + at + i * LANES));
    for (; at < vocabulary; at += LANES)
        found[0] = most(found[0], load_some(logits + at, lanes(vocabulary - at), all(NEVER)));
    return most_of(most(most(found[0], found[1]), most(found[2], found[3])));
}

// The sum of exp((logits - peak) / temperature), which is not finite if a logit is NaN. With KEEP
// they are left in weights, and their sums in runs.
template <bool KEEP>
double soften(const float *logits, int64_t vocabulary, float peak, float temperature,
              Scratch &scratch) {
    const V top = all(peak), cold = all(1.0f / temperature);
    if (KEEP) {
        scratch.weights.resize((vocabulary + LANES - 1) / LANES * LANES);
        scratch.runs.clear();
    }
    double total = 0;
    for (int64_t at = 0; at < vocabulary;) {
        V run = zero();
        for (const int64_t end = std::min(at + RUN, vocabulary); at < end; at += LANES) {
            const V x = at + LANES <= vocabulary
                            ? load(logits + at)
                            : load_some(logits + at, lanes(vocabulary - at), all(NEVER));
            const V weight = exponential((x - top) * cold);
            if (KEEP) store(scratch.weights.data() + at, weight);
            run = run + weight;
        }
        const double added = sum_of(run);
        if (KEEP) scratch.runs.push_back(added);
        total += added;
    }
    return total;
}

// Weights from 0 to 1 fall into buckets, the heaviest first: 128 for each power of two.
constexpr int SHIFT = 16;
constexpr int32_t ONE = std::bit_cast<int32_t>(1.0f);
constexpr int32_t BUCKETS = (ONE - std::bit_cast<int32_t>(0x1p-126f)) >> SHIFT;

int32_t bucket_of(float weight) { return std::max(0, ONE - std::bit_cast<int32_t>(weight)) >> SHIFT; }
float least_before(int32_t bucket) { return std::bit_cast<float>(ONE - (bucket << SHIFT) + 1); }

// Takes each token with a weight of at least `low`, and below `high`.
template <class Take>
void each_between(float low, float high, int64_t vocabulary, const Scratch &scratch, Take take) {
    for (int64_t at = 0; at < vocabulary; at += LANES) {
        const V weights = load(scratch.weights.data() + at);
        for (uint32_t some = bits(first_without(at_least(weights, low), at_least(weights, high)));
             some; some &= some - 1)
            take(at + std::countr_zero(some));
    }
}

void drop_below(float least, int64_t vocabulary, Scratch &scratch) {
    for (int64_t at = 0; at < vocabulary; at += LANES) {
        float *const weights = scratch.weights.data() + at;
        const V some = load(weights);
        store(weights, pick(at_least(some, least), some, zero()));
    }
}

// Zeroes all but the heaviest weights: those before which fewer than `most` come, of a sum below
// `enough`. Of equals the one that comes first is the heavier.
void keep_heaviest(int64_t most, double enough, int64_t vocabulary, Scratch &scratch) {
    const auto &weights = scratch.weights;
    double before = 0;
    int64_t kept = 0;
    for (int32_t first = 0; first < BUCKETS; first += BAND) {
        // Buckets of about equal weights are counted, band by band: most of a vocabulary is so light
        // that it is never looked at.
        scratch.sums.fill(0), scratch.counts.fill(0);
        each_between(least_before(first + BAND), least_before(first), vocabulary, scratch,
                     [&](int64_t token) {
                         const int32_t bucket = bucket_of(weights[token]) - first;
                         scratch.sums[bucket] += weights[token], scratch.counts[bucket]++;
                     });
        int32_t last = 0;  // the bucket with the first that is dropped
        for (; last < BAND; last++) {
            if (before + scratch.sums[last] >= enough || kept + scratch.counts[last] >= most) break;
            before += scratch.sums[last], kept += scratch.counts[last];
        }
        if (last == BAND) continue;
        last += first;
        auto &inside = scratch.inside;
        inside.clear();
        each_between(least_before(last + 1), least_before(last), vocabulary, scratch,
                     [&](int64_t token) { inside.push_back({weights[token], token}); });
        std::sort(inside.begin(), inside.end(), [](const Weighed &one, const Weighed &other) {
            return one.weight != other.weight ? one.weight > other.weight : one.token < other.token;
        });
        drop_below(least_before(last), vocabulary, scratch);
        for (const Weighed &each : inside) {
            if (kept && (before >= enough || kept >= most)) break;
            scratch.weights[each.token] = each.weight;
            before += each.weight, kept++;
        }
        return;
    }
}

// Zeroes the weights that the row's filters drop; the heaviest is always kept. True if it has any.
bool filter(const Draw &draw, int64_t vocabulary, double total, Scratch &scratch) {
    const bool mass = draw.top_p < 1.0f;
    if (!draw.top_k && !mass && draw.min_p <= 0.0f) return false;
    if (draw.min_p > 0.0f) drop_below(draw.min_p, vocabulary, scratch);  // the heaviest is 1
    if (draw.top_k || mass)
        keep_heaviest(draw.top_k ? draw.top_k : vocabulary,
                      mass ? draw.top_p * total : std::numeric_limits<double>::infinity(),
                      vocabulary, scratch);
    return true;
}

// The weights of what siblings have taken, times their factors, unless nothing is left then.
// Returns the sum.
double without_siblings(const Draw &draw, double total, Scratch &scratch) {
    if (!draw.taken_count) return total;
    float *weights = scratch.weights.data();
    double left = total;
    for (int64_t i = 0; i < draw.taken_count; i++)
        left -= (1.0 - draw.factors[i]) * weights[draw.taken[i]];
    if (left < NOTHING_LEFT * total) return total;
    for (int64_t i = 0; i < draw.taken_count; i++) {
        const int64_t token = draw.taken[i];
        weights[token] *= float(draw.factors[i]);
        const int64_t run = token / RUN, first = run * RUN;
        scratch.runs[run] = sum(weights + first, std::min<int64_t>(RUN, scratch.weights.size() - first));
    }
    left = 0;
    for (double each : scratch.runs) left += each;
    return left;
}

// The first token at which the sum of the weights passes `target`; the last one that has a weight
// if rounding leaves none.
int64_t find(double target, int64_t vocabulary, const Scratch &scratch) {
    double passed = 0;
    int64_t chosen = -1;
    for (int64_t run = 0; run < int64_t(scratch.runs.size()); run++) {
        if (scratch.runs[run] <= 0) continue;
        if (chosen >= 0) passed += scratch.runs[chosen];
        chosen = run;
        if (passed + scratch.runs[run] > target) break;
    }
    int64_t found = -1;
    for (int64_t token = chosen * RUN; token < std::min(vocabulary, (chosen + 1) * RUN); token++) {
        if (scratch.weights[token] <= 0.0f) continue;
        found = token;
        passed += scratch.weights[token];
        if (passed > target) break;
    }
    return found;
}

void draw_one(Draw &draw, int64_t vocabulary, Scratch &scratch) {
    draw.token = -1;
    const bool edited = draw.scaled != draw.own;
    const float peak = highest(draw.own, vocabulary);
    const float top = edited ? highest(draw.scaled, vocabulary) : peak;
    if (!std::isfinite(peak) || !std::isfinite(top)) return;
    double used = soften<true>(draw.scaled, vocabulary, top, draw.temperature, scratch);
    const bool same = !edited && draw.temperature == 1.0f;
    const double total = same ? used : soften<false>(draw.own, vocabulary, peak, 1.0f, scratch);
    if (!std::isfinite(total) || !std::isfinite(used)) return;
    if (filter(draw, vocabulary, used, scratch)) used = add_runs(scratch, vocabulary);
    const double left = without_siblings(draw, used, scratch);
    if (draw.greedy) {
        const auto begin = scratch.weights.begin();
        draw.token = std::max_element(begin, begin + vocabulary) - begin;
    } else {
        draw.token = find(draw.noise * left, vocabulary, scratch);
    }
    draw.logprob = double(draw.own[draw.token] - peak) - std::log(total);
    draw.draw_logprob = double((draw.scaled[draw.token] - top) / draw.temperature) - std::log(used);
}

}  // namespace

// Bytes of a Draw: whoever calls must have the same.
int64_t sampler_size() { return sizeof(Draw); }

void sampler_draw(Draw *draws, int64_t count, int64_t vocabulary, int64_t threads) {
#pragma omp parallel num_threads(int(threads))
    {
        Scratch scratch;
#pragma omp for schedule(dynamic, 1)
        for (int64_t row = 0; row < count; row++) draw_one(draws[row], vocabulary, scratch);
    }
}
