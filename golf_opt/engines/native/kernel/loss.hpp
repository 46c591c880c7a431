// Softmax cross-entropy with label smoothing, as torch.nn.CrossEntropyLoss, what a teacher adds to
// it, and their gradients.
#pragma once

#include "functions.hpp"
#include "shapes.hpp"

#ifndef GOLF_BY_LOSS  // whether losses of single images are told, and weighed
#define GOLF_BY_LOSS 0
#endif
#ifndef GOLF_MIXED  // whether each image is mixed with the next one of the batch
#define GOLF_MIXED 0
#endif

namespace golf {

constexpr bool BY_LOSS = GOLF_BY_LOSS, MIXED = GOLF_MIXED;

// body(image, its share) for what the pass' image i is made of, one of all or two.
template <class Body>
INLINE void each_part(const Batch& batch, const Step& step, int i, Body&& body) {
    const uint32_t image = batch.order[in_batch(batch, step, i)];
    if constexpr (MIXED) {
        body(image, 1 - batch.mix);
        body(batch.order[in_batch<true>(batch, step, i)], batch.mix);
    } else {
        body(image, 1.f);
    }
}

// What the pass' image i counts in the batch's mean.
INLINE float worth_of(const Batch& batch, const Step& step, int i) {
    if constexpr (BY_LOSS) {
        if (batch.worth) return batch.worth[step.first_image + i];
    }
    return 1;
}

// Tell the loss of the pass' image i, on top of a share of what was told of it before; return what
// the batch's loss has of it.
INLINE double tell(const Batch& batch, const Step& step, int i, float share, double loss) {
    if constexpr (BY_LOSS) {
        if (batch.losses) {
            float& told = batch.losses[step.first_image + i];
            told = float(share * told + loss);
        }
    }
    return loss * worth_of(batch, step, i);
}

// What a recipe's loss is made of. Mirrored by `table.Criterion` in Python.
struct Criterion {
    float label_smoothing;
    float distill;      // the share of the loss that is the teacher's; 0: there is no teacher
    float temperature;  // that softens the teacher's scores and the net's
};

// Add the losses of one pass' images to the step's; `gradient` becomes that of the batch's mean
// loss. Both tensors are [classes][IMAGES]. The sum becomes nan where a score is not finite.
INLINE void cross_entropy(const Step& step, int classes, const float* scores, const Batch& batch,
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
        return i < step.num_images ? worth_of(batch, step, i) / step.batch_size : 0.f;
    });
    const Vec<N> share = factor / z;
    for (int o = 0; o < classes; o++) {
        float* to = gradient + o * N;
        store<N>(to, load<N>(to) * share - factor * (smoothing / float(classes)));
    }
    each_lane<N>([&](int i) {
        if (i < step.num_images) {
            each_part(batch, step, i, [&](uint32_t image, float part) {
                gradient[batch.labels[image] * N + i] -= part * (1 - smoothing) * lane_of<N>(factor, i);
            });
        }
    });
    const double loss = sum_lanes<N>([&](int i) {
        if (i >= step.num_images) return 0.;
        float right = 0;
        each_part(batch, step, i, [&](uint32_t image, float part) {
            right += part * scores[batch.labels[image] * N + i];
        });
        const float target =
            (1 - smoothing) * right + smoothing / float(classes) * lane_of<N>(total, i);
        const double score = double(lane_of<N>(best, i)) + log(double(lane_of<N>(z, i)));
        return tell(batch, step, i, 0, score - double(target));
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

// Knowledge distillation (Hinton, Vinyals and Dean 2015): mix a teacher's scores into what
// `cross_entropy` made. A share of each image's loss becomes temperature^2 times the divergence
// KL(teacher || net) of both softmaxes at that temperature; row(i) are the teacher's scores,
// [classes], of the pass' image i. A `part` of this is added to the `rest` of what is there; `hard` is
// the sum of the losses there.
template <class Row>
INLINE void distil(const Step& step, int classes, const float* scores, const Batch& batch, Row&& row,
                   const Criterion& criterion, float part, float rest, double hard,
                   float* gradient) {
    constexpr int N = IMAGES;
    const float share = criterion.distill, hot = criterion.temperature, cold = 1 / hot;
    const auto net = [&](int o) { return load<N>(scores + o * N) * cold; };
    const auto teacher = [&](int o) {
        return make<N>([&](int i) { return row(i < step.num_images ? i : 0)[o]; }) * cold;
    };
    Vec<N> best = net(0), best_of_teacher = teacher(0), z{}, z_of_teacher{}, apart{};
    for (int o = 1; o < classes; o++) {
        const Vec<N> v = net(o), t = teacher(o);
        best = v > best ? v : best;
        best_of_teacher = t > best_of_teacher ? t : best_of_teacher;
    }
    for (int o = 0; o < classes; o++) {
        const Vec<N> v = net(o) - best, t = teacher(o) - best_of_teacher;
        const Vec<N> e = exp_negative<N>(t);
        z += exp_negative<N>(v);
        z_of_teacher += e;
        apart += e * (t - v);
    }
    const Vec<N> factor = make<N>([&](int i) {
        if (i >= step.num_images) return 0.f;
        return worth_of(batch, step, i) * part * share * hot / step.batch_size;
    });
    for (int o = 0; o < classes; o++) {
        const Vec<N> p = exp_negative<N>(net(o) - best) / z;
        const Vec<N> q = exp_negative<N>(teacher(o) - best_of_teacher) / z_of_teacher;
        float* to = gradient + o * N;
        store<N>(to, load<N>(to) * rest + factor * (p - q));
    }
    const double soft = sum_lanes<N>([&](int i) {
        if (i >= step.num_images) return 0.;
        const double norm = lane_of<N>(z, i), norm_of_teacher = lane_of<N>(z_of_teacher, i);
        const double far = lane_of<N>(apart, i) / norm_of_teacher + log(norm) - log(norm_of_teacher);
        tell(batch, step, i, rest, part * double(share) * hot * hot * far);
        return far * worth_of(batch, step, i);
    });
    one<N>([&] { *step.loss += rest * hard + part * double(share) * hot * hot * soft; });
}

// Add a recipe's losses of one pass' images to the step's; `gradient` as in `cross_entropy`.
INLINE void add_losses(const Step& step, int classes, const float* scores, const Batch& batch,
                       const Criterion& criterion, float* gradient) {
    const bool distils = criterion.distill > 0;
    double hard = 0;  // of the thread that writes it
    Step own = step;
    if (distils) own.loss = &hard;
    cross_entropy(own, classes, scores, batch, criterion.label_smoothing, gradient);
    if (!distils) return;
    const auto row = [&](int at) { return batch.soft + size_t(batch.order[at]) * classes; };
    const float mine = MIXED ? 1 - batch.mix : 1.f;
    distil(step, classes, scores, batch, [&](int i) { return row(in_batch(batch, step, i)); },
           criterion, mine, 1 - criterion.distill, hard, gradient);
    if constexpr (MIXED) {
        distil(step, classes, scores, batch,
               [&](int i) { return row(in_batch<true>(batch, step, i)); }, criterion, batch.mix, 1,
               0, gradient);
    }
}

}  // namespace golf
