// golf_opt.rng: numbers that are a function of a key and a counter alone.
#pragma once

#include "primitives.hpp"

namespace golf {

template <class Word>  // uint32_t, or a vector of them
INLINE Word mix(Word word) {
    word ^= word >> 16;
    word *= 0x7feb352du;
    word ^= word >> 15;
    word *= 0x846ca68bu;
    return word ^ (word >> 16);
}

// A permutation of 0 .. n: 8 Feistel rounds over 2 * half bits, walked until below n.
struct Permutation {
    const uint32_t* round_keys;
    int32_t half;
    uint32_t n;

    INLINE uint32_t once(uint32_t word) const {
        const uint32_t low = (1u << half) - 1;
        uint32_t left = word >> half, right = word & low;
        UNROLL for (int round = 0; round < 8; round++) {
            const uint32_t next = left ^ (mix(right + round_keys[round]) & low);
            left = right;
            right = next;
        }
        return left << half | right;
    }
    INLINE uint32_t walk(uint32_t word) const {
        while (word >= n) word = once(word);
        return word;
    }
    INLINE uint32_t operator()(uint32_t i) const { return walk(once(i)); }
};

}  // namespace golf
