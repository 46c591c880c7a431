// What the machine gives: lane vectors, sums over lanes, loops over positions, barriers.
//
// Everything above this header is written in these words, so another machine needs only another
// header. Here a team is one thread: `each` is a loop and `barrier` nothing. In a CUDA build a team
// is a thread block: a vector is one float per thread of a warp, `each` deals its indices out to
// the warps, `barrier` is __syncthreads and `sum` a warp reduction.
//
// A tensor is [channel][y][x][image], with IMAGES images side by side. A vector of WIDTH floats is
// therefore WIDTH / IMAGES neighbouring positions of one row: one position where the batch is large
// enough to fill a vector by itself, several where it is small.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE__)
#include <xmmintrin.h>
#endif

#ifndef GOLF_WIDTH  // floats per vector
#if defined(__AVX512F__)
#define GOLF_WIDTH 16
#elif defined(__AVX__)
#define GOLF_WIDTH 8
#elif defined(__ARM_NEON) || defined(__SSE2__)
#define GOLF_WIDTH 4
#else
#define GOLF_WIDTH 1
#endif
#endif

#ifndef GOLF_IMAGES  // images side by side, at most GOLF_WIDTH
#define GOLF_IMAGES GOLF_WIDTH
#endif

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
#define INLINE inline __attribute__((always_inline))

namespace golf {

constexpr int WIDTH = GOLF_WIDTH;
constexpr int IMAGES = GOLF_IMAGES;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif
constexpr int ACCUMULATORS = REGISTERS * 3 / 4;  // the rest holds operands

static_assert(WIDTH % IMAGES == 0, "a vector holds whole positions");

template <int N>
struct Types {
    typedef float Float __attribute__((vector_size(4 * N), aligned(4), may_alias));
    typedef int32_t Int __attribute__((vector_size(4 * N), aligned(4), may_alias));
    typedef uint32_t Word __attribute__((vector_size(4 * N), aligned(4), may_alias));
    typedef int8_t Byte __attribute__((vector_size(N), aligned(1), may_alias));
    typedef float Value __attribute__((vector_size(4 * N)));
    typedef int32_t Mask __attribute__((vector_size(4 * N)));
};
template <int N>
using Vec = typename Types<N>::Value;  // N floats in a register
template <int N>
using Ints = typename Types<N>::Mask;  // N 32-bit integers; a comparison gives -1 or 0

template <int N>
INLINE Vec<N> load(const float* from) {
    return *reinterpret_cast<const typename Types<N>::Float*>(from);
}
template <int N>
INLINE void store(float* to, Vec<N> value) {
    *reinterpret_cast<typename Types<N>::Float*>(to) = value;
}
template <int N>
INLINE Vec<N> broadcast(float value) {
    return Vec<N>{} + value;
}
template <int N>
INLINE void add_to(float* to, Vec<N> value) {
    store<N>(to, load<N>(to) + value);
}
// The first COUNT floats of a vector; the rest is zero.
template <int N, int COUNT>
INLINE Vec<N> load_some(const float* from) {
    if constexpr (COUNT == N) return load<N>(from);
    Vec<N> value{};
    std::memcpy(&value, from, COUNT * sizeof(float));
    return value;
}
template <int N, int COUNT>
INLINE void store_some(float* to, Vec<N> value) {
    if constexpr (COUNT == N)
        store<N>(to, value);
    else
        std::memcpy(to, &value, COUNT * sizeof(float));
}
// Small integers are kept as bytes. (gcc 12 converts a vector of them lane by lane.)
template <int N>
INLINE Ints<N> load_bytes(const int8_t* from) {
#if defined(__AVX512F__)
    if constexpr (N == 16) {
        return (Ints<N>)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    }
#endif
#if defined(__AVX2__)
    if constexpr (N == 8) {
        return (Ints<N>)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
    }
#endif
    typename Types<N>::Byte bytes = *reinterpret_cast<const typename Types<N>::Byte*>(from);
    return __builtin_convertvector(bytes, Ints<N>);
}
template <int N, int COUNT>
INLINE void store_bytes(int8_t* to, Ints<N> value) {
    typedef int8_t Bytes __attribute__((vector_size(N)));
    Bytes bytes;
#if defined(__AVX512F__)
    if constexpr (N == 16) {
        bytes = (Bytes)_mm512_cvtepi32_epi8((__m512i)value);
    } else
#endif
        bytes = __builtin_convertvector(value, Bytes);
    std::memcpy(to, &bytes, COUNT);
}

// The sum over all lanes of a vector.
template <int N>
INLINE float sum(Vec<N> value) {
    float total = 0;
    for (int lane = 0; lane < N; lane++) total += value[lane];
    return total;
}

// Shuffles with compile-time indices: gcc has __builtin_shuffle, clang __builtin_shufflevector.
template <int N, class Index, int... I>
INLINE Vec<N> shuffle(Vec<N> a, Vec<N> b, Index, std::integer_sequence<int, I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, Index::at(I)...);
#else
    return __builtin_shuffle(a, b, Ints<N>{Index::at(I)...});
#endif
}
template <int N, class Index>
INLINE Vec<N> shuffle(Vec<N> a, Vec<N> b, Index index) {
    return shuffle<N>(a, b, index, std::make_integer_sequence<int, N>{});
}
template <int GROUP, int PARITY>  // every second group of GROUP lanes of the pair (a, b)
struct EveryOther {
    static constexpr int at(int i) { return (2 * (i / GROUP) + PARITY) * GROUP + i % GROUP; }
};
template <int GROUP, int N, int HALF>  // lanes of a and b by turns, in groups
struct ByTurns {
    static constexpr int at(int i) {
        return (i / GROUP % 2) * N + (HALF * (N / GROUP / 2) + i / GROUP / 2) * GROUP + i % GROUP;
    }
};
// (a, b) hold 2P neighbouring positions of a row: split them into even and odd ones, and back.
template <int N>
INLINE void deinterleave(Vec<N>& a, Vec<N>& b) {
    if constexpr (N > IMAGES) {
        Vec<N> even = shuffle<N>(a, b, EveryOther<IMAGES, 0>{});
        b = shuffle<N>(a, b, EveryOther<IMAGES, 1>{});
        a = even;
    }
}
template <int N>
INLINE void interleave(Vec<N>& even, Vec<N>& odd) {
    if constexpr (N > IMAGES) {
        Vec<N> a = shuffle<N>(even, odd, ByTurns<IMAGES, N, 0>{});
        odd = shuffle<N>(even, odd, ByTurns<IMAGES, N, 1>{});
        even = a;
    }
}

