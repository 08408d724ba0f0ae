// Draws a token for each row of logits: temperature, top-k, top-p and min-p, tokens that siblings
// have taken, and the inverse of the cumulative distribution at the row's noise. A row is drawn by
// one thread, the same whatever the others are.

#include "vector.h"

#include <omp.h>

#include <algorithm>
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

struct Scratch {
    std::vector<float> weights;  // exp(x - peak)
    std::vector<double> runs;    // sums of RUN weights
    std::vector<Weighed> heaviest;
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

// Fills heaviest with the tokens of the greatest weights, in no order: at least those which the
// row's filters can keep. What they drop by far is most of a vocabulary, and is only looked at.
void gather_heaviest(const Draw &draw, int64_t vocabulary, double enough, Scratch &scratch) {
    const float *weights = scratch.weights.data();
    const float least = std::max(draw.min_p, std::numeric_limits<float>::denorm_min());
    for (float bound = 0x1p-6f;; bound *= bound) {  // the heaviest weight is 1
        bound = std::max(bound, least);
        scratch.heaviest.clear();
        double sum = 0;
        for (int64_t at = 0; at < vocabulary; at += LANES)
            for (uint32_t some = bits(at_least(load(weights + at), bound)); some; some &= some - 1) {
                const int64_t token = at + std::countr_zero(some);
                scratch.heaviest.push_back({weights[token], token});
                sum += weights[token];
            }
        const bool all_of_k = draw.top_k && int64_t(scratch.heaviest.size()) >= draw.top_k;
        if (bound <= least || all_of_k || sum >= enough) return;
    }
}

// Zeroes the weights that the row's filters drop; the heaviest is always kept, and of equals the
// one that comes first. True if the row has filters.
bool filter(const Draw &draw, int64_t vocabulary, double total, Scratch &scratch) {
    if (!draw.top_k && draw.top_p >= 1.0f) {
        if (draw.min_p <= 0.0f) return false;
        for (int64_t at = 0; at < vocabulary; at += LANES) {
            float *const weights = scratch.weights.data() + at;
            const V some = load(weights);
            store(weights, pick(at_least(some, draw.min_p), some, zero()));
        }
        return true;
    }
    const int64_t most = draw.top_k ? draw.top_k : vocabulary;
    const double enough = draw.top_p < 1.0f ? draw.top_p * total
                                            : std::numeric_limits<double>::infinity();
    gather_heaviest(draw, vocabulary, enough, scratch);
    const auto heavier = [](const Weighed &one, const Weighed &other) {
        return one.weight != other.weight ? one.weight > other.weight : one.token < other.token;
    };
    // The first that is dropped is looked for by halves: only those around it are put in order.
    auto &heaviest = scratch.heaviest;
    auto first = heaviest.begin(), end = heaviest.end();
    double before = 0;
    while (end - first > 32) {
        const auto middle = first + (end - first) / 2;
        std::nth_element(first, middle, end, heavier);
        double sum = before;
        for (auto at = first; at != middle; at++) sum += at->weight;
        if (sum >= enough || middle - heaviest.begin() >= most) {
            end = middle;
        } else {
            first = middle, before = sum;
        }
    }
    std::sort(first, end, heavier);
    for (; first != end && before < enough && first - heaviest.begin() < most; first++)
        before += first->weight;
    if (first == heaviest.begin()) first++;
    std::fill(scratch.weights.begin(), scratch.weights.end(), 0.0f);
    for (auto at = heaviest.begin(); at != first; at++) scratch.weights[at->token] = at->weight;
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
