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
    template <int N> static INLINE Vec<N> apply(Vec<N> v, float) { return v; }
    template <int N> static INLINE Vec<N> slope(Vec<N>, float) { return broadcast<N>(1); }
};
struct Relu {
    static constexpr bool LEARNED = false;
    template <int N> static INLINE Vec<N> apply(Vec<N> v, float) { return v > 0 ? v : Vec<N>{}; }
    template <int N> static INLINE Vec<N> slope(Vec<N> v, float) {
        return v > 0 ? broadcast<N>(1) : Vec<N>{};
    }
};
template <int NUMERATOR, int DENOMINATOR>  // the bits of a float cannot be a C++17 argument
struct LeakyRelu {
    static constexpr bool LEARNED = false;
    static constexpr float SLOPE = float(double(NUMERATOR) / DENOMINATOR);
    template <int N> static INLINE Vec<N> apply(Vec<N> v, float) { return v > 0 ? v : v * SLOPE; }
    template <int N> static INLINE Vec<N> slope(Vec<N> v, float) {
        return v > 0 ? broadcast<N>(1) : broadcast<N>(SLOPE);
    }
};
template <int WEIGHT>  // where the slopes, one per channel, lie among the weights
struct PRelu {
    static constexpr bool LEARNED = true;
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
    // Saved for the way back: values before the activation, then winners.
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
        Vec<N> window[4] = {a, b, d, e};
        Vec<N> before = a, best = a;
        Ints<N> winner{};
        if constexpr (Act::LEARNED) best = Act::template apply<N>(a, slope);
        UNROLL for (int q = 1; q < 4; q++) {
            Vec<N> value = window[q];
            if constexpr (Act::LEARNED) value = Act::template apply<N>(value, slope);
            Ints<N> wins = value > best;
            best = wins ? value : best;
            winner = wins ? Ints<N>{} + q : winner;
            if constexpr (Act::LEARNED) before = wins ? window[q] : before;
        }
        // The other activations are monotone, so that the largest value wins before and after.
        if constexpr (!Act::LEARNED) best = Act::template apply<N>(best, slope);
        if (step.training) {
            if constexpr (Act::LEARNED) store_some<N, FLOATS>(saved + Flat::at(c, y, x), before);
            store_bytes<N, FLOATS>(winners(saved) + Flat::at(c, y, x), winner);
        }
        store_some<N, FLOATS>(out + Out::at(c, y, x), best);
    }

    // The gradient before the activation of one vector of the output; partial vectors are zero
    // beyond their end. `slope_gradient` is the lanes' gradient of a learned slope.
    template <int N, int COUNT>
    static INLINE Vec<N> gradient(const Step& step, int c, int y, int x, const float* out,
                                  const float* out_gradient, float* saved, Vec<N>& slope_gradient) {
        Vec<N> g = load_some<N, COUNT * IMAGES>(out_gradient + Flat::at(c, y, x));
        if constexpr (Act::LEARNED) {
            Vec<N> before = load<N>(saved + Flat::at(c, y, x));
            slope_gradient += before > 0 ? Vec<N>{} : g * before;
            g *= Act::template slope<N>(before, slope_of(step, c));
        } else {
            // Positive after the activation is positive before it.
            g *= Act::template slope<N>(load<N>(out + Out::at(c, y, x)), 0);
        }
        return g;
    }

    // Write the gradient of rows y0 .. y0 + rows before the activation: channel c's row r goes to
    // `to + c * channel_pitch + r * row_pitch`. Adds up the learned slopes' gradients, and
    // `bias_at >= 0` the bias'.
    template <int N, int BIAS>
    static INLINE void spread(const Step& step, const float* out, const float* out_gradient,
                              float* saved, int y0, int rows, float* to, int channel_pitch,
                              int row_pitch) {
        constexpr int P = N / IMAGES;
        each(Wide::C, [&](int c) {
            Vec<N> bias{}, slope{};
            for (int r = 0; r < rows; r += STEP) {
                const int y = (y0 + r) / STEP;
                float* row = to + c * channel_pitch + r * row_pitch;
                each_vector<N, Out::W>([&](int x, auto count) {
                    constexpr int COUNT = decltype(count)::value;
                    Vec<N> g = gradient<N, COUNT>(step, c, y, x, out, out_gradient, saved, slope);
                    bias += g;
                    if constexpr (POOL) {
                        Ints<N> winner = load_bytes<N>(winners(saved) + Flat::at(c, y, x));
                        Vec<N> q[4];
                        UNROLL for (int i = 0; i < 4; i++) q[i] = winner == i ? g : Vec<N>{};
                        interleave<N>(q[0], q[1]);
                        interleave<N>(q[2], q[3]);
                        UNROLL for (int i = 0; i < 4; i++) {
                            store<N>(row + (i / 2) * row_pitch + (2 * x + (i % 2) * P) * IMAGES, q[i]);
                        }
                    } else {
                        store<N>(row + x * IMAGES, g);
                    }
                });
            }
            if constexpr (BIAS >= 0) add_to<N>(step.lane_gradients + (BIAS + c) * WIDTH, bias);
            if constexpr (Act::LEARNED) {
                add_to<N>(step.lane_gradients + (SlopeAt<Act>::value + c) * WIDTH, slope);
            }
        });
    }
};

}  // namespace golf
