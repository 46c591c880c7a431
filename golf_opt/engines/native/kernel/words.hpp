// Many images' bytes at once, on a CPU.
#pragma once

#include "primitives.hpp"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace golf {

// Where the bytes of N images lie.
template <int N>
struct Rows {
    const uint8_t* row[N];
};
template <int N, class F>
INLINE Rows<N> make_rows(F&& row) {
    Rows<N> rows;
    for (int i = 0; i < N; i++) rows.row[i] = row(i);
    return rows;
}

// 16 bytes of each of N byte rows -> four vectors: words[k] lane i is 4k .. 4k + 3 of row i.
template <int N>
INLINE void load_words(const Rows<N>& rows, int at, Ints<N> (&words)[4]) {
#if defined(__AVX2__)
    if constexpr (N == 8 || N == 16) {
        // A transposition: 4x4 words in each quarter, with rows 4i + j in quarter i of vector j.
        const auto row = [&](int i) {
            return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows.row[i] + at));
        };
        if constexpr (N == 8) {
            __m256i r[4];
            UNROLL for (int j = 0; j < 4; j++) {
                r[j] = _mm256_inserti128_si256(_mm256_castsi128_si256(row(j)), row(4 + j), 1);
            }
            const __m256i a = _mm256_unpacklo_epi32(r[0], r[1]), b = _mm256_unpackhi_epi32(r[0], r[1]);
            const __m256i c = _mm256_unpacklo_epi32(r[2], r[3]), d = _mm256_unpackhi_epi32(r[2], r[3]);
            words[0] = (Ints<N>)_mm256_unpacklo_epi64(a, c);
            words[1] = (Ints<N>)_mm256_unpackhi_epi64(a, c);
            words[2] = (Ints<N>)_mm256_unpacklo_epi64(b, d);
            words[3] = (Ints<N>)_mm256_unpackhi_epi64(b, d);
            return;
        }
#if defined(__AVX512F__)
        if constexpr (N == 16) {
            __m512i r[4];
            UNROLL for (int j = 0; j < 4; j++) {
                r[j] = _mm512_castsi128_si512(row(j));
                r[j] = _mm512_inserti32x4(r[j], row(4 + j), 1);
                r[j] = _mm512_inserti32x4(r[j], row(8 + j), 2);
                r[j] = _mm512_inserti32x4(r[j], row(12 + j), 3);
            }
            const __m512i a = _mm512_unpacklo_epi32(r[0], r[1]), b = _mm512_unpackhi_epi32(r[0], r[1]);
            const __m512i c = _mm512_unpacklo_epi32(r[2], r[3]), d = _mm512_unpackhi_epi32(r[2], r[3]);
            words[0] = (Ints<N>)_mm512_unpacklo_epi64(a, c);
            words[1] = (Ints<N>)_mm512_unpackhi_epi64(a, c);
            words[2] = (Ints<N>)_mm512_unpacklo_epi64(b, d);
            words[3] = (Ints<N>)_mm512_unpackhi_epi64(b, d);
            return;
        }
#endif
    }
#endif
    UNROLL for (int i = 0; i < N; i++) {
        int32_t quad[4];
        std::memcpy(quad, rows.row[i] + at, sizeof quad);
        UNROLL for (int k = 0; k < 4; k++) words[k][i] = quad[k];
    }
}

}  // namespace golf
