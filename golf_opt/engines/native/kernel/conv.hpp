// Dense and depthwise convolutions with what follows them: bias, activation, 2x2 max pool.
//
// Forward, a tile of output channels x positions stays in registers over the whole sum. Backward
// goes through the output in bands of rows that fit the first cache: spread the gradient over a
// band, then add it to the weights' gradients (a block of weights in registers over the band) and
// to the input's (a tile of it in registers over all channels and the kernel).
#pragma once

#include "epilogue.hpp"

namespace golf {

constexpr int BAND_FLOATS = TEAM ? 3072 : 5120;  // 20 KiB: more than half of a first cache

template <class In_, class Epi, class Kernel, bool DEPTHWISE, int WEIGHT, int BIAS,
          bool INPUT_GRADIENT>
struct Conv {
    using In = In_;
    using Out = typename Epi::Out;
    static constexpr int SAVED = Epi::SAVED, STATE = 0;
    static constexpr bool SYNC = false;
    // A normalisation right behind it can hand over its gradient, and take up its output, by rows.
    static constexpr bool BY_ROWS =
        !TEAM && !Epi::POOL && SAME<typename Epi::Act, Identity> && BIAS < 0;
    static constexpr int KH = Kernel::H, KW = Kernel::W, DOWN = Kernel::DOWN;
    static constexpr int ACROSS = Kernel::ACROSS, ABOVE = In::ABOVE, BESIDE = In::BESIDE;
    static constexpr bool POINT = KH == 1 && KW == 1, STRIDED = DOWN > 1 || ACROSS > 1;
    static constexpr int CI = In::C, CO = Epi::Wide::C;
    static constexpr int SUMMED = DEPTHWISE ? 1 : CI;  // input channels behind one output channel
    // A vector spans neighbouring positions only where their inputs are neighbours too.
    static constexpr int N = STRIDED ? IMAGES : WIDTH, P = N / IMAGES;

    // --- forward ---
    static constexpr int UNIT = Epi::POOL ? 2 : 1;  // vectors and rows behind one output vector
    static constexpr Tile FORWARD = [] {
        if (TEAM) return best_tile<N>(DEPTHWISE ? 1 : CO, Out::H, ceil_div(Out::W, P), UNIT, KH);
        const int c = DEPTHWISE ? 1 : block_of(CO, ACCUMULATORS / 4);
        return Tile{c, block_of(ceil_div(Out::W, P),
                                larger(1, smaller(ACCUMULATORS / c, 16) / (UNIT * UNIT)))};
    }();
    static constexpr int CB = FORWARD.channels, TILE = FORWARD.vectors;

    static void forward(const Step& step, const float* in, float* out, float* saved, float*) {
        forward_rows(step, in, out, saved, [](int) {});
    }

    // `after(y)` is called when all channels of row y are there.
    template <class After>
    static INLINE void forward_rows(const Step& step, const float* in, float* out, float* saved,
                                    After&& after) {
        Turns<N> turns;
        loop(Out::H, [&](int y) {
            each_block<CO, CB>([&](int c, auto block) {
                each_tile<N, Out::W, TILE>([&](int x, auto vectors, auto last) {
                    if (!turns.next()) return;
                    tile<decltype(block)::value, decltype(vectors)::value, decltype(last)::value>(
                        step, in, out, saved, c, y, x);
                });
            });
            after(y);
        });
        barrier();
    }

