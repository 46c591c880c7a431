// What follows a convolution or a normalisation in one go: an activation, then a 2x2 max pool.
//
// Forward, the four window positions arrive in registers and leave as one; what the way back needs
// is the index of the winner (1 byte) and, for some activations, the value before. Backward, the gradient of the pooled tensor is spread over rows of the unpooled one.
#pragma once

#include "functions.hpp"
#include "shapes.hpp"

namespace golf {

// An activation of each number v by itself. KEEPS: the way back needs v, either because the output
// does not tell the derivative or because a larger v may give a smaller output. LEARNED: it has a
// number for each channel, at WEIGHT among the weights, which comes as `w`.
struct Monotone {
    static constexpr bool KEEPS = false, LEARNED = false, CLAMPS = false;
    static constexpr int WEIGHT = -1;
};
struct Identity : Monotone {
    static constexpr float SLOPE = 1;
    template <int N> static INLINE Vec<N> apply(Vec<N> v, float) { return v; }
    template <int N> static INLINE Vec<N> slope(Vec<N>, float) { return broadcast<N>(1); }
};
struct Relu : Monotone {
    static constexpr bool CLAMPS = true;  // nothing passes below zero
    template <int N> static INLINE Vec<N> apply(Vec<N> v, float) { return v > 0 ? v : Vec<N>{}; }
    template <int N> static INLINE Vec<N> slope(Vec<N> v, float) {
        return v > 0 ? broadcast<N>(1) : Vec<N>{};
    }
};
template <class Slope>  // a constant of the net, Slope::VALUE in [0, 1)
struct LeakyRelu : Monotone {
    static constexpr float SLOPE = Slope::VALUE;
    template <int N> static INLINE Vec<N> apply(Vec<N> v, float) { return v > 0 ? v : v * SLOPE; }
    template <int N> static INLINE Vec<N> slope(Vec<N> v, float) {
        return v > 0 ? broadcast<N>(1) : broadcast<N>(SLOPE);
    }
};

struct Kept : Monotone {
    static constexpr bool KEEPS = true;
};
struct Gelu : Kept {
    template <int N> static INLINE Vec<N> apply(Vec<N> v, float) { return v * Normal<N>(v).below; }
    template <int N> static INLINE Vec<N> slope(Vec<N> v, float) {
        const Normal<N> normal(v);
        return normal.below + v * normal.density;
    }
};
struct HardSwish : Kept {
    template <int N> static INLINE Vec<N> apply(Vec<N> v, float) {
        const Vec<N> share = v * (1.f / 6) + 0.5f;
        return v > -3 ? (v < 3 ? v * share : v) : Vec<N>{};
    }
    template <int N> static INLINE Vec<N> slope(Vec<N> v, float) {
        const Vec<N> inside = v * (1.f / 3) + 0.5f;
        return v > -3 ? (v < 3 ? inside : broadcast<N>(1)) : Vec<N>{};
    }
};
struct Tanh : Kept {
    template <int N> static INLINE Vec<N> apply(Vec<N> v, float) { return tanh<N>(v); }
    template <int N> static INLINE Vec<N> slope(Vec<N> v, float) {
        const Vec<N> y = tanh<N>(v);
        return 1.f - y * y;
    }
};

template <int WEIGHT_>
struct Learned : Kept {
    static constexpr bool LEARNED = true;
    static constexpr int WEIGHT = WEIGHT_;
};
template <int WEIGHT>
struct PRelu : Learned<WEIGHT> {
    template <int N> static INLINE Vec<N> apply(Vec<N> v, float w) { return v > 0 ? v : v * w; }
    template <int N> static INLINE Vec<N> slope(Vec<N> v, float w) {
        return v > 0 ? broadcast<N>(1) : broadcast<N>(w);
    }
    // The gradient of w, given that of the output.
    template <int N> static INLINE Vec<N> learned(Vec<N> v, Vec<N> g) {
        return v > 0 ? Vec<N>{} : g * v;
    }
};
template <int WEIGHT>
struct Scale : Learned<WEIGHT> {
    template <int N> static INLINE Vec<N> apply(Vec<N> v, float w) { return v * w; }
    template <int N> static INLINE Vec<N> slope(Vec<N>, float w) { return broadcast<N>(w); }
    template <int N> static INLINE Vec<N> learned(Vec<N> v, Vec<N> g) { return g * v; }
};

// Wide is the tensor before the pool, Out the one after it (the same size without a pool).
template <class Wide_, class Out_, class Act_, bool POOL_>
struct Epilogue {
    using Wide = Wide_;
    using Out = Out_;
    using Act = Act_;
    static constexpr bool POOL = POOL_;
    using Flat = typename Out::Compact;
    static constexpr int ROWS = POOL ? 2 * Out::H : Wide::H;  // rows and columns that count:
    static constexpr int COLUMNS = POOL ? 2 * Out::W : Wide::W;  // a pool drops an odd edge
    static constexpr int STEP = POOL ? 2 : 1;
    // Saved for the way back: values before the activation, where it keeps them, then one
    // byte for each window: the winner, 0 to 3, plus DEAD where the winner is not positive.
    static constexpr int DEAD = 4;
    static constexpr int VALUES = Act::KEEPS ? Flat::FLOATS : 0;
    static constexpr int SAVED = VALUES + (POOL ? Flat::FLOATS / 4 + WIDTH : 0);

