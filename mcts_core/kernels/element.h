// The two formats of weights and KV, and what a vector lane multiplies of each.

#pragma once

#include "vector.h"

#include <cstring>
#include <type_traits>

namespace {

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
inline V part(const float *from) { return load(from); }
inline V everywhere(const float *from) { return all(*from); }
inline V fma(V sum, V left, V right, float) { return times_plus(left, right, sum); }
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

constexpr int TILE = REGISTERS == 32 ? 8 : 3;  // rows that are computed at once

// Calls with a number of rows from 1 to TILE as a constant.
template <int MOST = TILE, class Call>
inline void with_rows(int64_t rows, const Call &call) {
    if constexpr (MOST > 1)
        if (rows < MOST) return with_rows<MOST - 1>(rows, call);
    call(std::integral_constant<int, MOST>{});
}

}  // namespace