    template <int BLOCK, int VECTORS, int LAST>
    static INLINE void tile(const Step& step, const float* in, float* out, float* saved, int c0,
                            int y, int x) {
        constexpr int ROWS = UNIT, COLUMNS = UNIT * VECTORS;
        Vec<N> acc[BLOCK][ROWS][COLUMNS];
        UNROLL for (int c = 0; c < BLOCK; c++) {
            const Vec<N> start = broadcast<N>(BIAS >= 0 ? step.weights[BIAS + c0 + c] : 0.f);
            UNROLL for (int r = 0; r < ROWS; r++) {
                UNROLL for (int v = 0; v < COLUMNS; v++) acc[c][r][v] = start;
            }
        }
        const float* from = in + In::at(DEPTHWISE ? c0 : 0, y * UNIT * DOWN - ABOVE,
                                        x * UNIT * ACROSS - BESIDE);
        const float* w = step.weights + WEIGHT + c0 * SUMMED * KH * KW;
        for (int ci = 0; ci < SUMMED; ci++) {
            UNROLL_ROWS for (int ky = 0; ky < KH; ky++) {
                each_block<KW, (KW > 8 ? 8 : KW)>([&](int kx0, auto kxs) {
                    UNROLL for (int j = 0; j < decltype(kxs)::value; j++) {
                        const int kx = kx0 + j;
                        Vec<N> value[ROWS][COLUMNS];
                        UNROLL for (int r = 0; r < ROWS; r++) {
                            UNROLL for (int v = 0; v < COLUMNS; v++) {
                                value[r][v] =
                                    load<N>(from + In::at(ci, r * DOWN + ky, v * P * ACROSS + kx) -
                                            In::at(0, 0, 0));
                            }
                        }
                        UNROLL for (int c = 0; c < BLOCK; c++) {
                            const Vec<N> weight =
                                broadcast<N>(w[((c * SUMMED + ci) * KH + ky) * KW + kx]);
                            UNROLL for (int r = 0; r < ROWS; r++) {
                                UNROLL for (int v = 0; v < COLUMNS; v++) {
                                    acc[c][r][v] += weight * value[r][v];
                                }
                            }
                        }
                    }
                });
            }
        }
        UNROLL for (int c = 0; c < BLOCK; c++) {
            UNROLL for (int v = 0; v < VECTORS - 1; v++) {
                finish<P>(step, acc[c], c0 + c, y, x, v, out, saved);
            }
            finish<LAST>(step, acc[c], c0 + c, y, x, VECTORS - 1, out, saved);
        }
    }

    template <int COUNT, int ROWS, int COLUMNS>
    static INLINE void finish(const Step& step, Vec<N> (&acc)[ROWS][COLUMNS], int c, int y, int x,
                              int v, float* out, float* saved) {
        if constexpr (Epi::POOL) {
            Epi::template finish_pool<N, COUNT>(step, acc[0][2 * v], acc[0][2 * v + 1],
                                                acc[1][2 * v], acc[1][2 * v + 1], c, y, x + v * P,
                                                out, saved);
        } else {
            Epi::template finish<N, COUNT>(step, acc[0][v], c, y, x + v * P, out, saved);
        }
    }

    // --- backward ---
    // A band is [CO][BAND][PITCH] positions of the gradient before the activation, with zeros
    // around each row as far as the input's gradient reads.
    static constexpr int LEFT = INPUT_GRADIENT ? larger(0, KW - 1 - BESIDE) : 0;
    static constexpr int WRITTEN = ceil_div(Epi::COLUMNS, 2 * P) * 2 * P;
    static constexpr int PITCH =
        LEFT + (INPUT_GRADIENT ? larger(WRITTEN, In::W + BESIDE + P) : WRITTEN);
    static constexpr int BAND =  // even: a pool takes two rows
        smaller(ceil_div(Epi::ROWS, 2) * 2,
                larger(2, BAND_FLOATS / (CO * PITCH * IMAGES) / 2 * 2));
    static constexpr int ROW_FLOATS = PITCH * IMAGES, CHANNEL_FLOATS = BAND * ROW_FLOATS;
    static constexpr int SCRATCH = CO * CHANNEL_FLOATS + 2 * WIDTH;

    static void backward(const Step& step, const float* in, const float* out,
                         const float* out_gradient, float* in_gradient, float* saved, float*) {
        backward_rows(step, in, in_gradient, [&](int y, int rows, float* to) {
            Epi::template spread<N, BIAS>(step, out, out_gradient, saved, y, rows, to,
                                          CHANNEL_FLOATS, ROW_FLOATS);
        });
    }

    // `spread(y, rows, to)` writes the gradient of rows of this convolution's sums.
    template <class Spread>
    static INLINE void backward_rows(const Step& step, const float* in, float* in_gradient,
                                     Spread&& spread) {
        float* band = step.scratch;
        clear_all(band, SCRATCH);
        if (INPUT_GRADIENT) clear_all(in_gradient, In::Compact::FLOATS);
        barrier();
        for (int y = 0; y < Epi::ROWS; y += BAND) {
            const int rows = smaller(BAND, Epi::ROWS - y);
            spread(y, rows, band + LEFT * IMAGES);
            barrier();
            Turns<N> turns;
            weight_gradient(turns, step, in, band + LEFT * IMAGES, y, rows);
            if constexpr (INPUT_GRADIENT) {
                if constexpr (!STRIDED) {
                    input_gradient(turns, step, band + LEFT * IMAGES, in_gradient, y, rows);
                } else {
                    scatter_gradient(step, band + LEFT * IMAGES, in_gradient, y, rows);
                }
            }
            barrier();
        }
    }

