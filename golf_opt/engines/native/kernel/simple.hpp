// The layers that need no blocking: activation and 2x2 pool by themselves, other pools, global
// average, dropout, linear. Those that mix positions take one at a time, IMAGES floats wide.
#pragma once

#include "epilogue.hpp"

namespace golf {

// An activation, a 2x2 max pool, or both.
template <class In_, class Epi>
struct Apply {
    using In = In_;
    using Out = typename Epi::Out;
    static constexpr bool SYNC = false, BY_ROWS = false;
    static constexpr int SAVED = Epi::SAVED, STATE = 0, SCRATCH = 0, N = WIDTH, P = N / IMAGES;

    static void forward(const Step& step, const float* in, float* out, float* saved, float*) {
        each(Out::C, [&](int c) {
            const auto z = [&](int y, int x) { return load<N>(in + In::at(c, y, x)); };
            for (int y = 0; y < Out::H; y++) {
                each_vector<N, Out::W>([&](int x, auto count) {
                    constexpr int COUNT = decltype(count)::value;
                    if constexpr (Epi::POOL) {
                        Epi::template finish_pool<N, COUNT>(
                            step, z(2 * y, 2 * x), z(2 * y, 2 * x + P), z(2 * y + 1, 2 * x),
                            z(2 * y + 1, 2 * x + P), c, y, x, out, saved);
                    } else {
                        Epi::template finish<N, COUNT>(step, z(y, x), c, y, x, out, saved);
                    }
                });
            }
        });
        barrier();
    }

    // Rows are spread in order, so that what a vector writes beyond its row is overwritten; behind
    // the last row of a tensor there is room.
    static void backward(const Step& step, const float*, const float* out,
                         const float* out_gradient, float* in_gradient, float* saved, float*) {
        using Flat = typename In::Compact;
        constexpr int ROW = ceil_div(In::W, 2 * P) * 2 * P * IMAGES;
        float rows[Epi::STEP * ROW + WIDTH] = {};
        for (int c = 0; c < In::C; c++) {
            for (int y = 0; y < In::H; y += Epi::STEP) {
                const bool reached = y < Epi::ROWS;
                if (reached) {
                    Epi::template spread_channel<N, -1>(step, out, out_gradient, saved, c, y,
                                                        Epi::STEP, rows, ROW);
                }
                for (int r = 0; r < Epi::STEP && y + r < In::H; r++) {
                    float* to = in_gradient + Flat::at(c, y + r, 0);
                    std::memset(to, 0, In::W * IMAGES * sizeof(float));
                    if (reached) std::memcpy(to, rows + r * ROW, Epi::COLUMNS * IMAGES * sizeof(float));
                }
            }
        }
        barrier();
    }
};

// Max over SIZE x SIZE windows. Of equal values the first wins, as in PyTorch.
template <class In_, class Out_, int SIZE>
struct MaxPool {
    using In = In_;
    using Out = Out_;
    using Flat = typename Out::Compact;
    static constexpr bool SYNC = false, BY_ROWS = false;
    static constexpr int SAVED = Flat::FLOATS, STATE = 0, SCRATCH = 0, N = IMAGES;

    static void forward(const Step&, const float* in, float* out, float* saved, float*) {
        each(Out::C, [&](int c) {
            for (int y = 0; y < Out::H; y++)
            for (int x = 0; x < Out::W; x++) {
                Vec<N> best = load<N>(in + In::at(c, y * SIZE, x * SIZE));
                Ints<N> winner{};
                for (int i = 1; i < SIZE * SIZE; i++) {
                    const Vec<N> v = load<N>(in + In::at(c, y * SIZE + i / SIZE, x * SIZE + i % SIZE));
                    const Ints<N> wins = v > best;
                    best = wins ? v : best;
                    winner = wins ? Ints<N>{} + i : winner;
                }
                store<N>(out + Out::at(c, y, x), best);
                std::memcpy(saved + Flat::at(c, y, x), &winner, sizeof winner);
            }
        });
        barrier();
    }

    static void backward(const Step&, const float*, const float*, const float* out_gradient,
                         float* in_gradient, float* saved, float*) {
        std::memset(in_gradient, 0, In::Compact::FLOATS * sizeof(float));
        each(Out::C, [&](int c) {
            for (int y = 0; y < Out::H; y++)
            for (int x = 0; x < Out::W; x++) {
                Ints<N> winner;
                std::memcpy(&winner, saved + Flat::at(c, y, x), sizeof winner);
                const Vec<N> g = load<N>(out_gradient + Flat::at(c, y, x));
                for (int i = 0; i < SIZE * SIZE; i++) {
                    store<N>(in_gradient +
                                 In::Compact::at(c, y * SIZE + i / SIZE, x * SIZE + i % SIZE),
                             winner == i ? g : Vec<N>{});
                }
            }
        });
        barrier();
    }
};

template <class In_, class Out_>
struct GlobalAvgPool {
    using In = In_;
    using Out = Out_;
    static constexpr bool SYNC = false, BY_ROWS = false;
    static constexpr int SAVED = 0, STATE = 0, SCRATCH = 0, N = IMAGES, AREA = In::H * In::W;

    static void forward(const Step&, const float* in, float* out, float*, float*) {
        each(In::C, [&](int c) {
            Vec<N> total{};
            for (int y = 0; y < In::H; y++) {
                Vec<N> row{};
                for (int x = 0; x < In::W; x++) row += load<N>(in + In::at(c, y, x));
                total += row;
            }
            store<N>(out + c * IMAGES, total * (1.f / AREA));
        });
        barrier();
    }

