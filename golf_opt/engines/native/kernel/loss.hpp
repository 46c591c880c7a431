// Softmax cross-entropy with label smoothing, as torch.nn.CrossEntropyLoss, and its gradient.
#pragma once

#include <cmath>

#include "shapes.hpp"

namespace golf {

// e^x for x <= 0, to 2 units in the last place: 2^n * 2^f with f in [-0.5, 0.5] by its series.
template <int N>
INLINE Vec<N> exp_negative(Vec<N> x) {
    Vec<N> t = x * 1.44269504f;
    t = t < -126 ? broadcast<N>(-126) : t;
    const Ints<N> n = __builtin_convertvector(t - 0.5f, Ints<N>);  // rounds towards zero
    const Vec<N> f = t - __builtin_convertvector(n, Vec<N>);
    Vec<N> series = f * 1.52527338e-5f + 1.54035304e-4f;
    series = series * f + 1.33335581e-3f;
    series = series * f + 9.61812911e-3f;
    series = series * f + 5.55041087e-2f;
    series = series * f + 2.40226507e-1f;
    series = series * f + 6.93147181e-1f;
    series = series * f + 1.f;
    const Ints<N> power = (n + 127) << 23;
    Vec<N> scale;
    std::memcpy(&scale, &power, sizeof scale);
    return series * scale;
}

// The sum of the losses of one pass' images; `gradient` becomes that of the batch's mean loss.
// Both tensors are [CLASSES][IMAGES]. Returns nan where a score is not finite.
template <int CLASSES>
inline double cross_entropy(const Step& step, const float* scores, const uint8_t* const* labels,
                            float smoothing, float* gradient) {
    constexpr int N = IMAGES;
    Vec<N> best = load<N>(scores), total = best, z{};
    Ints<N> broken{};  // lanes with a score whose exponent is all ones: infinite or nan
    for (int o = 0; o < CLASSES; o++) {
        const Vec<N> v = load<N>(scores + o * N);
        Ints<N> bits;
        std::memcpy(&bits, &v, sizeof bits);
        broken |= (bits & 0x7f800000) == 0x7f800000;
        best = v > best ? v : best;
        if (o > 0) total += v;
    }
    Vec<N> e[CLASSES];
    for (int o = 0; o < CLASSES; o++) {
        e[o] = exp_negative<N>(load<N>(scores + o * N) - best);
        z += e[o];
    }
    double loss = 0;
    float scale[N];
    bool finite = true;
    for (int i = 0; i < N; i++) {
        const bool filled = i < step.num_images;
        scale[i] = filled ? 1.f / step.batch_size : 0.f;
        if (!filled) continue;
        finite = finite && !broken[i];
        const float target = (1 - smoothing) * scores[*labels[i] * N + i] +
                             smoothing / CLASSES * total[i];
        loss += double(best[i]) + std::log(double(z[i])) - double(target);
    }
    const Vec<N> factor = load<N>(scale), share = factor / z;
    for (int o = 0; o < CLASSES; o++) {
        store<N>(gradient + o * N, e[o] * share - factor * (smoothing / CLASSES));
    }
    for (int i = 0; i < step.num_images; i++) {
        gradient[*labels[i] * N + i] -= (1 - smoothing) * scale[i];
    }
    return finite ? loss : __builtin_nan("");
}

}  // namespace golf