// 16 bytes of each of N byte rows -> four vectors: words[k] lane i is 4k .. 4k + 3 of row i.
template <int N>
INLINE void load_words(const uint8_t* const* rows, int at, Ints<N> (&words)[4]) {
#if defined(__AVX2__)
    if constexpr (N == 8 || N == 16) {
        // A transposition: 4x4 words in each quarter, with rows 4i + j in quarter i of vector j.
        const auto row = [&](int i) {
            return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + at));
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
        std::memcpy(quad, rows[i] + at, sizeof quad);
        UNROLL for (int k = 0; k < 4; k++) words[k][i] = quad[k];
    }
}

// N vectors -> one vector of their N sums: log2(N) rounds of pairwise additions, which is 10 times
// cheaper than N sums.
template <int N>
INLINE Vec<N> sums(const float* from) {
    Vec<N> v[N];
    UNROLL for (int i = 0; i < N; i++) v[i] = load<N>(from + i * N);
    UNROLL for (int count = N / 2; count >= 1; count /= 2) {
        UNROLL for (int i = 0; i < count; i++) {
            Vec<N> a = v[2 * i], b = v[2 * i + 1];
            v[i] = shuffle<N>(a, b, EveryOther<1, 0>{}) + shuffle<N>(a, b, EveryOther<1, 1>{});
        }
    }
    return v[0];
}

// A team runs one trial.
template <class Body>
INLINE void each(int count, Body&& body) {
    for (int i = 0; i < count; i++) body(i);
}
INLINE void barrier() {}

INLINE void prefetch(const void* address) { __builtin_prefetch(address); }

// Denormal numbers cost a hundred times more and mean nothing here. Set for the calling thread,
// and put back: the process is not ours.
class FlushDenormals {
#if defined(__SSE__)
    unsigned before = _mm_getcsr();

   public:
    FlushDenormals() { _mm_setcsr(before | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(before); }
#elif defined(__aarch64__)
    uint64_t before;

   public:
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before));
        asm volatile("msr fpcr, %0" ::"r"(before | (1ull << 24)));
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(before)); }
#else
   public:
    FlushDenormals() {}
#endif
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;
};

// -ffast-math lets the compiler assume there is no infinity and no nan, so look at the bits.
INLINE bool is_finite(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7f800000u) != 0x7f800000u;
}
INLINE bool is_finite(double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7ff0000000000000u) != 0x7ff0000000000000u;
}

INLINE double now_s() {
    using Clock = std::chrono::steady_clock;
    return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

}  // namespace golf
