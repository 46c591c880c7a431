// What thread blocks and their emulation share, in the words that each has by itself.
#pragma once

namespace golf {

INLINE void clear_all(float* to, int floats) {
    each<1>(floats, [&](int i) { to[i] = 0; });
}
// What lies behind the COUNT floats may be another's, who is writing it.
template <int N, int COUNT>
INLINE Vec<N> load_part(const float* from) {
    return load_some<N, COUNT>(from);
}

// Shared memory is short: a trained number keeps a sum for each part that the rows are split into.
#ifndef GOLF_SPLITS
#define GOLF_SPLITS 2
#endif
constexpr int SPLITS = GOLF_SPLITS;
constexpr int KEPT = SPLITS;
template <int N>
INLINE Vec<N> resume(const float*) {
    return Vec<N>{};
}
template <int N>
INLINE void add_kept(float* kept, Vec<N> value) {
    const float total = sum<N>(value);
    one<N>([&] { *kept += total; });
}
template <int N, int COUNT, class At>
INLINE void keep(const Vec<N>* values, At&& at) {
    add_kept<N, COUNT>(values, at);
}
INLINE void gather(float* sums_of, const float* kept, int count) {
    each<1>(count, [&](int i) {
        float total = 0;
        for (int split = 0; split < SPLITS; split++) total += kept[i * SPLITS + split];
        sums_of[i] = total;
    });
}

}  // namespace golf
