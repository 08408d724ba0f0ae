// Draws a token for each row of logits: temperature, top-k, top-p and min-p, tokens that siblings
// have taken, and the inverse of the cumulative distribution at the row's noise. A row is drawn by
// one thread, the same whatever the others are.

#include "vector.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>
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

struct Scratch {
    std::vector<float> weights;  // exp(x - peak)
    std::vector<double> runs;    // sums of RUN weights
    std::vector<int64_t> order;
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

// Fills weights with exp((logits - their peak) / temperature) and runs with their sums; returns the
// peak and the sum, which are not finite if a logit is NaN or infinite, or all are -infinite.
std::pair<float, double> soften(const float *logits, int64_t vocabulary, float temperature,
                                Scratch &scratch) {
    const V never = all(-std::numeric_limits<float>::infinity());
    V highest = never;
    for (int64_t at = 0; at < vocabulary; at += LANES)
        highest = most(highest, load_some(logits + at, lanes(vocabulary - at), never));
    const float peak = most_of(highest);
    const V top = all(peak), cold = all(1.0f / temperature);
    scratch.weights.resize((vocabulary + LANES - 1) / LANES * LANES);
    for (int64_t at = 0; at < vocabulary; at += LANES) {
        const V x = load_some(logits + at, lanes(vocabulary - at), never);
        store(scratch.weights.data() + at, exponential((x - top) * cold));
    }
    return {peak, add_runs(scratch, vocabulary)};
}

// Zeroes the weights that the row's filters drop; the heaviest is always kept. True if any was.
bool filter(const Draw &draw, int64_t vocabulary, double total, Scratch &scratch) {
    float *weights = scratch.weights.data();
    if (!draw.top_k && draw.top_p >= 1.0f) {
        if (draw.min_p <= 0.0f) return false;
        for (int64_t token = 0; token < vocabulary; token++)
            if (weights[token] < draw.min_p && weights[token] < 1.0f) weights[token] = 0.0f;
        return true;
    }
    auto &order = scratch.order;
    order.clear();
    for (int64_t token = 0; token < vocabulary; token++)
        if (weights[token] > 0.0f) order.push_back(token);
    const auto lighter = [&](int64_t one, int64_t two) {
        return weights[one] != weights[two] ? weights[one] < weights[two] : one > two;
    };
    std::make_heap(order.begin(), order.end(), lighter);
    double before = 0;
    auto end = order.end();
    for (int64_t kept = 0; end != order.begin(); kept++) {
        const float weight = weights[order.front()];
        const bool dropped = (draw.top_k && kept >= draw.top_k) ||
                             (draw.top_p < 1.0f && before >= draw.top_p * total) ||
                             weight < draw.min_p;  // the heaviest weight is 1
        if (kept && dropped) break;
        std::pop_heap(order.begin(), end--, lighter);
        before += weight;
    }
    for (auto at = order.begin(); at != end; at++) weights[*at] = 0.0f;
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
    const auto [peak, total] = soften(draw.own, vocabulary, 1.0f, scratch);
    if (!std::isfinite(peak) || !std::isfinite(total)) return;
    float top = peak;
    double used = total;
    if (draw.scaled != draw.own || draw.temperature != 1.0f) {
        std::tie(top, used) = soften(draw.scaled, vocabulary, draw.temperature, scratch);
        if (!std::isfinite(top) || !std::isfinite(used)) return;
    }
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
