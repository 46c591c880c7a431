// Tensors and what a trial keeps, as compile-time types.
#pragma once

#include "primitives.hpp"

namespace golf {

// A tensor [C][H][W][IMAGES] with zeros around each channel, ABOVE rows of them above and below and
// BESIDE columns on the left and on the right, so that a padded convolution needs no case of its own
// at the border.
template <int C_, int H_, int W_, int ABOVE_ = 0, int BESIDE_ = 0>
struct Tensor {
    static constexpr int C = C_, H = H_, W = W_, ABOVE = ABOVE_, BESIDE = BESIDE_;
    static constexpr int ROWS = H + 2 * ABOVE, PITCH = W + 2 * BESIDE;
    static constexpr int FEATURES = C * H * W;
    // Floats, with room for a vector that starts at the last position.
    static constexpr int FLOATS = (C * ROWS * PITCH * IMAGES + 2 * WIDTH - 1) / WIDTH * WIDTH;
    using Compact = Tensor<C, H, W>;

    // Offset of a position in floats; y and x may lie in the halo.
    static constexpr int at(int c, int y, int x) {
        return ((c * ROWS + y + ABOVE) * PITCH + x + BESIDE) * IMAGES;
    }
};

// What a kernel or a pool sees, and how far it steps down and across.
template <int H_, int W_, int DOWN_ = H_, int ACROSS_ = W_>
struct Window {
    static constexpr int H = H_, W = W_, AREA = H * W, DOWN = DOWN_, ACROSS = ACROSS_;
};

// What the layers of one trial share during a step. No globals: trials run side by side.
struct Step {
    const float* weights;   // all trained tensors, one after the other
    float* buffers;         // running statistics
    float* kept_sums;       // [trained numbers][KEPT]: the gradients, not yet summed up
    double* loss;           // summed over the batch
    float* scratch;         // for the layer at work
    const uint32_t* dropout_keys;
    int first_image;  // of this pass in the batch
    int num_images;   // of this pass
    int batch_size;
    bool training;

