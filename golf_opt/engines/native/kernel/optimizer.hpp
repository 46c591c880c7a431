// Adam (Kingma and Ba 2014), AdamW (Loshchilov and Hutter 2017) and SGD with momentum, as in
// torch.optim, on flat arrays.
#pragma once

#include "primitives.hpp"

namespace golf {

enum Optimizer : int32_t { ADAM = 0, ADAMW = 1, SGD = 2 };

struct Update {
    int32_t optimizer;
    double beta1, beta2, eps;  // of Adam and AdamW
    double momentum;           // of SGD
    double weight_decay;
};

// One step on n weights, the `count`-th from 1. `first` and `second` are Adam's moments; SGD's
// momentum is `first`. A mask may be null.
INLINE void update(const Update& u, int n, int64_t count, double rate, const float* gradient,
                   float* weights, float* first, float* second, const float* mask) {
    const float decay = u.optimizer == ADAMW ? 0.f : float(u.weight_decay);
    if (u.optimizer == SGD) {
        const float lr = float(rate), momentum = float(u.momentum);
        each<1>(n, [&](int i) {
            first[i] = momentum * first[i] + (gradient[i] + decay * weights[i]);
            weights[i] -= lr * first[i];
        });
    } else {
        const float keep = u.optimizer == ADAMW ? float(1 - rate * u.weight_decay) : 1.f;
        const float beta1 = float(u.beta1), beta2 = float(u.beta2), eps = float(u.eps);
        const float other1 = float(1 - u.beta1), other2 = float(1 - u.beta2);
        const float size = float(rate / (1 - pow(u.beta1, double(count))));
        const float scale = float(1 / sqrt(1 - pow(u.beta2, double(count))));
        each<1>(n, [&](int i) {
            const float g = gradient[i] + decay * weights[i];
            const float m = beta1 * first[i] + other1 * g;
            const float v = beta2 * second[i] + other2 * g * g;
            first[i] = m;
            second[i] = v;
            weights[i] = keep * weights[i] - size * m / (sqrt(v) * scale + eps);
        });
    }
    if (mask) each<1>(n, [&](int i) { weights[i] *= mask[i]; });
    barrier();
}

}  // namespace golf