    static INLINE float slope_of(const Step& step, int c) {
        if constexpr (Act::LEARNED) return step.weights[Act::WEIGHT + c];
        return 0;
    }
    static INLINE int8_t* winners(float* saved) { return reinterpret_cast<int8_t*>(saved + VALUES); }

    // Finish one vector of a row without a pool.
    template <int N, int COUNT>
    static INLINE void finish(const Step& step, Vec<N> v, int c, int y, int x, float* out,
                              float* saved) {
        constexpr int FLOATS = COUNT * IMAGES;
        if constexpr (Act::KEEPS) store_some<N, FLOATS>(saved + Flat::at(c, y, x), v);
        v = Act::template apply<N>(v, slope_of(step, c));
        store_some<N, FLOATS>(out + Out::at(c, y, x), v);
    }

    // Finish two rows of two vectors, (a, b) above (d, e); x and y count pooled positions.
    template <int N, int COUNT>
    static INLINE void finish_pool(const Step& step, Vec<N> a, Vec<N> b, Vec<N> d, Vec<N> e, int c,
                                   int y, int x, float* out, float* saved) {
        constexpr int FLOATS = COUNT * IMAGES;
        const float slope = slope_of(step, c);
        deinterleave<N>(a, b);
        deinterleave<N>(d, e);
        // A tournament in which the earlier position wins a tie, as in PyTorch. Where a larger value
        // may give a smaller output, the values after the activation compete.
        const auto act = [&](Vec<N> v) {
            return Act::KEEPS ? Act::template apply<N>(v, slope) : v;
        };
        const Vec<N> after[4] = {act(a), act(b), act(d), act(e)};
        const Ints<N> right_above = after[1] > after[0], right_below = after[3] > after[2];
        const Vec<N> above = right_above ? after[1] : after[0];
        const Vec<N> below = right_below ? after[3] : after[2];
        const Ints<N> lower = below > above;
        Vec<N> best = lower ? below : above;
        Ints<N> winner = lower ? (right_below ? Ints<N>{} + 3 : Ints<N>{} + 2)
                               : (right_above ? Ints<N>{} + 1 : Ints<N>{});
        if (step.training) {
            if constexpr (Act::KEEPS) {
                const Vec<N> before =
                    lower ? (right_below ? e : d) : (right_above ? b : a);
                store_some<N, FLOATS>(saved + Flat::at(c, y, x), before);
            } else {
                winner = best > 0 ? winner : winner + DEAD;
            }
            store_bytes<N, FLOATS>(winners(saved) + Flat::at(c, y, x), winner);
        }
        // The other activations are monotone, so that the largest value wins before and after.
        if constexpr (!Act::KEEPS) best = Act::template apply<N>(best, slope);
        store_some<N, FLOATS>(out + Out::at(c, y, x), best);
    }