    // Weights in registers: WC output channels x (WI input channels x WY x WX of the kernel).
    static constexpr int WX = block_of(KW, 8);
    static constexpr Weights WEIGHTS = [] {
        if (TEAM)
            return best_weights<N>(DEPTHWISE ? 1 : CO, CO, POINT ? SUMMED : 1, SUMMED, KH, KW, WX,
                                   ceil_div(BAND, SPLITS) * ceil_div(Epi::COLUMNS, P));
        const int c = DEPTHWISE ? 1 : block_of(CO, POINT ? 5 : larger(1, smaller(8, ACCUMULATORS / WX)));
        return Weights{c, POINT ? block_of(SUMMED, larger(1, smaller(8, ACCUMULATORS / c))) : 1,
                       block_of(KH, larger(1, ACCUMULATORS / (WX * c)))};
    }();
    static constexpr int WC = WEIGHTS.channels, WI = WEIGHTS.inputs, WY = WEIGHTS.rows;

    // Each of SPLITS takes every SPLITS-th row.
    static INLINE void weight_gradient(Turns<N>& turns, const Step& step, const float* in,
                                       const float* band, int y, int rows) {
        each_block<CO, WC>([&](int c, auto cs) {
            each_block<SUMMED, WI>([&](int ci, auto cis) {
                each_block<KH, WY>([&](int ky, auto kys) {
                    each_block<KW, WX>([&](int kx, auto kxs) {
                        for (int split = 0; split < SPLITS; split++) {
                            if (!turns.next()) continue;
                            weight_block<decltype(cs)::value, decltype(cis)::value,
                                         decltype(kys)::value, decltype(kxs)::value>(
                                step, in, band, y, rows, split, c, ci, ky, kx);
                        }
                    });
                });
            });
        });
    }

    template <int CS, int CIS, int KYS, int KXS>
    static INLINE void weight_block(const Step& step, const float* in, const float* band, int y,
                                    int rows, int split, int c0, int ci0, int ky0, int kx0) {
        const auto kept = [&](int c, int i, int ky, int kx) {
            const int at = (((c0 + c) * SUMMED + ci0 + i) * KH + ky0 + ky) * KW + kx0 + kx;
            return step.kept(WEIGHT + at, split);
        };
        Vec<N> acc[CS][CIS][KYS][KXS];
        UNROLL for (int c = 0; c < CS; c++)
        UNROLL for (int i = 0; i < CIS; i++)
        UNROLL for (int ky = 0; ky < KYS; ky++)
        UNROLL for (int kx = 0; kx < KXS; kx++)
            acc[c][i][ky][kx] = resume<N>(kept(c, i, ky, kx));
        const int first = DEPTHWISE ? c0 : ci0;
        for (int r = split; r < rows; r += SPLITS) {
            const float* from = in + In::at(first, (y + r) * DOWN + ky0 - ABOVE, kx0 - BESIDE);
            const float* gradient = band + c0 * CHANNEL_FLOATS + r * ROW_FLOATS;
            for (int x = 0; x < Epi::COLUMNS; x += P) {
                Vec<N> value[CIS][KYS][KXS];
                UNROLL for (int i = 0; i < CIS; i++)
                UNROLL for (int ky = 0; ky < KYS; ky++)
                UNROLL for (int kx = 0; kx < KXS; kx++)
                    value[i][ky][kx] =
                        load<N>(from + In::at(i, ky, x * ACROSS + kx) - In::at(0, 0, 0));
                UNROLL for (int c = 0; c < CS; c++) {
                    const Vec<N> g = load<N>(gradient + c * CHANNEL_FLOATS + x * IMAGES);
                    UNROLL for (int i = 0; i < CIS; i++)
                    UNROLL for (int ky = 0; ky < KYS; ky++)
                    UNROLL for (int kx = 0; kx < KXS; kx++)
                        acc[c][i][ky][kx] += g * value[i][ky][kx];
                }
            }
        }
        keep<N, CS * CIS * KYS * KXS>(&acc[0][0][0][0], [&](int i) {
            return kept(i / (CIS * KYS * KXS), i / (KYS * KXS) % CIS, i / KXS % KYS, i % KXS);
        });
    }

    // The input's gradient in registers: XC input channels x XV vectors.
    static constexpr Tile BACKWARD = [] {
        if (TEAM) return best_tile<N>(DEPTHWISE ? 1 : CI, In::H, ceil_div(In::W, P), 1, KH);
        const int c = DEPTHWISE ? 1 : block_of(CI, ACCUMULATORS / 4);
        return Tile{c, block_of(ceil_div(In::W, P), smaller(ACCUMULATORS / c, 8))};
    }();
    static constexpr int XC = BACKWARD.channels, XV = BACKWARD.vectors;

