// What a GPU gives: a team is a thread block, a vector of N floats is one float in each of N
// neighbouring threads of a warp.
#pragma once

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

#define UNROLL _Pragma("unroll")
#define UNROLL_ROWS _Pragma("unroll 4")  // of a kernel: a pool's two rows see the same input
#define INLINE __forceinline__ __device__

namespace golf {

constexpr int WIDTH = 32;
constexpr int IMAGES = GOLF_IMAGES;
constexpr int WARPS = GOLF_WARPS;
constexpr int ACCUMULATORS = 32;
constexpr bool TEAM = true;
template <int N>
constexpr int GROUPS = WARPS * WIDTH / N;

static_assert(WIDTH % IMAGES == 0, "a vector holds whole positions");

template <int N>
using Vec = float;
template <int N>
using Ints = int32_t;
template <int N>
using Words = uint32_t;

template <int N>
INLINE int lane() {
    return threadIdx.x % N;
}
template <int N>
INLINE int group() {
    return threadIdx.x / N;
}
// The threads of a group, as the warp's instructions want them named.
template <int N>
INLINE unsigned members() {
    if constexpr (N == 32) return 0xffffffffu;
    return ((1u << (N % 32)) - 1) << (threadIdx.x % 32 / N * N);
}

// --- the team ---

template <int N, class Body>
INLINE void each(int count, Body&& body) {
    for (int i = group<N>(); i < count; i += GROUPS<N>) body(i);
}
template <int N>
class Turns {
    int at = 0;

