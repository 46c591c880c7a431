// Batch normalisation (Ioffe and Szegedy 2015) over the whole batch, however many passes it takes,
// with the activation and the pool that follow.
#pragma once

#include "epilogue.hpp"

namespace golf {

template <class In_, class Epi, int GAMMA, int BETA, int MEAN, int VARIANCE>
struct BatchNorm {
    using In = In_;
    using Out = typename Epi::Out;
    static constexpr bool BY_ROWS = false;
    static constexpr bool SYNC = true;  // needs sums over all passes, forward and backward
    static constexpr int C = In::C, N = WIDTH, P = N / IMAGES;
    static constexpr int SAVED = Epi::SAVED;
    static constexpr float MOMENTUM = 0.1f, EPS = 1e-5f;

    struct State {
        float row_sum[C][N], row_square[C][N];  // of x - running mean over a pass, by lane
        double sum[C], square[C];              // the same over the batch
        double gradient[C], correlation[C];    // of dL/dz and of dL/dz * normalised x
        float mean[C], inverse[C];             // of the batch, or running; 1 / standard deviation
        float mean_gradient[C], mean_correlation[C];
    };
    static constexpr int STATE = (sizeof(State) / 4 + WIDTH - 1) / WIDTH * WIDTH;
    static INLINE State& of(float* state) { return *reinterpret_cast<State*>(state); }

    // 1 in the lanes that hold an image.
    static INLINE Vec<N> filled(const Step& step) {
        return make<N>([&](int i) { return i % IMAGES < step.num_images ? 1.f : 0.f; });
    }

    static void forward_begin(float* state) {
        clear_all(state, STATE);
        barrier();
    }

    // The sums of one pass, row by row and then closed. Shifting by the running mean keeps the sum
    // of squares from drowning the variance.
    static INLINE void forward_sum_row(const Step& step, const float* in, int y, float* state) {
        const Vec<N> lanes = filled(step);
        for (int c = 0; c < C; c++) sum_row(step, lanes, in, c, y, state);
    }
    static INLINE void sum_row(const Step& step, Vec<N> lanes, const float* in, int c, int y,
                               float* state) {
        const Vec<N> shift = broadcast<N>(step.buffers[MEAN + c]);
        Vec<N> row_sum{}, row_square{};
        each_vector<N, In::W>([&](int x, auto count) {
            const Vec<N> v = (load<N>(in + In::at(c, y, x)) - shift) *
                             first_lanes<N, decltype(count)::value * IMAGES>(lanes);
            row_sum += v;
            row_square += v * v;
        });
        add_to<N>(of(state).row_sum[c], row_sum);
        add_to<N>(of(state).row_square[c], row_square);
    }
    static INLINE void forward_close_pass(float* state) {
        State& s = of(state);
        each<N>(C, [&](int c) {
            const float total = sum<N>(load<N>(s.row_sum[c]));
            const float square = sum<N>(load<N>(s.row_square[c]));
            one<N>([&] {
                s.sum[c] += total;
                s.square[c] += square;
            });
            store<N>(s.row_sum[c], Vec<N>{});
            store<N>(s.row_square[c], Vec<N>{});
        });
        barrier();
    }
    static void forward_sum(const Step& step, const float* in, float* state) {
        const Vec<N> lanes = filled(step);
        each<N>(C, [&](int c) {
            for (int y = 0; y < In::H; y++) sum_row(step, lanes, in, c, y, state);
        });
        forward_close_pass(state);
    }

