// What follows a convolution or a normalisation in one go: an activation, then a 2x2 max pool.
//
// Forward, the four window positions arrive in registers and leave as one; what the way back needs
// is the index of the winner (1 byte) and, where the slope is learned, the value before the
// activation. Backward, the gradient of the pooled tensor is spread over rows of the unpooled one.
#pragma once

#include "shapes.hpp"

namespace golf {

struct Identity {
    static constexpr bool LEARNED = false, CLAMPS = false;
    static constexpr float SLOPE = 1;
    template <int N> static INLINE Vec<N> apply(Vec<N> v, float) { return v; }
    template <int N> static INLINE Vec<N> slope(Vec<N>, float) { return broadcast<N>(1); }
};
struct Relu {
    static constexpr bool LEARNED = false, CLAMPS = true;  // nothing passes below zero
    template <int N> static INLINE Vec<N> apply(Vec<N> v, float) { return v > 0 ? v : Vec<N>{}; }
    template <int N> static INLINE Vec<N> slope(Vec<N> v, float) {
        return v > 0 ? broadcast<N>(1) : Vec<N>{};
    }
};
template <class Slope>  // a constant of the net, Slope::VALUE in [0, 1)
struct LeakyRelu {
    static constexpr bool LEARNED = false, CLAMPS = false;
    static constexpr float SLOPE = Slope::VALUE;
    template <int N> static INLINE Vec<N> apply(Vec<N> v, float) { return v > 0 ? v : v * SLOPE; }
    template <int N> static INLINE Vec<N> slope(Vec<N> v, float) {
        return v > 0 ? broadcast<N>(1) : broadcast<N>(SLOPE);
    }
};
template <int WEIGHT>  // where the slopes, one per channel, lie among the weights
struct PRelu {
    static constexpr bool LEARNED = true, CLAMPS = false;
    template <int N> static INLINE Vec<N> apply(Vec<N> v, float s) { return v > 0 ? v : v * s; }
    template <int N> static INLINE Vec<N> slope(Vec<N> v, float s) {
        return v > 0 ? broadcast<N>(1) : broadcast<N>(s);
    }
};

template <class Act> struct SlopeAt { static constexpr int value = -1; };
template <int WEIGHT> struct SlopeAt<PRelu<WEIGHT>> { static constexpr int value = WEIGHT; };

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
    // Saved for the way back: values before the activation, where the slope is learned, then one
    // byte for each window: the winner, 0 to 3, plus DEAD where the winner is not positive.
    static constexpr int DEAD = 4;
    static constexpr int VALUES = Act::LEARNED ? Flat::FLOATS : 0;
    static constexpr int SAVED = VALUES + (POOL ? Flat::FLOATS / 4 + WIDTH : 0);

    static INLINE float slope_of(const Step& step, int c) {
        if constexpr (Act::LEARNED) return step.weights[SlopeAt<Act>::value + c];
        return 0;
    }
    static INLINE int8_t* winners(float* saved) { return reinterpret_cast<int8_t*>(saved + VALUES); }

    // Finish one vector of a row without a pool.
    template <int N, int COUNT>
    static INLINE void finish(const Step& step, Vec<N> v, int c, int y, int x, float* out,
                              float* saved) {
        constexpr int FLOATS = COUNT * IMAGES;
        if constexpr (Act::LEARNED) store_some<N, FLOATS>(saved + Flat::at(c, y, x), v);
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
        // A tournament in which the earlier position wins a tie, as in PyTorch. Where the slope is
        // learned it may be negative, so that the values after the activation compete.
        const auto act = [&](Vec<N> v) {
            return Act::LEARNED ? Act::template apply<N>(v, slope) : v;
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
            if constexpr (Act::LEARNED) {
                const Vec<N> before =
                    lower ? (right_below ? e : d) : (right_above ? b : a);
                store_some<N, FLOATS>(saved + Flat::at(c, y, x), before);
            } else {
                winner = best > 0 ? winner : winner + DEAD;
            }
            store_bytes<N, FLOATS>(winners(saved) + Flat::at(c, y, x), winner);
        }
        // The other activations are monotone, so that the largest value wins before and after.
        if constexpr (!Act::LEARNED) best = Act::template apply<N>(best, slope);
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
        if constexpr (Act::LEARNED) {
            const Vec<N> before = load<N>(saved + Flat::at(c, y, x));
            slope_gradient += before > 0 ? Vec<N>{} : g * before;
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
            add_kept<N>(step.kept(SlopeAt<Act>::value + c, split), slope);
        }
    }
};

}  // namespace golf
