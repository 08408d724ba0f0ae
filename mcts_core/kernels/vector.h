// Vectors of 16 float32: a register of AVX-512, or two of AVX2.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <initializer_list>

namespace {

constexpr int64_t LANES = 16;

inline void prefetch(const void *from) { _mm_prefetch(static_cast<const char *>(from), _MM_HINT_T0); }

#ifdef __AVX512F__

using V = __m512;
using Mask = __mmask16;

constexpr int64_t REGISTERS = 32;  // that a V fits into

inline V zero() { return _mm512_setzero_ps(); }
inline V all(float value) { return _mm512_set1_ps(value); }
inline V load(const float *from) { return _mm512_loadu_ps(from); }
inline void store(float *into, V value) { _mm512_storeu_ps(into, value); }
inline V times_plus(V one, V other, V plus) { return _mm512_fmadd_ps(one, other, plus); }
inline V less_times(V from, V one, V other) { return _mm512_fnmadd_ps(one, other, from); }
inline V least(V one, V other) { return _mm512_min_ps(one, other); }  // of a NaN: the other
inline V most(V one, V other) { return _mm512_max_ps(one, other); }
inline V nearest(V x) { return _mm512_roundscale_ps(x, 0); }
inline float sum_of(V x) { return _mm512_reduce_add_ps(x); }
inline float most_of(V x) { return _mm512_reduce_max_ps(x); }

// The first `count` lanes.
inline Mask lanes(int64_t count) {
    return count >= LANES ? 0xffff : count <= 0 ? 0 : Mask((1u << count) - 1);
}
inline Mask first_without(Mask some, Mask others) { return some & ~others; }
inline V pick(Mask some, V theirs, V others) { return _mm512_mask_mov_ps(others, some, theirs); }
inline V load_some(const float *from, Mask some, V others) {
    return _mm512_mask_loadu_ps(others, some, from);
}
inline void store_some(float *into, Mask some, V value) {
    _mm512_mask_storeu_ps(into, some, value);
}

inline Mask at_least(V x, float bound) {  // NaN is
    return _mm512_cmp_ps_mask(x, all(bound), _CMP_NLT_UQ);
}
inline uint32_t bits(Mask some) { return some; }  // one for each lane, the first lowest
inline V scaled(Mask some, V x, V n) {  // x * 2^n for whole n; 0 in the other lanes
    return _mm512_maskz_scalef_ps(some, x, n);
}

#else

struct V {
    __m256 low, high;
};
struct Mask {
    __m256i low, high;
};

constexpr int64_t REGISTERS = 8;

inline V zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline V all(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline V load(const float *from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline void store(float *into, V value) {
    _mm256_storeu_ps(into, value.low);
    _mm256_storeu_ps(into + 8, value.high);
}
inline V operator+(V one, V other) { return {one.low + other.low, one.high + other.high}; }
inline V operator-(V one, V other) { return {one.low - other.low, one.high - other.high}; }
inline V operator*(V one, V other) { return {one.low * other.low, one.high * other.high}; }
inline V operator/(V one, V other) { return {one.low / other.low, one.high / other.high}; }
inline V times_plus(V one, V other, V plus) {
    return {_mm256_fmadd_ps(one.low, other.low, plus.low),
            _mm256_fmadd_ps(one.high, other.high, plus.high)};
}
inline V less_times(V from, V one, V other) {
    return {_mm256_fnmadd_ps(one.low, other.low, from.low),
            _mm256_fnmadd_ps(one.high, other.high, from.high)};
}
inline V least(V one, V other) {  // of a NaN: the other
    return {_mm256_min_ps(one.low, other.low), _mm256_min_ps(one.high, other.high)};
}
inline V most(V one, V other) {
    return {_mm256_max_ps(one.low, other.low), _mm256_max_ps(one.high, other.high)};
}
inline V nearest(V x) {
    constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.low, mode), _mm256_round_ps(x.high, mode)};
}
inline float sum_of(V x) {
    alignas(32) float each[8];
    _mm256_store_ps(each, x.low + x.high);
    return ((each[0] + each[4]) + (each[2] + each[6])) + ((each[1] + each[5]) + (each[3] + each[7]));
}
inline float most_of(V x) {
    alignas(32) float each[8];
    _mm256_store_ps(each, _mm256_max_ps(x.low, x.high));
    float found = each[0];
    for (float value : each) found = value > found ? value : found;
    return found;
}

inline Mask lanes(int64_t count) {
    const int32_t some = count > LANES ? LANES : count < 0 ? 0 : int32_t(count);
    const __m256i first = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_cmpgt_epi32(_mm256_set1_epi32(some), first),
            _mm256_cmpgt_epi32(_mm256_set1_epi32(some - 8), first)};
}
inline Mask first_without(Mask some, Mask others) {
    return {_mm256_andnot_si256(others.low, some.low),
            _mm256_andnot_si256(others.high, some.high)};
}
inline V pick(Mask some, V theirs, V others) {
    return {_mm256_blendv_ps(others.low, theirs.low, _mm256_castsi256_ps(some.low)),
            _mm256_blendv_ps(others.high, theirs.high, _mm256_castsi256_ps(some.high))};
}
inline V load_some(const float *from, Mask some, V others) {
    const V found = {_mm256_maskload_ps(from, some.low), _mm256_maskload_ps(from + 8, some.high)};
    return pick(some, found, others);
}
inline void store_some(float *into, Mask some, V value) {
    _mm256_maskstore_ps(into, some.low, value.low);
    _mm256_maskstore_ps(into + 8, some.high, value.high);
}

inline Mask at_least(V x, float bound) {  // NaN is
    const __m256 least = _mm256_set1_ps(bound);
    return {_mm256_castps_si256(_mm256_cmp_ps(x.low, least, _CMP_NLT_UQ)),
            _mm256_castps_si256(_mm256_cmp_ps(x.high, least, _CMP_NLT_UQ))};
}
inline uint32_t bits(Mask some) {
    return uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(some.low))) |
           uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(some.high))) << 8;
}
inline __m256 power(__m256 n) {  // 2^n for whole n from -126 to 127
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline V scaled(Mask some, V x, V n) {  // x * 2^n for whole n; 0 in the other lanes
    return pick(some, x * V{power(n.low), power(n.high)}, zero());
}

#endif

// exp by 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; 0 below -87. Relative error 2e-7.
inline V exponential(V x) {
    const Mask normal = at_least(x, -87.0f);
    x = least(all(88.0f), x);  // in this order NaN stays NaN
    const V n = nearest(x * all(1.44269504f));
    V r = less_times(x, n, all(0.693359375f));
    r = less_times(r, n, all(-2.12194440e-4f));
    V y = all(1.9875691500e-4f);
    for (float term : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                       5.0000001201e-1f})
        y = times_plus(y, r, all(term));
    y = times_plus(y * r, r, r + all(1.0f));
    return scaled(normal, y, n);
}

}  // namespace