   public:
    INLINE bool next() {
        const bool mine = at == group<N>();
        at = at + 1 == GROUPS<N> ? 0 : at + 1;
        return mine;
    }
};
INLINE void barrier() { __syncthreads(); }
template <class Body>
INLINE void once(Body&& body) {
    if (threadIdx.x == 0) body();
}

// --- vectors ---

template <int N>
INLINE float load(const float* from) {
    return from[lane<N>()];
}
template <int N>
INLINE void store(float* to, float value) {
    to[lane<N>()] = value;
}
template <int N>
INLINE float broadcast(float value) {
    return value;
}
template <int N>
INLINE void add_to(float* to, float value) {
    to[lane<N>()] += value;
}
template <int N, int COUNT>
INLINE float load_some(const float* from) {
    return lane<N>() < COUNT ? from[lane<N>()] : 0.f;
}
template <int N, int COUNT>
INLINE void store_some(float* to, float value) {
    if (lane<N>() < COUNT) to[lane<N>()] = value;
}
template <int N>
INLINE int32_t load_bytes(const int8_t* from) {
    return from[lane<N>()];
}
template <int N, int COUNT>
INLINE void store_bytes(int8_t* to, int32_t value) {
    if (lane<N>() < COUNT) to[lane<N>()] = int8_t(value);
}
template <int N>
INLINE int32_t load_ints(const void* from) {
    return static_cast<const int32_t*>(from)[lane<N>()];
}
template <int N>
INLINE void store_ints(void* to, int32_t value) {
    static_cast<int32_t*>(to)[lane<N>()] = value;
}
template <int N>
INLINE float to_float(int32_t value) {
    return float(value);
}
template <int N>
INLINE int32_t to_int(float value) {
    return int32_t(value);
}
template <int N>
INLINE int32_t bits_of(float value) {
    return __float_as_int(value);
}
template <int N>
INLINE float from_bits(int32_t bits) {
    return __int_as_float(bits);
}
template <int N, int COUNT>
INLINE float first_lanes(float value) {
    return lane<N>() < COUNT ? value : 0.f;
}

template <int N, class F>
INLINE float make(F&& value) {
    return value(lane<N>());
}
template <int N, class F>
INLINE uint32_t make_words(F&& value) {
    return value(lane<N>());
}
template <int N, class Body>
INLINE void each_lane(Body&& body) {
    body(lane<N>());
}
template <int N>
INLINE float lane_of(float value, int) {
    return value;
}
template <int N>
INLINE int32_t lane_of_ints(int32_t value, int) {
    return value;
}
template <int N, class F>
INLINE double sum_lanes(F&& value) {
    double total = value(lane<N>());
    UNROLL for (int other = N / 2; other > 0; other /= 2) {
        total += __shfl_xor_sync(members<N>(), total, other, N);
    }
    return total;
}
template <int N>
INLINE float sum(float value) {
    UNROLL for (int other = N / 2; other > 0; other /= 2) {
        value += __shfl_xor_sync(members<N>(), value, other, N);
    }
    return value;
}

template <int N>
INLINE void clear(float* to, int floats) {
    for (int i = lane<N>(); i < floats; i += N) to[i] = 0;
    __syncwarp(members<N>());
}
template <int N>
INLINE void copy(float* to, const float* from, int floats) {
    __syncwarp(members<N>());
    for (int i = lane<N>(); i < floats; i += N) to[i] = from[i];
    __syncwarp(members<N>());
}
template <int N, class Body>
INLINE void one(Body&& body) {
    if (lane<N>() == 0) body();
}

template <int N, class Index>
INLINE float shuffle(float a, float b, Index) {
    const int from = Index::at(lane<N>());
    const float of_a = __shfl_sync(members<N>(), a, from % N, N);
    const float of_b = __shfl_sync(members<N>(), b, from % N, N);
    return from < N ? of_a : of_b;
}

// --- images ---

template <int N>
struct Rows {
    const uint8_t* row;
};
template <int N, class F>
INLINE Rows<N> make_rows(F&& row) {
    return {row(lane<N>())};
}
template <int N>
INLINE void load_words(const Rows<N>& rows, int at, int32_t (&words)[4]) {
    const int4 four = *reinterpret_cast<const int4*>(rows.row + at);
    words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
}

// --- sums that are closed at the end of a step ---

// COUNT sums over the lanes of a group, for not much more than one exchange each: in every round a
// thread hands half of its sums to a partner and takes the partner's part of the other half.
template <int N, int COUNT, class At>
INLINE void add_kept(const float* values, At&& at) {
    constexpr int MANY = COUNT < N ? COUNT : N;
    constexpr int HELD = MANY > 16 ? 32 : MANY > 8 ? 16 : MANY > 4 ? 8 : MANY > 2 ? 4 : MANY;
    UNROLL for (int first = 0; first < COUNT; first += MANY) {
        float held[HELD];
        UNROLL for (int i = 0; i < HELD; i++) {
            held[i] = i < MANY && first + i < COUNT ? values[first + i] : 0.f;
        }
        UNROLL for (int other = N / 2, m = HELD; other > 0; other /= 2, m = m > 1 ? m / 2 : 1) {
            const bool upper = lane<N>() & other;
            if (m == 1) {
                held[0] += __shfl_xor_sync(members<N>(), held[0], other, N);
            } else {
                UNROLL for (int i = 0; i < HELD / 2; i++) {
                    if (i >= m / 2) break;
                    const float sent = upper ? held[i] : held[i + m / 2];
                    const float mine = upper ? held[i + m / 2] : held[i];
                    held[i] = mine + __shfl_xor_sync(members<N>(), sent, other, N);
                }
            }
        }
        constexpr int EACH = N / HELD;  // threads that hold the same sum
        const int mine = lane<N>() / EACH;
        if (lane<N>() % EACH == 0 && mine < MANY && first + mine < COUNT) {
            *at(first + mine) += held[0];
        }
    }
}

INLINE bool is_finite(float value) { return (__float_as_int(value) & 0x7f800000) != 0x7f800000; }
INLINE bool is_finite(double value) {
    return (__double_as_longlong(value) & 0x7ff0000000000000ll) != 0x7ff0000000000000ll;
}
INLINE double not_a_number() { return __longlong_as_double(0x7ff8000000000000ll); }

INLINE double now_s() {
    uint64_t nanoseconds;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(nanoseconds));
    return nanoseconds * 1e-9;
}

}  // namespace golf

#include "team.hpp"
