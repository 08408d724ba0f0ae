// Vectors of 16 float32.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <initializer_list>

namespace {

constexpr int64_t LANES = 16;
using V = __m512;

inline V load(const float *from) { return _mm512_loadu_ps(from); }
inline void store(float *into, V value) { _mm512_storeu_ps(into, value); }

// The first `count` lanes.
inline __mmask16 lanes(int64_t count) {
    return count >= LANES ? 0xffff : count <= 0 ? 0 : __mmask16((1u << count) - 1);
}

// exp by 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; 0 below -87. Relative error 2e-7.
inline V exponential(V x) {
    const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
    x = _mm512_min_ps(_mm512_set1_ps(88.0f), x);  // in this order NaN stays NaN
    const V n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    V r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    V y = _mm512_set1_ps(1.9875691500e-4f);
    for (float term : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                       5.0000001201e-1f})
        y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(term));
    y = _mm512_fmadd_ps(_mm512_mul_ps(y, r), r, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_maskz_scalef_ps(normal, y, n);
}

}  // namespace
