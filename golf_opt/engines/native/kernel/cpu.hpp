// What a CPU gives: a vector is a register of the SIMD unit, a team one thread.
//
// With GOLF_WARPS it stands in for a thread block of a GPU: a team is as many threads, one for each
// warp, and a vector holds its lanes. What is dealt out wrongly, or lacks a barrier, is a race there
// too, which a thread sanitizer finds without a GPU.
#pragma once

#include <cstdint>
#include <cstring>
#include <ctime>
#include <utility>
#if defined(GOLF_WARPS)
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>
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

#define UNROLL_ROWS
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

// By their builtins, like the instructions below: <cmath> and <immintrin.h> would take as long to
// read as most layers take to compile.
INLINE float sqrt(float x) { return __builtin_sqrtf(x); }
INLINE double sqrt(double x) { return __builtin_sqrt(x); }
INLINE float fabs(float x) { return __builtin_fabsf(x); }
INLINE double log(double x) { return __builtin_log(x); }
INLINE double pow(double x, double y) { return __builtin_pow(x, y); }

static_assert(WIDTH % IMAGES == 0, "a vector holds whole positions");

template <int N>
struct Types {
    typedef float Float __attribute__((vector_size(4 * N), aligned(4), may_alias));
    typedef int32_t Int __attribute__((vector_size(4 * N), aligned(4), may_alias));
    typedef uint32_t Word __attribute__((vector_size(4 * N), aligned(4), may_alias));
    typedef int8_t Byte __attribute__((vector_size(N), aligned(1), may_alias));
    typedef float Value __attribute__((vector_size(4 * N)));
    typedef int32_t Mask __attribute__((vector_size(4 * N)));
    typedef uint32_t Bits __attribute__((vector_size(4 * N)));
};
template <int N>
using Vec = typename Types<N>::Value;  // N floats in a register
template <int N>
using Ints = typename Types<N>::Mask;  // N 32-bit integers; a comparison gives -1 or 0
template <int N>
using Words = typename Types<N>::Bits;  // the same without a sign

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
#if defined(__AVX2__)
    if constexpr (N == 8 || (N == 16 && REGISTERS == 32)) {
        Ints<N> value;
        asm("vpmovsxbd %1, %0" : "=v"(value) : "m"(*reinterpret_cast<const int8_t(*)[N]>(from)));
        return value;
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
        asm("vpmovdb %1, %0" : "=v"(bytes) : "v"(value));
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

// Small integers of 32 bits, as they are.
template <int N>
INLINE Ints<N> load_ints(const void* from) {
    return *reinterpret_cast<const typename Types<N>::Int*>(from);
}
template <int N>
INLINE void store_ints(void* to, Ints<N> value) {
    *reinterpret_cast<typename Types<N>::Int*>(to) = value;
}
template <int N>
INLINE Vec<N> to_float(Ints<N> value) {
    return __builtin_convertvector(value, Vec<N>);
}
template <int N>
INLINE Ints<N> to_int(Vec<N> value) {  // rounds towards zero
    return __builtin_convertvector(value, Ints<N>);
}
template <int N>
INLINE Ints<N> bits_of(Vec<N> value) {
    Ints<N> bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
template <int N>
INLINE Vec<N> from_bits(Ints<N> bits) {
    Vec<N> value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
// A vector with zeros behind its first COUNT floats.
template <int N, int COUNT>
INLINE Vec<N> first_lanes(Vec<N> value) {
    if constexpr (COUNT == N) return value;
    Vec<N> some{};
    std::memcpy(&some, &value, COUNT * sizeof(float));
    return some;
}

// Lane by lane: make a vector, look at it, add up.
template <int N, class F>
INLINE Vec<N> make(F&& value) {
    float lanes[N];
    for (int i = 0; i < N; i++) lanes[i] = value(i);
    return load<N>(lanes);
}
template <int N, class F>
INLINE Words<N> make_words(F&& value) {
    uint32_t lanes[N];
    for (int i = 0; i < N; i++) lanes[i] = value(i);
    return *reinterpret_cast<const typename Types<N>::Word*>(lanes);
}
template <int N, class Body>
INLINE void each_lane(Body&& body) {
    for (int i = 0; i < N; i++) body(i);
}
template <int N>
INLINE float lane_of(Vec<N> value, int lane) {
    return value[lane];
}
template <int N>
INLINE int lane_of_ints(Ints<N> value, int lane) {
    return value[lane];
}
template <int N, class F>
INLINE double sum_lanes(F&& value) {
    double total = 0;
    for (int i = 0; i < N; i++) total += value(i);
    return total;
}

// By those who have a vector of N floats, together.
template <int N>
INLINE void clear(float* to, int floats) {
    std::memset(to, 0, floats * sizeof(float));
}
template <int N>
INLINE void copy(float* to, const float* from, int floats) {
    std::memcpy(to, from, floats * sizeof(float));
}
template <int N, class Body>
INLINE void one(Body&& body) {
    body();
}

INLINE void prefetch(const void* address) { __builtin_prefetch(address); }

// Denormal numbers cost a hundred times more and mean nothing here. Set for the calling thread,
// and put back: the process is not ours.
class FlushDenormals {
#if defined(__SSE__)
    unsigned before = __builtin_ia32_stmxcsr();

   public:
    FlushDenormals() { __builtin_ia32_ldmxcsr(before | 0x8040); }
    ~FlushDenormals() { __builtin_ia32_ldmxcsr(before); }
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

INLINE double not_a_number() { return __builtin_nan(""); }

INLINE double now_s() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

}  // namespace golf

#if defined(GOLF_WARPS)
#include "emulated.hpp"
#else
#include "alone.hpp"
#endif
