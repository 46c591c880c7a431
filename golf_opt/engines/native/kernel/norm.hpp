// Batch normalisation (Ioffe and Szegedy 2015) over the whole batch, however many passes it takes,
// with the activation and the pool that follow.
#pragma once

#include <cmath>

#include "epilogue.hpp"

namespace golf {

template <class In_, class Epi, int GAMMA, int BETA, int MEAN, int VARIANCE>
struct BatchNorm {
    using In = In_;
    using Out = typename Epi::Out;
    static constexpr bool SYNC = true;  // needs sums over all passes, forward and backward
    static constexpr int C = In::C, N = WIDTH, P = N / IMAGES;
    static constexpr int SAVED = Epi::SAVED;
    static constexpr float MOMENTUM = 0.1f, EPS = 1e-5f;

    struct State {
        double sum[C], square[C];              // of x - running mean over the batch
        double gradient[C], correlation[C];    // of dL/dz and of dL/dz * normalised x
        float mean[C], inverse[C];             // of the batch, or running; 1 / standard deviation
        float mean_gradient[C], mean_correlation[C];
    };
    static constexpr int STATE = (sizeof(State) / 4 + WIDTH - 1) / WIDTH * WIDTH;
    static INLINE State& of(float* state) { return *reinterpret_cast<State*>(state); }

    // 1 in the lanes that hold an image.
    static INLINE Vec<N> filled(const Step& step) {
        float lanes[N];
        for (int i = 0; i < N; i++) lanes[i] = i % IMAGES < step.num_images ? 1.f : 0.f;
        return load<N>(lanes);
    }

    static void forward_begin(float* state) {
        for (int c = 0; c < C; c++) of(state).sum[c] = of(state).square[c] = 0;
    }

    // Shifting by the running mean keeps the sum of squares from drowning the variance.
    static void forward_sum(const Step& step, const float* in, float* state) {
        const Vec<N> lanes = filled(step);
        each(C, [&](int c) {
            const Vec<N> shift = broadcast<N>(step.buffers[MEAN + c]);
            Vec<N> sums{}, squares{};
            for (int y = 0; y < In::H; y++) {
                Vec<N> row_sum{}, row_square{};
                each_vector<N, In::W>([&](int x, auto count) {
                    const Vec<N> v = (load<N>(in + In::at(c, y, x)) - shift) * only<decltype(count)::value>(lanes);
                    row_sum += v;
                    row_square += v * v;
                });
                sums += row_sum;
                squares += row_square;
            }
            of(state).sum[c] += sum<N>(sums);
            of(state).square[c] += sum<N>(squares);
        });
        barrier();
    }

    // `lanes` with zeros beyond the first COUNT positions.
    template <int COUNT>
    static INLINE Vec<N> only(Vec<N> lanes) {
        if constexpr (COUNT == P) return lanes;
        Vec<N> some{};
        std::memcpy(&some, &lanes, COUNT * IMAGES * sizeof(float));
        return some;
    }

    static void forward_end(const Step& step, float* state) {
        State& s = of(state);
        const double count = double(step.batch_size) * In::H * In::W;
        each(C, [&](int c) {
            float& running_mean = step.buffers[MEAN + c];
            float& running_variance = step.buffers[VARIANCE + c];
            if (!step.training) {
                s.mean[c] = running_mean;
                s.inverse[c] = 1 / std::sqrt(running_variance + EPS);
                return;
            }
            const double offset = s.sum[c] / count;
            const double variance = s.square[c] / count - offset * offset;
            s.mean[c] = float(running_mean + offset);
            s.inverse[c] = float(1 / std::sqrt((variance > 0 ? variance : 0) + double(EPS)));
            const double unbiased = variance * count / (count > 1 ? count - 1 : 1);
            running_mean += MOMENTUM * (s.mean[c] - running_mean);
            running_variance += MOMENTUM * (float(unbiased) - running_variance);
        });
        barrier();
    }

