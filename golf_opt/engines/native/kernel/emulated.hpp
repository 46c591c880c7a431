// A thread block, emulated: a thread for each warp. Warps go on side by side between barriers, and
// within a warp groups of N lanes take their turns.
#pragma once

namespace golf {

constexpr bool TEAM = true;
constexpr int WARPS = GOLF_WARPS;
template <int N>
constexpr int GROUPS = WARPS * WIDTH / N;
constexpr int SPLITS = 2;

class Barrier {
    std::mutex mutex;
    std::condition_variable all_here;
    int here = 0;
    unsigned turn = 0;

   public:
    void wait() {
        std::unique_lock<std::mutex> lock(mutex);
        const unsigned mine = turn;
        if (++here == WARPS) {
            here = 0;
            turn++;
            all_here.notify_all();
        } else {
            all_here.wait(lock, [&] { return turn != mine; });
        }
    }
};

struct Warp {
    int index;
    Barrier* barrier;
};
inline thread_local Warp warp;

template <class Body>
void run_block(Body&& body) {
    Barrier barrier;
    std::vector<std::thread> threads;
    for (int index = 0; index < WARPS; index++) {
        threads.emplace_back([&, index] {
            const FlushDenormals flush;
            warp = {index, &barrier};
            body();
        });
    }
    for (std::thread& thread : threads) thread.join();
}

template <int N, class Body>
INLINE void each(int count, Body&& body) {
    constexpr int PER_WARP = WIDTH / N;
    for (int group = 0; group < PER_WARP; group++) {
        for (int i = warp.index * PER_WARP + group; i < count; i += GROUPS<N>) body(i);
    }
}
template <int N>
class Turns {
    int at = 0;

   public:
    bool next() { return at++ % GROUPS<N> / (WIDTH / N) == warp.index; }
};
inline void barrier() { warp.barrier->wait(); }
template <class Body>
INLINE void once(Body&& body) {
    if (warp.index == 0) body();
}
INLINE void clear_all(float* to, int floats) {
    each<1>(floats, [&](int i) { to[i] = 0; });
}
// What lies behind the COUNT floats may be another's, who is writing it.
template <int N, int COUNT>
INLINE Vec<N> load_part(const float* from) {
    return load_some<N, COUNT>(from);
}

// Memory is short: a trained number keeps a sum for each part that the rows are split into.
constexpr int KEPT = SPLITS;
template <int N>
INLINE Vec<N> resume(const float*) {
    return Vec<N>{};
}
template <int N>
INLINE void add_kept(float* kept, Vec<N> value) {
    *kept += sum<N>(value);
}
template <int N, int COUNT, class At>
INLINE void add_kept(const Vec<N>* values, At&& at) {
    for (int i = 0; i < COUNT; i++) *at(i) += sum<N>(values[i]);
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