    INLINE float* kept(int number, int split = 0) const {
        return kept_sums + number * KEPT + split;
    }
};

struct Distortion;  // see distort.hpp

// Which images a batch holds; padded lanes see its first one again, and get no gradient.
struct Batch {
    const uint8_t* images;  // [n][BYTES of the net]
    const uint8_t* labels;  // [n]
    const float* soft;      // [n][classes]: a teacher's scores, or null
    const uint32_t* order;  // the images of this batch, then those of the next ones
    int size;               // images in this batch
    int ahead;              // images in `order` that are worth prefetching
    const Distortion* distortion;  // of its images, or null
    uint32_t position;             // of its first image in the epoch
    const float* worth;            // what each counts in the batch's mean, or null for one each
    float* losses;                 // of each; set by a kernel that is BY_LOSS, or null
    float mix;                     // the share of the next one in each, in a kernel that is MIXED
};

// Where in the batch the pass' image i is, or the next one behind it; a padded lane sees the first.
template <bool NEXT = false>
INLINE int in_batch(const Batch& batch, const Step& step, int i) {
    const int at = step.first_image + (i < step.num_images ? i : 0);
    return NEXT ? (at + 1 == batch.size ? 0 : at + 1) : at;
}

// Rows are walked in vectors of N floats, N / IMAGES positions each. The last one may be partial:
// `body(x, count)` gets the number of positions as a compile-time constant.
template <int N, int POSITIONS, class Body>
INLINE void each_vector(Body&& body) {
    constexpr int P = N / IMAGES, WHOLE = POSITIONS / P * P, REST = POSITIONS - WHOLE;
    for (int x = 0; x < WHOLE; x += P) body(x, Const<P>{});
    if constexpr (REST > 0) body(WHOLE, Const<REST>{});
}

constexpr int larger(int a, int b) { return a > b ? a : b; }
constexpr int smaller(int a, int b) { return a < b ? a : b; }
constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The largest block size up to `limit` that leaves the last block nearly full.
constexpr int block_of(int count, int limit) { return ceil_div(count, ceil_div(count, limit)); }

// The same, but small enough that `others` times the blocks give every group something to do.
template <int N>
constexpr int shared_block(int count, int limit, int others) {
    int size = block_of(count, limit);
    while (size > 1 && ceil_div(count, size) * others < GROUPS<N>) size--;
    return size;
}

// What the busiest group has to do where items are dealt out by `Turns<N>`, item i being cost(i).
template <int N, class Cost>
constexpr long busiest(int count, const Cost& cost) {
    long most = 0;
    for (int group = 0; group < GROUPS<N> && group < count; group++) {
        long mine = 0;
        for (int i = group; i < count; i += GROUPS<N>) mine += cost(i);
        most = mine > most ? mine : most;
    }
    return most;
}
constexpr int size_of(int block, int size, int count) {
    return smaller(size, count - block * size);
}
// So many rows, or fewer that are dealt out alike.
template <int N>
constexpr int some_rows(int rows) {
    return rows > 3 * GROUPS<N> ? 2 * GROUPS<N> + rows % GROUPS<N> : rows;
}

// What a choice of registers costs: the instructions of the busiest warp, as many as share a
// scheduler, and what all of them load, since shared memory serves one warp at a time.
template <int N, class Work, class Loads>
constexpr long price(int count, const Work& work, const Loads& loads) {
    long total = 0;
    for (int i = 0; i < count; i++) total += loads(i);
    return busiest<N>(count, [&](int i) { return work(i) + loads(i); }) * WARPS / 4 +
           total * N / WIDTH;
}

// Channels and vectors of a row whose sums are in registers together: more share what is loaded, but
// leave groups with less to do than others, or nothing. A vector of sums stands for `unit` rows and
// vectors of a pool; there are `taps` rows of a kernel, neighbours of which see the same input.
struct Tile {
    int channels, vectors;
};
template <int N>
constexpr Tile best_tile(int channels, int rows, int vectors, int unit, int taps) {
    Tile best{1, 1};
    long least = 0;
    const int area = unit * unit;
    for (int c = 1; c <= channels && c * area <= ACCUMULATORS; c++) {
        for (int v = 1; v <= vectors && c * v * area <= ACCUMULATORS; v++) {
            const int blocks = ceil_div(channels, c), tiles = ceil_div(vectors, v);
            const auto cs = [&](int i) { return size_of(i / tiles % blocks, c, channels); };
            const auto vs = [&](int i) { return size_of(i % tiles, v, vectors); };
            const long cost = price<N>(
                some_rows<N>(rows) * blocks * tiles,
                [&](int i) { return (cs(i) * vs(i) * area + 4) * taps; },
                [&](int i) { return vs(i) * unit * (taps + unit - 1) + cs(i) * taps; });
            if (least == 0 || cost < least) least = cost, best = {c, v};
        }
    }
    return best;
}

// The same for the gradients of a kernel's weights, [outputs][inputs][down][across]: up to so many
// channels at once, and `wide` columns. Each vector of a band is a step; sums over lanes follow.
struct Weights {
    int channels, inputs, rows;
};
template <int N>
constexpr Weights best_weights(int most_channels, int channels, int most_inputs, int inputs, int down,
                               int across, int wide, int steps) {
    Weights best{1, 1, 1};
    long least = 0;
    for (int c = 1; c <= most_channels && c * wide <= ACCUMULATORS; c++)
    for (int i = 1; i <= most_inputs && c * i * wide <= ACCUMULATORS; i++)
    for (int k = 1; k <= down && c * i * k * wide <= ACCUMULATORS; k++) {
        const int is = ceil_div(inputs, i), ks = ceil_div(down, k), xs = ceil_div(across, wide);
        const auto out = [&](int at) { return size_of(at / SPLITS / xs / ks / is, c, channels); };
        const auto values = [&](int at) {
            at /= SPLITS;
            return size_of(at / xs / ks % is, i, inputs) * size_of(at / xs % ks, k, down) *
                   size_of(at % xs, wide, across);
        };
        const long cost = price<N>(
            ceil_div(channels, c) * is * ks * xs * SPLITS,
            [&](int at) { return (out(at) * values(at) + 4) * steps + 3 * out(at) * values(at) + 80; },
            [&](int at) { return (values(at) + out(at)) * steps; });
        if (least == 0 || cost < least) least = cost, best = {c, i, k};
    }
    return best;
}

// 0 .. count, by everybody. (gcc keeps more in registers than with a plain loop around the body.)
template <class Body>
INLINE void loop(int count, Body&& body) {
    for (int i = 0; i < count; i++) body(i);
}

// 0 .. COUNT in blocks: `body(start, size)`, the size as a compile-time constant.
template <int COUNT, int BLOCK, class Body>
INLINE void each_block(Body&& body) {
    constexpr int WHOLE = COUNT / BLOCK * BLOCK;
    for (int start = 0; start < WHOLE; start += BLOCK) body(start, Const<BLOCK>{});
    if constexpr (COUNT > WHOLE) body(WHOLE, Const<COUNT - WHOLE>{});
}

// A row of POSITIONS in tiles of up to TILE vectors of N floats: `body(x, vectors, last)` gets the
// first position, the number of vectors and the positions in the last of them.
template <int N, int POSITIONS, int TILE, class Body>
INLINE void each_tile(Body&& body) {
    constexpr int P = N / IMAGES, WHOLE = POSITIONS / (P * TILE) * TILE;  // vectors in whole tiles
    constexpr int REST = ceil_div(POSITIONS, P) - WHOLE;
    for (int v = 0; v < WHOLE; v += TILE) {
        body(v * P, Const<TILE>{}, Const<P>{});
    }
    if constexpr (REST > 0) {
        constexpr int LAST = POSITIONS - (WHOLE + REST - 1) * P;
        body(WHOLE * P, Const<REST>{}, Const<LAST>{});
    }
}

}  // namespace golf