    static void forward(const Step& step, const float* in, float* out, float* saved, float* state) {
        const State& s = of(state);
        each(C, [&](int c) {
            const float scale = step.weights[GAMMA + c] * s.inverse[c];
            const Vec<N> a = broadcast<N>(scale);
            const Vec<N> b = broadcast<N>(step.weights[BETA + c] - s.mean[c] * scale);
            const auto z = [&](int y, int x) { return load<N>(in + In::at(c, y, x)) * a + b; };
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

    // A channel's band of rows: the gradient after the normalisation, zero where no window of the
    // pool reaches.
    static constexpr int PITCH = ceil_div(In::W, 2 * P) * 2 * P + P;
    static constexpr int ROW_FLOATS = PITCH * IMAGES;
    static constexpr int SCRATCH = Epi::STEP * ROW_FLOATS + WIDTH;

    // body(y, row) for every row of a channel, `row` being its gradient.
    template <bool SLOPE, class Body>
    static INLINE void each_row(const Step& step, const float* out, const float* out_gradient,
                                float* saved, int c, Body&& body) {
        float* band = step.scratch;
        std::memset(band, 0, SCRATCH * sizeof(float));
        for (int y = 0; y < Epi::ROWS; y += Epi::STEP) {
            Epi::template spread_channel<N, -1, SLOPE>(step, out, out_gradient, saved, c, y,
                                                       Epi::STEP, band, ROW_FLOATS);
            for (int r = 0; r < Epi::STEP; r++) body(y + r, band + r * ROW_FLOATS);
        }
        if constexpr (Epi::ROWS < In::H) {
            std::memset(band, 0, SCRATCH * sizeof(float));
            for (int y = Epi::ROWS; y < In::H; y++) body(y, band);
        }
    }

    static void backward_begin(float* state) {
        for (int c = 0; c < C; c++) of(state).gradient[c] = of(state).correlation[c] = 0;
    }

    static void backward_sum(const Step& step, const float* in, const float* out,
                             const float* out_gradient, float* saved, float* state) {
        State& s = of(state);
        each(C, [&](int c) {
            Vec<N> gradient{}, correlation{};
            const Vec<N> mean = broadcast<N>(s.mean[c]);
            each_row<true>(step, out, out_gradient, saved, c, [&](int y, const float* row) {
                Vec<N> row_gradient{}, row_correlation{};
                for (int x = 0; x < Epi::COLUMNS; x += P) {
                    const Vec<N> g = load<N>(row + x * IMAGES);
                    row_gradient += g;
                    row_correlation += g * (load<N>(in + In::at(c, y, x)) - mean);
                }
                gradient += row_gradient;
                correlation += row_correlation;
            });
            s.gradient[c] += sum<N>(gradient);
            s.correlation[c] += sum<N>(correlation) * s.inverse[c];
        });
        barrier();
    }

    static void backward_end(const Step& step, float* state) {
        State& s = of(state);
        const double count = double(step.batch_size) * In::H * In::W;
        each(C, [&](int c) {
            step.lane_gradients[(GAMMA + c) * WIDTH] += float(s.correlation[c]);
            step.lane_gradients[(BETA + c) * WIDTH] += float(s.gradient[c]);
            s.mean_gradient[c] = float(s.gradient[c] / count);
            s.mean_correlation[c] = float(s.correlation[c] / count);
        });
        barrier();
    }

    // dL/dx = gamma / sd * (g - mean(g) - normalised x * mean(g * normalised x))
    static void backward(const Step& step, const float* in, const float* out,
                         const float* out_gradient, float* in_gradient, float* saved,
                         float* state) {
        using Flat = typename In::Compact;
        const State& s = of(state);
        const Vec<N> lanes = filled(step);
        each(C, [&](int c) {
            const float scale = step.weights[GAMMA + c] * s.inverse[c];
            const float factor = s.mean_correlation[c] * s.inverse[c];
            const Vec<N> a = broadcast<N>(scale), b = broadcast<N>(-scale * factor);
            const Vec<N> rest = broadcast<N>(scale * (factor * s.mean[c] - s.mean_gradient[c]));
            each_row<false>(step, out, out_gradient, saved, c, [&](int y, const float* row) {
                each_vector<N, In::W>([&](int x, auto count) {
                    const Vec<N> g = load<N>(row + x * IMAGES);
                    const Vec<N> v = (a * g + b * load<N>(in + In::at(c, y, x)) + rest) * lanes;
                    store_some<N, decltype(count)::value * IMAGES>(in_gradient + Flat::at(c, y, x), v);
                });
            });
        });
        barrier();
    }
};

}  // namespace golf
