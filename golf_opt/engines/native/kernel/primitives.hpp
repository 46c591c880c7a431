// What the machine gives: lane vectors, sums over lanes, loops that are dealt out, barriers.
//
// Everything above this header is written in these words, so another machine needs only another
// header. A team trains one trial: a thread on a CPU, a thread block on a GPU. A vector of N floats
// is held by a group: a thread with a register of N floats, or N neighbouring threads with one each.
//
//     each<N>(count, body)      deal out 0 .. count to the groups of the team
//     Turns<N>::next()          the same for nested loops: whether this turn is this group's
//     barrier()                 wait until the whole team is here
//     once(body), one<N>(body)  one thread of the team, or of the group, does it
//     keep, resume, gather      sums over lanes and groups that are closed at the end of a step
//
// What stands outside `each`, `Turns` and `once` is done by every thread, with the same values, and
// writes nothing that another reads.
//
// A tensor is [channel][y][x][image], with IMAGES images side by side. A vector of WIDTH floats is
// therefore WIDTH / IMAGES neighbouring positions of one row: one position where the batch is large
// enough to fill a vector by itself, several where it is small.
#pragma once

namespace golf {

template <int VALUE>
struct Const {
    static constexpr int value = VALUE;
};
template <class A, class B>
constexpr bool SAME = false;
template <class A>
constexpr bool SAME<A, A> = true;
template <int I, class First, class... Rest>
struct TypeAt : TypeAt<I - 1, Rest...> {};
template <class First, class... Rest>
struct TypeAt<0, First, Rest...> {
    using Type = First;
};


// Indices of shuffles of a pair of vectors (a, b).
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

}  // namespace golf

#if defined(__CUDACC__)
#include "cuda.hpp"
#else
#include "cpu.hpp"
#endif

namespace golf {

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

}  // namespace golf
