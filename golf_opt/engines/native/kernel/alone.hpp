// A team of one thread: it does all, in order, and waits for nobody.
#pragma once

namespace golf {

constexpr bool TEAM = false;
constexpr int WARPS = 1;
template <int N>
constexpr int GROUPS = 1;
constexpr int SPLITS = 1;

template <int N, class Body>
INLINE void each(int count, Body&& body) {
    for (int i = 0; i < count; i++) body(i);
}
template <int N>
struct Turns {
    static constexpr bool next() { return true; }
};
INLINE void barrier() {}
template <class Body>
INLINE void once(Body&& body) {
    body();
}
INLINE void clear_all(float* to, int floats) { std::memset(to, 0, floats * sizeof(float)); }
template <int N, int COUNT>
INLINE Vec<N> load_part(const float* from) {
    return load<N>(from);
}

// Sums over lanes are put off to the end of a step: each trained number keeps a vector.
constexpr int KEPT = WIDTH;
template <int N>
INLINE Vec<N> resume(const float* kept) {
    return load<N>(kept);
}
template <int N, int COUNT, class At>
INLINE void keep(const Vec<N>* values, At&& at) {
    UNROLL for (int i = 0; i < COUNT; i++) store<N>(at(i), values[i]);
}
template <int N>
INLINE void add_kept(float* kept, Vec<N> value) {
    add_to<N>(kept, value);
}
template <int N, int COUNT, class At>
INLINE void add_kept(const Vec<N>* values, At&& at) {
    UNROLL for (int i = 0; i < COUNT; i++) add_to<N>(at(i), values[i]);
}
INLINE void gather(float* sums_of, const float* kept, int count) {
    for (int i = 0; i < count; i += WIDTH) {
        store<WIDTH>(sums_of + i, sums<WIDTH>(kept + i * WIDTH));
    }
}

}  // namespace golf