    static void forward_end(const Step& step, float* state) {
        State& s = of(state);
        const double count = double(step.batch_size) * In::H * In::W;
        each<1>(C, [&](int c) {
            float& running_mean = step.buffers[MEAN + c];
            float& running_variance = step.buffers[VARIANCE + c];
            if (!step.training) {
                s.mean[c] = running_mean;
                s.inverse[c] = 1 / sqrt(running_variance + EPS);
                return;
            }
            const double offset = s.sum[c] / count;
            const double variance = s.square[c] / count - offset * offset;
            s.mean[c] = float(running_mean + offset);
            s.inverse[c] = float(1 / sqrt((variance > 0 ? variance : 0) + double(EPS)));
            const double unbiased = variance * count / (count > 1 ? count - 1 : 1);
            running_mean += MOMENTUM * (s.mean[c] - running_mean);
            running_variance += MOMENTUM * (float(unbiased) - running_variance);
        });
        barrier();
    }

    static void forward(const Step& step, const float* in, float* out, float* saved, float* state) {
        const State& s = of(state);
        each<N>(C, [&](int c) {
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

    // Bands of rows of the gradient after the normalisation.
    static constexpr int PITCH = ceil_div(In::W, 2 * P) * 2 * P + P;
    static constexpr int ROW_FLOATS = PITCH * IMAGES;
    static constexpr int SCRATCH = 2 * C * ROW_FLOATS + WIDTH;
    static constexpr int ROWS_FLOATS = Epi::STEP * ROW_FLOATS;

    // body(y, row) for every row of a channel that a window reaches, `row` being its gradient.
    // Adds up the gradients of learned slopes.
    template <class Body>
    static INLINE void each_row(const Step& step, const float* out, const float* out_gradient,
                                float* saved, int c, Body&& body) {
        float* band = step.scratch + (TEAM ? c * ROWS_FLOATS : 0);
        clear<N>(band, ROWS_FLOATS);
        for (int y = 0; y < Epi::ROWS; y += Epi::STEP) {
            Epi::template spread_channel<N, -1>(step, out, out_gradient, saved, c, y,
                                                Epi::STEP, band, ROW_FLOATS);
            for (int r = 0; r < Epi::STEP; r++) body(y + r, band + r * ROW_FLOATS);
        }
    }

    static void backward_begin(float* state) {
        each<1>(C, [&](int c) { of(state).gradient[c] = of(state).correlation[c] = 0; });
        barrier();
    }

    static void backward_sum(const Step& step, const float* in, const float* out,
                             const float* out_gradient, float* saved, float* state) {
        State& s = of(state);
        each<N>(C, [&](int c) {
            Vec<N> gradient{}, correlation{};
            if constexpr (Epi::Act::CLAMPS) {
                const float gamma = step.weights[GAMMA + c], beta = step.weights[BETA + c];
                if (fabs(beta) <= 16 * fabs(gamma) && gamma != 0) {
                    sum_of_output(c, out, out_gradient, beta, gradient, correlation);
                    close(s, c, sum<N>(gradient), sum<N>(correlation) / gamma);
                    return;
                }
            }
            const Vec<N> mean = broadcast<N>(s.mean[c]);
            each_row(step, out, out_gradient, saved, c, [&](int y, const float* row) {
                Vec<N> row_gradient{}, row_correlation{};
                for (int x = 0; x < Epi::COLUMNS; x += P) {
                    const Vec<N> g = load<N>(row + x * IMAGES);
                    row_gradient += g;
                    row_correlation += g * (load<N>(in + In::at(c, y, x)) - mean);
                }
                gradient += row_gradient;
                correlation += row_correlation;
            });
            close(s, c, sum<N>(gradient), sum<N>(correlation) * s.inverse[c]);
        });
        barrier();
    }

    static INLINE void close(State& s, int c, float gradient, float correlation) {
        one<N>([&] {
            s.gradient[c] += gradient;
            s.correlation[c] += correlation;
        });
    }

    // Behind a ReLU a gradient passes only where the output is gamma * normalised x + beta, so that
    // the output, small after a pool, tells the normalised x: the large input need not be read.
    static INLINE void sum_of_output(int c, const float* out, const float* out_gradient, float beta,
                                     Vec<N>& gradient, Vec<N>& correlation) {
        using Flat = typename Epi::Flat;
        for (int y = 0; y < Out::H; y++) {
            Vec<N> row_gradient{}, row_correlation{};
            each_vector<N, Out::W>([&](int x, auto count) {
                constexpr int FLOATS = decltype(count)::value * IMAGES;
                const Vec<N> h = load<N>(out + Out::at(c, y, x));
                const Vec<N> all = load_some<N, FLOATS>(out_gradient + Flat::at(c, y, x));
                const Vec<N> g = h > 0 ? all : Vec<N>{};
                row_gradient += g;
                row_correlation += g * (h - beta);
            });
            gradient += row_gradient;
            correlation += row_correlation;
        }
    }

    static void backward_end(const Step& step, float* state) {
        State& s = of(state);
        const double count = double(step.batch_size) * In::H * In::W;
        each<1>(C, [&](int c) {
            *step.kept(GAMMA + c) += float(s.correlation[c]);
            *step.kept(BETA + c) += float(s.gradient[c]);
            s.mean_gradient[c] = float(s.gradient[c] / count);
            s.mean_correlation[c] = float(s.correlation[c] / count);
        });
        barrier();
    }

    // Write rows y0 .. y0 + rows of dL/dx, y0 even: channel c's row r goes to
    // `to + c * channel_pitch + r * row_pitch`, where there is room up to a whole vector.
    //
    // dL/dx = gamma / sd * (g - mean(g) - normalised x * mean(g * normalised x))
    static INLINE void backward_rows(const Step& step, const float* in, const float* out,
                                     const float* out_gradient, float* saved, float* state, int y0,
                                     int rows, float* to, int channel_pitch, int row_pitch) {
        const State& s = of(state);
        const Vec<N> lanes = filled(step);
        each<N>(C, [&](int c) {
            const float scale = step.weights[GAMMA + c] * s.inverse[c];
            const float factor = s.mean_correlation[c] * s.inverse[c];
            const Vec<N> a = broadcast<N>(scale) * lanes, b = broadcast<N>(-scale * factor) * lanes;
            const Vec<N> rest =
                broadcast<N>(scale * (factor * s.mean[c] - s.mean_gradient[c])) * lanes;
            float* channel = to + c * channel_pitch;
            if (Epi::COLUMNS < In::W || y0 + rows > Epi::ROWS) {  // where no window reaches
                for (int r = 0; r < rows; r++) {
                    clear<N>(channel + r * row_pitch, In::W * IMAGES);
                }
            }
            if (y0 < Epi::ROWS) {
                Epi::template spread_channel<N, -1, false>(step, out, out_gradient, saved, c, y0,
                                                           smaller(rows, Epi::ROWS - y0), channel,
                                                           row_pitch);
            }
            for (int r = 0; r < rows; r++) {
                float* row = channel + r * row_pitch;
                each_vector<N, In::W>([&](int x, auto count) {
                    const Vec<N> g = load<N>(row + x * IMAGES);
                    const Vec<N> v = a * g + b * load<N>(in + In::at(c, y0 + r, x)) + rest;
                    store_some<N, decltype(count)::value * IMAGES>(row + x * IMAGES, v);
                });
            }
        });
    }

    static void backward(const Step& step, const float* in, const float* out,
                         const float* out_gradient, float* in_gradient, float* saved,
                         float* state) {
        using Flat = typename In::Compact;
        float* band = step.scratch;  // [C][2][PITCH]
        for (int y = 0; y < In::H; y += 2) {
            const int rows = smaller(2, In::H - y);
            backward_rows(step, in, out, out_gradient, saved, state, y, rows, band, 2 * ROW_FLOATS,
                          ROW_FLOATS);
            barrier();
            each<N>(C * rows, [&](int i) {
                const int c = i / rows, r = i % rows;
                copy<N>(in_gradient + Flat::at(c, y + r, 0), band + (2 * c + r) * ROW_FLOATS,
                        In::W * IMAGES);
            });
            barrier();
        }
    }
};

}  // namespace golf