    static INLINE void input_gradient(Turns<N>& turns, const Step& step, const float* band,
                                      float* in_gradient, int y, int rows) {
        const int first = larger(0, y - ABOVE), end = smaller(In::H, y - ABOVE + rows + KH - 1);
        loop(end - first, [&](int i) {
            each_block<CI, XC>([&](int ci, auto cis) {
                each_tile<N, In::W, XV>([&](int x, auto vectors, auto last) {
                    if (!turns.next()) return;
                    input_tile<decltype(cis)::value, decltype(vectors)::value,
                               decltype(last)::value>(step, band, in_gradient, y, rows, ci,
                                                      first + i, x);
                });
            });
        });
    }

    template <int CIS, int VECTORS, int LAST>
    static INLINE void input_tile(const Step& step, const float* band, float* in_gradient, int y,
                                  int rows, int ci0, int iy, int x) {
        Vec<N> acc[CIS][VECTORS];
        const auto at = [&](int i, int v) { return In::Compact::at(ci0 + i, iy, x + v * P); };
        UNROLL for (int i = 0; i < CIS; i++)
        UNROLL for (int v = 0; v < VECTORS - 1; v++) acc[i][v] = load<N>(in_gradient + at(i, v));
        UNROLL for (int i = 0; i < CIS; i++) {
            acc[i][VECTORS - 1] = load_part<N, LAST * IMAGES>(in_gradient + at(i, VECTORS - 1));
        }
        // Output row y + r reaches input row y + r + ky - ABOVE.
        const int reach = iy + ABOVE - y;
        for (int r = larger(0, reach - KH + 1); r < smaller(rows, reach + 1); r++) {
            const float* w = step.weights + WEIGHT + ci0 * KH * KW + (reach - r) * KW;
            const float* from = band + (DEPTHWISE ? ci0 * CHANNEL_FLOATS : 0) + r * ROW_FLOATS +
                                (x + BESIDE) * IMAGES;
            for (int c = 0; c < (DEPTHWISE ? 1 : CO); c++) {
                each_block<KW, (KW > 8 ? 8 : KW)>([&](int kx0, auto kxs) {
                    UNROLL for (int j = 0; j < decltype(kxs)::value; j++) {
                        const int kx = kx0 + j;
                        Vec<N> g[VECTORS];
                        UNROLL for (int v = 0; v < VECTORS; v++) {
                            g[v] = load<N>(from + (v * P - kx) * IMAGES);
                        }
                        UNROLL for (int i = 0; i < CIS; i++) {
                            const Vec<N> weight = broadcast<N>(w[i * KH * KW + kx]);
                            UNROLL for (int v = 0; v < VECTORS; v++) acc[i][v] += weight * g[v];
                        }
                    }
                });
                from += CHANNEL_FLOATS;
                w += SUMMED * KH * KW;
            }
        }
        UNROLL for (int i = 0; i < CIS; i++) {
            UNROLL for (int v = 0; v < VECTORS - 1; v++) store<N>(in_gradient + at(i, v), acc[i][v]);
            store_some<N, LAST * IMAGES>(in_gradient + at(i, VECTORS - 1), acc[i][VECTORS - 1]);
        }
    }

    // With a stride the inputs of neighbouring outputs are no neighbours: one position at a time.
    static INLINE void scatter_gradient(const Step& step, const float* band, float* in_gradient,
                                        int y, int rows) {
        each<N>(CI, [&](int ci) {
            for (int c = DEPTHWISE ? ci : 0; c < (DEPTHWISE ? ci + 1 : CO); c++) {
                const float* w =
                    step.weights + WEIGHT + (c * SUMMED + (DEPTHWISE ? 0 : ci)) * KH * KW;
                for (int r = 0; r < rows; r++)
                for (int x = 0; x < Epi::COLUMNS; x++) {
                    const Vec<N> g =
                        load<N>(band + c * CHANNEL_FLOATS + r * ROW_FLOATS + x * IMAGES);
                    for (int ky = 0; ky < KH; ky++)
                    for (int kx = 0; kx < KW; kx++) {
                        const int iy = (y + r) * DOWN + ky - ABOVE, ix = x * ACROSS + kx - BESIDE;
                        if (iy < 0 || iy >= In::H || ix < 0 || ix >= In::W) continue;
                        add_to<N>(in_gradient + In::Compact::at(ci, iy, ix), w[ky * KW + kx] * g);
                    }
                }
            }
        });
    }
};

}  // namespace golf
