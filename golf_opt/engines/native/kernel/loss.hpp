// Softmax cross-entropy with label smoothing, as torch.nn.CrossEntropyLoss, and its gradient.
#pragma once

#include "functions.hpp"
#include "shapes.hpp"

namespace golf {

// Add the losses of one pass' images to the step's; `gradient` becomes that of the batch's mean
// loss. Both tensors are [classes][IMAGES]; label(i) is that of the pass' image i. The sum becomes
// nan where a score is not finite.
template <class Label>
INLINE void cross_entropy(const Step& step, int classes, const float* scores, Label&& label,
                          float smoothing, float* gradient) {
    constexpr int N = IMAGES;
    Vec<N> best = load<N>(scores), total = best, z{};
    Ints<N> broken{};  // lanes with a score whose exponent is all ones: infinite or nan
    for (int o = 0; o < classes; o++) {
        const Vec<N> v = load<N>(scores + o * N);
        broken |= (bits_of<N>(v) & 0x7f800000) == 0x7f800000;
        best = v > best ? v : best;
        if (o > 0) total += v;
    }
    for (int o = 0; o < classes; o++) {
        const Vec<N> e = exp_negative<N>(load<N>(scores + o * N) - best);
        store<N>(gradient + o * N, e);
        z += e;
    }
    const Vec<N> factor = make<N>([&](int i) {
        return i < step.num_images ? 1.f / step.batch_size : 0.f;
    });
    const Vec<N> share = factor / z;
    for (int o = 0; o < classes; o++) {
        float* to = gradient + o * N;
        store<N>(to, load<N>(to) * share - factor * (smoothing / float(classes)));
    }
    each_lane<N>([&](int i) {
        if (i < step.num_images) {
            gradient[label(i) * N + i] -= (1 - smoothing) * lane_of<N>(factor, i);
        }
    });
    const double loss = sum_lanes<N>([&](int i) {
        if (i >= step.num_images) return 0.;
        const float target = (1 - smoothing) * scores[label(i) * N + i] +
                             smoothing / float(classes) * lane_of<N>(total, i);
        return double(lane_of<N>(best, i)) + log(double(lane_of<N>(z, i))) - double(target);
    });
    const double num_broken = sum_lanes<N>([&](int i) {
        return i < step.num_images && lane_of_ints<N>(broken, i) != 0 ? 1. : 0.;
    });
    one<N>([&] {
        if (num_broken > 0)
            *step.loss = not_a_number();
        else
            *step.loss += loss;
    });
}

}  // namespace golf
