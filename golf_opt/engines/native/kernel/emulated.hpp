// A thread block, emulated: a thread for each warp. Warps go on side by side between barriers, and
// within a warp groups of N lanes take their turns.
#pragma once

namespace golf {

constexpr bool TEAM = true;
constexpr int WARPS = GOLF_WARPS;
template <int N>
constexpr int GROUPS = WARPS * WIDTH / N;

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

template <int N, int COUNT, class At>
INLINE void add_kept(const Vec<N>* values, At&& at) {
    for (int i = 0; i < COUNT; i++) *at(i) += sum<N>(values[i]);
}
}  // namespace golf

#include "team.hpp"