    static void backward(const Step&, const float*, const float*, const float* out_gradient,
                         float* in_gradient, float*, float*) {
        each(In::C, [&](int c) {
            const Vec<N> g = load<N>(out_gradient + c * IMAGES) * (1.f / AREA);
            for (int i = 0; i < AREA; i++) store<N>(in_gradient + (c * AREA + i) * IMAGES, g);
        });
        barrier();
    }
};

template <int N>
INLINE typename Types<N>::Word mix(typename Types<N>::Word word) {  // golf_opt.rng.mix
    word ^= word >> 16;
    word *= 0x7feb352du;
    word ^= word >> 15;
    word *= 0x846ca68bu;
    return word ^ (word >> 16);
}

// Keeps an element where its 24 random bits are at least Chance::THRESHOLD = p * 2^24, and scales
// it by Chance::SCALE = 1 / (1 - p).
template <class In_, class Out_, int KEY, class Chance>
struct Dropout {
    using In = In_;
    using Out = Out_;
    static constexpr bool SYNC = false, BY_ROWS = false;
    static constexpr int SAVED = 0, STATE = 0, SCRATCH = 0, N = IMAGES;
    using Words = typename Types<N>::Word;

    // Element i of the batch in [image, channel, y, x] order is a function of (key, i) alone, so
    // the way back draws the same mask again instead of keeping it.
    template <class Body>
    static INLINE void masked(const Step& step, Body&& body) {
        constexpr uint32_t THRESHOLD = Chance::THRESHOLD;
        const uint32_t key = step.dropout_keys[KEY];
        uint32_t first[N];
        for (int i = 0; i < N; i++) first[i] = uint32_t(step.first_image + i) * In::FEATURES;
        Words start;
        std::memcpy(&start, first, sizeof first);
        each(In::C, [&](int c) {
            for (int y = 0; y < In::H; y++)
            for (int x = 0; x < In::W; x++) {
                const Words index = start + uint32_t((c * In::H + y) * In::W + x);
                const Words bits = mix<N>(mix<N>(index ^ key) + key) >> 8;
                const Ints<N> kept = bits >= THRESHOLD;
                body(c, y, x, kept ? broadcast<N>(Chance::SCALE) : Vec<N>{});
            }
        });
        barrier();
    }

    static void forward(const Step& step, const float* in, float* out, float*, float*) {
        if (!step.training) {
            for (int c = 0; c < In::C; c++)
            for (int y = 0; y < In::H; y++)
                std::memcpy(out + Out::at(c, y, 0), in + In::at(c, y, 0), In::W * IMAGES * sizeof(float));
            return;
        }
        masked(step, [&](int c, int y, int x, Vec<N> factor) {
            store<N>(out + Out::at(c, y, x), load<N>(in + In::at(c, y, x)) * factor);
        });
    }

    static void backward(const Step& step, const float*, const float*, const float* out_gradient,
                         float* in_gradient, float*, float*) {
        using Flat = typename In::Compact;
        masked(step, [&](int c, int y, int x, Vec<N> factor) {
            const int at = Flat::at(c, y, x);
            store<N>(in_gradient + at, load<N>(out_gradient + at) * factor);
        });
    }
};

// out[o] = bias[o] + sum over j of weight[o][j] * in[j]; an image is flattened as (c, y, x).
template <class In_, class Out_, int WEIGHT, int BIAS, bool INPUT_GRADIENT>
struct Linear {
    using In = In_;
    using Out = Out_;
    static constexpr bool SYNC = false, BY_ROWS = false;
    static constexpr int SAVED = 0, STATE = 0, SCRATCH = 0, N = IMAGES;
    static constexpr int J = In::FEATURES, O = Out::FEATURES, BLOCK = block_of(O, ACCUMULATORS / 2);
    static_assert(In::HALO == 0, "features lie side by side");

    static void forward(const Step& step, const float* in, float* out, float*, float*) {
        each_block<O, BLOCK>([&](int o, auto block) {
            constexpr int B = decltype(block)::value;
            const float* w = step.weights + WEIGHT + o * J;
            Vec<N> acc[B];
            UNROLL for (int i = 0; i < B; i++) {
                acc[i] = broadcast<N>(BIAS >= 0 ? step.weights[BIAS + o + i] : 0.f);
            }
            for (int j = 0; j < J; j++) {
                const Vec<N> v = load<N>(in + j * IMAGES);
                UNROLL for (int i = 0; i < B; i++) acc[i] += w[i * J + j] * v;
            }
            UNROLL for (int i = 0; i < B; i++) store<N>(out + (o + i) * IMAGES, acc[i]);
        });
        barrier();
    }

    static void backward(const Step& step, const float* in, const float*,
                         const float* out_gradient, float* in_gradient, float*, float*) {
        float* to = step.lane_gradients;
        if (INPUT_GRADIENT) std::memset(in_gradient, 0, In::FLOATS * sizeof(float));
        each_block<O, BLOCK>([&](int o, auto block) {
            constexpr int B = decltype(block)::value;
            const float* w = step.weights + WEIGHT + o * J;
            Vec<N> g[B];
            UNROLL for (int i = 0; i < B; i++) {
                g[i] = load<N>(out_gradient + (o + i) * IMAGES);
                if (BIAS >= 0) add_to<N>(to + (BIAS + o + i) * WIDTH, g[i]);
            }
            for (int j = 0; j < J; j++) {
                const Vec<N> v = load<N>(in + j * IMAGES);
                Vec<N> back{};
                UNROLL for (int i = 0; i < B; i++) {
                    add_to<N>(to + (WEIGHT + (o + i) * J + j) * WIDTH, g[i] * v);
                    back += w[i * J + j] * g[i];
                }
                if (INPUT_GRADIENT) add_to<N>(in_gradient + j * IMAGES, back);
            }
        });
        barrier();
    }
};

}  // namespace golf