    // The gradient before the activation of one vector of the output; a partial vector is zero
    // beyond its end. `slope_gradient` is the lanes' gradient of a learned slope, `winner` the
    // pool's.
    template <int N, int COUNT>
    static INLINE Vec<N> gradient(const Step& step, int c, int y, int x, const float* out,
                                  const float* out_gradient, float* saved, Vec<N>& slope_gradient,
                                  Ints<N>& winner) {
        Vec<N> g = load_some<N, COUNT * IMAGES>(out_gradient + Flat::at(c, y, x));
        if constexpr (POOL) winner = load_bytes<N>(winners(saved) + Flat::at(c, y, x));
        if constexpr (Act::KEEPS) {
            const Vec<N> before = load<N>(saved + Flat::at(c, y, x));
            if constexpr (Act::LEARNED) slope_gradient += Act::template learned<N>(before, g);
            g *= Act::template slope<N>(before, slope_of(step, c));
        } else if constexpr (POOL) {
            // A dead window of a ReLU matches none of its positions. Others scale and go on.
            if constexpr (!Act::CLAMPS) {
                g = winner < DEAD ? g : g * Act::SLOPE;
                winner &= DEAD - 1;
            }
        } else {
            // Positive after the activation is positive before it.
            g *= Act::template slope<N>(load<N>(out + Out::at(c, y, x)), 0);
        }
        return g;
    }

    // Write the gradient of rows y0 .. y0 + rows before the activation: channel c's row r goes to
    // `to + c * channel_pitch + r * row_pitch`. Adds up the gradients of learned slopes and, where
    // BIAS >= 0, of the bias.
    template <int N, int BIAS>
    static INLINE void spread(const Step& step, const float* out, const float* out_gradient,
                              float* saved, int y, int rows, float* to, int channel_pitch,
                              int row_pitch) {
        const int part = ceil_div(ceil_div(rows, STEP), SPLITS) * STEP;
        each<N>(Wide::C * SPLITS, [&](int i) {
            const int c = i / SPLITS, split = i % SPLITS, first = split * part;
            if (first >= rows) return;
            spread_channel<N, BIAS>(step, out, out_gradient, saved, c, y + first,
                                    smaller(part, rows - first),
                                    to + c * channel_pitch + first * row_pitch, row_pitch, split);
        });
    }

    template <int N, int BIAS, bool SLOPE = true>
    static INLINE void spread_channel(const Step& step, const float* out,
                                      const float* out_gradient, float* saved, int c, int y0,
                                      int rows, float* to, int row_pitch, int split = 0) {
        constexpr int P = N / IMAGES;
        Vec<N> bias{}, slope{};
        for (int r = 0; r < rows; r += STEP) {
            const int y = (y0 + r) / STEP;
            float* row = to + r * row_pitch;
            each_vector<N, Out::W>([&](int x, auto count) {
                constexpr int COUNT = decltype(count)::value;
                Ints<N> winner;
                const Vec<N> g = gradient<N, COUNT>(step, c, y, x, out, out_gradient, saved, slope,
                                                    winner);
                if constexpr (POOL) {
                    Vec<N> q[4];
                    UNROLL for (int i = 0; i < 4; i++) q[i] = winner == i ? g : Vec<N>{};
                    interleave<N>(q[0], q[1]);
                    interleave<N>(q[2], q[3]);
                    UNROLL for (int i = 0; i < 4; i++) {
                        store<N>(row + (i / 2) * row_pitch + (2 * x + (i % 2) * P) * IMAGES, q[i]);
                    }
                    if constexpr (BIAS >= 0) bias += (q[0] + q[1]) + (q[2] + q[3]);
                } else {
                    store<N>(row + x * IMAGES, g);
                    if constexpr (BIAS >= 0) bias += g;
                }
            });
        }
        if constexpr (BIAS >= 0) add_kept<N>(step.kept(BIAS + c, split), bias);
        if constexpr (Act::LEARNED && SLOPE) {
            add_kept<N>(step.kept(Act::WEIGHT + c, split), slope);
        }
    }
};

}  // namespace golf
