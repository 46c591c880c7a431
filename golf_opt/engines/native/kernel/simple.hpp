// The layers that need no blocking: activation and 2x2 pool by themselves, sums, other pools, global
// average, dropout, linear. Those that mix positions take one at a time, IMAGES floats wide.
#pragma once

#include "epilogue.hpp"
#include "random.hpp"

namespace golf {

// An activation, a 2x2 max pool, or both.
template <class In_, class Epi, bool INPUT_GRADIENT>
struct Apply {
    using In = In_;
    using Out = typename Epi::Out;
    static constexpr bool SYNC = false, BY_ROWS = false;
    static constexpr int SAVED = Epi::SAVED, STATE = 0, N = WIDTH, P = N / IMAGES;
    static constexpr int ROW = ceil_div(In::W, 2 * P) * 2 * P * IMAGES;
    static constexpr int SPREAD = Epi::STEP * ROW + WIDTH;  // floats of one channel
    static constexpr int SCRATCH = (TEAM ? In::C : 1) * SPREAD;

    static void forward(const Step& step, const float* in, float* out, float* saved, float*) {
        each<N>(Out::C, [&](int c) {
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

    // Rows are spread beside the tensor, since a vector may write beyond its row.
    static void backward(const Step& step, const float*, const float* out,
                         const float* out_gradient, float* in_gradient, float* saved, float*) {
        using Flat = typename In::Compact;
        each<N>(In::C, [&](int c) {
            float* rows = step.scratch + (TEAM ? c * SPREAD : 0);
            for (int y = 0; y < In::H; y += Epi::STEP) {
                const bool reached = y < Epi::ROWS;
                if (reached) {
                    Epi::template spread_channel<N, -1>(step, out, out_gradient, saved, c, y,
                                                        Epi::STEP, rows, ROW);
                }
                for (int r = 0; INPUT_GRADIENT && r < Epi::STEP && y + r < In::H; r++) {
                    float* to = in_gradient + Flat::at(c, y + r, 0);
                    clear<N>(to, In::W * IMAGES);
                    if (reached) copy<N>(to, rows + r * ROW, Epi::COLUMNS * IMAGES);
                }
            }
        });
        barrier();
    }
};

// What comes in plus tensor OTHER of the net. The way back hands its gradient on as it is; the net
// adds it to that of the other tensor as well.
template <class In_, class Other, class Out_, int OTHER>
struct Add {
    using In = In_;
    using Out = Out_;
    static constexpr bool SYNC = false, BY_ROWS = false;
    static constexpr int SAVED = 0, STATE = 0, SCRATCH = 0, N = WIDTH;

    static void forward(const float* in, const float* other, float* out) {
        each<N>(Out::C * Out::H, [&](int i) {
            const int c = i / Out::H, y = i % Out::H;
            each_vector<N, Out::W>([&](int x, auto count) {
                const Vec<N> v = load<N>(in + In::at(c, y, x)) + load<N>(other + Other::at(c, y, x));
                store_some<N, decltype(count)::value * IMAGES>(out + Out::at(c, y, x), v);
            });
        });
        barrier();
    }

    static void backward(const Step&, const float*, const float*, const float* out_gradient,
                         float* in_gradient, float*, float*) {
        each<IMAGES>(In::FEATURES, [&](int i) {
            store<IMAGES>(in_gradient + i * IMAGES, load<IMAGES>(out_gradient + i * IMAGES));
        });
        barrier();
    }
};

// Where position i of the window of output (y, x) lies in its input.
template <class In, class Window>
INLINE int seen(int c, int y, int x, int i) {
    return In::at(c, y * Window::H + i / Window::W, x * Window::W + i % Window::W);
}

// Max over windows. Of equal values the first wins, as in PyTorch.
template <class In_, class Out_, class Window>
struct MaxPool {
    using In = In_;
    using Out = Out_;
    using Flat = typename Out::Compact;
    static constexpr bool SYNC = false, BY_ROWS = false;
    static constexpr int SAVED = Flat::FLOATS, STATE = 0, SCRATCH = 0, N = IMAGES;

    static void forward(const Step&, const float* in, float* out, float* saved, float*) {
        each<N>(Out::C, [&](int c) {
            for (int y = 0; y < Out::H; y++)
            for (int x = 0; x < Out::W; x++) {
                Vec<N> best = load<N>(in + seen<In, Window>(c, y, x, 0));
                Ints<N> winner{};
                for (int i = 1; i < Window::AREA; i++) {
                    const Vec<N> v = load<N>(in + seen<In, Window>(c, y, x, i));
                    const Ints<N> wins = v > best;
                    best = wins ? v : best;
                    winner = wins ? Ints<N>{} + i : winner;
                }
                store<N>(out + Out::at(c, y, x), best);
                store_ints<N>(saved + Flat::at(c, y, x), winner);
            }
        });
        barrier();
    }

    static void backward(const Step&, const float*, const float*, const float* out_gradient,
                         float* in_gradient, float* saved, float*) {
        clear_all(in_gradient, In::Compact::FLOATS);
        barrier();
        each<N>(Out::C, [&](int c) {
            for (int y = 0; y < Out::H; y++)
            for (int x = 0; x < Out::W; x++) {
                const Ints<N> winner = load_ints<N>(saved + Flat::at(c, y, x));
                const Vec<N> g = load<N>(out_gradient + Flat::at(c, y, x));
                for (int i = 0; i < Window::AREA; i++) {
                    store<N>(in_gradient + seen<typename In::Compact, Window>(c, y, x, i),
                             winner == i ? g : Vec<N>{});
                }
            }
        });
        barrier();
    }
};

// The mean over windows.
template <class In_, class Out_, class Window>
struct AvgPool {
    using In = In_;
    using Out = Out_;
    static constexpr bool SYNC = false, BY_ROWS = false;
    static constexpr int SAVED = 0, STATE = 0, SCRATCH = 0, N = IMAGES;

    static void forward(const Step&, const float* in, float* out, float*, float*) {
        each<N>(Out::C * Out::H, [&](int row) {
            const int c = row / Out::H, y = row % Out::H;
            for (int x = 0; x < Out::W; x++) {
                Vec<N> total{};
                for (int i = 0; i < Window::AREA; i++) total += load<N>(in + seen<In, Window>(c, y, x, i));
                store<N>(out + Out::at(c, y, x), total * (1.f / Window::AREA));
            }
        });
        barrier();
    }

    static void backward(const Step&, const float*, const float*, const float* out_gradient,
                         float* in_gradient, float*, float*) {
        using Flat = typename Out::Compact;
        clear_all(in_gradient, In::Compact::FLOATS);
        barrier();
        each<N>(Out::C * Out::H, [&](int row) {
            const int c = row / Out::H, y = row % Out::H;
            for (int x = 0; x < Out::W; x++) {
                const Vec<N> g = load<N>(out_gradient + Flat::at(c, y, x)) * (1.f / Window::AREA);
                for (int i = 0; i < Window::AREA; i++) {
                    store<N>(in_gradient + seen<typename In::Compact, Window>(c, y, x, i), g);
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
        each<N>(In::C, [&](int c) {
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
        each<N>(In::C, [&](int c) {
            const Vec<N> g = load<N>(out_gradient + c * IMAGES) * (1.f / AREA);
            for (int i = 0; i < AREA; i++) store<N>(in_gradient + (c * AREA + i) * IMAGES, g);
        });
        barrier();
    }
};

// Keeps an element where its 24 random bits are at least Chance::THRESHOLD = p * 2^24, and scales
// it by Chance::SCALE = 1 / (1 - p).
template <class In_, class Out_, int KEY, class Chance>
struct Dropout {
    using In = In_;
    using Out = Out_;
    static constexpr bool SYNC = false, BY_ROWS = false;
    static constexpr int SAVED = 0, STATE = 0, SCRATCH = 0, N = IMAGES;

    // Element i of the batch in [image, channel, y, x] order is a function of (key, i) alone, so
    // the way back draws the same mask again instead of keeping it.
    template <class Body>
    static INLINE void masked(const Step& step, Body&& body) {
        constexpr uint32_t THRESHOLD = Chance::THRESHOLD;
        const uint32_t key = step.dropout_keys[KEY];
        const Words<N> start = make_words<N>([&](int i) {
            return uint32_t(step.first_image + i) * In::FEATURES;
        });
        each<N>(In::C, [&](int c) {
            for (int y = 0; y < In::H; y++)
            for (int x = 0; x < In::W; x++) {
                const Words<N> index = start + uint32_t((c * In::H + y) * In::W + x);
                const Words<N> bits = mix(mix(Words<N>(index ^ key)) + key) >> 8;
                const Ints<N> kept = bits >= THRESHOLD;
                body(c, y, x, kept ? broadcast<N>(Chance::SCALE) : Vec<N>{});
            }
        });
        barrier();
    }

    static void forward(const Step& step, const float* in, float* out, float*, float*) {
        if (!step.training) {
            each<N>(In::C * In::H, [&](int i) {
                const int c = i / In::H, y = i % In::H;
                copy<N>(out + Out::at(c, y, 0), in + In::at(c, y, 0), In::W * IMAGES);
            });
            barrier();
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
    static constexpr int J = In::FEATURES, O = Out::FEATURES, WIDE = block_of(O, ACCUMULATORS / 2);
    static constexpr int BLOCK = shared_block<N>(O, ACCUMULATORS / 2, 1);
    static_assert(In::ABOVE == 0 && In::BESIDE == 0, "features lie side by side");

    static void forward(const Step& step, const float* in, float* out, float*, float*) {
        Turns<N> turns;
        each_block<O, BLOCK>([&](int o, auto block) {
            if (!turns.next()) return;
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

    // A block of outputs at a time, dealt out by inputs: each of them is one group's in every block.
    static void backward(const Step& step, const float* in, const float*,
                         const float* out_gradient, float* in_gradient, float*, float*) {
        if (INPUT_GRADIENT) clear_all(in_gradient, In::FLOATS);
        barrier();
        each_block<O, WIDE>([&](int o, auto block) {
            constexpr int B = decltype(block)::value;
            const float* w = step.weights + WEIGHT + o * J;
            Vec<N> g[B];
            UNROLL for (int i = 0; i < B; i++) g[i] = load<N>(out_gradient + (o + i) * IMAGES);
            if constexpr (BIAS >= 0) {
                each<N>(1, [&](int) {
                    add_kept<N, B>(g, [&](int i) { return step.kept(BIAS + o + i); });
                });
            }
            each<N>(J, [&](int j) {
                const Vec<N> v = load<N>(in + j * IMAGES);
                Vec<N> back{}, products[B];
                UNROLL for (int i = 0; i < B; i++) {
                    products[i] = g[i] * v;
                    back += w[i * J + j] * g[i];
                }
                add_kept<N, B>(products, [&](int i) { return step.kept(WEIGHT + (o + i) * J + j); });
                if (INPUT_GRADIENT) add_to<N>(in_gradient + j * IMAGES, back);
            });
        });
        barrier();
    }
};

}  // namespace golf
