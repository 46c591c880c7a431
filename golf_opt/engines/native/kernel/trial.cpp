// What Python calls. Every function works on memory it is given; nothing is kept between calls.
#include "average.hpp"
#include "distort.hpp"
#include "driver.hpp"
#include "optimizer.hpp"
#include "random.hpp"

namespace golf {

// Mirrored by `library.Training` in Python.
struct Training {
    const uint8_t* images;         // [n][BYTES of the net]
    const uint8_t* labels;         // [n]
    const float* soft;             // [n][classes]: a teacher's scores, or null
    const uint32_t* order;         // [n] of this epoch
    const float* worth;            // [n]: what each of them counts, or null
    float* losses;                 // [n]: of each of them; set, or null
    const double* rates;           // [steps of the epoch]
    const uint32_t* dropout_keys;  // [steps of the epoch][dropout layers]
    float* weights;                // [count], like the next three
    float* first;
    float* second;
    const float* mask;  // or null
    float* buffers;
    float* average;                // [count + num_buffers], or null
    const double* average_rates;   // [steps of the epoch], or null
    void* workspace;
    const volatile int32_t* stop;
    const Distortion* distortion;  // of this epoch, or null
    int64_t n;
    int64_t batch_size;
    int64_t num_dropouts;
    int64_t num_buffers;
    int64_t steps_before;  // of earlier epochs
    int64_t step;          // the next one of this epoch; updated
    double loss_sum;       // over the images of this epoch so far; updated
    double limit_s;        // return at a step's end after this long
    Update update;
    Criterion criterion;
};

enum Outcome : int32_t { LIMIT = 0, EPOCH_END = 1, STOPPED = 2, NOT_FINITE = 3 };

static bool all_finite(const float* values, int n) {
    bool finite = true;
    for (int i = 0; i < n; i++) finite = finite && is_finite(values[i]);
    return finite;
}

// body(image, its first score), scores being IMAGES floats apart, for n images or until `stop`.
template <class Body>
static void evaluate(const Table& table, const uint8_t* images, int64_t n, const float* weights, float* buffers,
                     const volatile int32_t* stop, void* workspace, Body&& body) {
    const FlushDenormals flush;
    Driver net(table, workspace, weights, buffers, false, nullptr);
    net.begin_evaluation();
    uint32_t order[2 * IMAGES];
    for (int64_t at = 0; at < n && !*stop; at += IMAGES) {
        const int ahead = int(n - at < 2 * IMAGES ? n - at : 2 * IMAGES);
        for (int i = 0; i < ahead; i++) order[i] = uint32_t(at + i);
        const int size = smaller(ahead, IMAGES);
        const float* scores = net.scores({images, nullptr, nullptr, order, size, ahead});
        for (int i = 0; i < size; i++) body(at + i, scores + i);
    }
}

}  // namespace golf

using namespace golf;

#pragma GCC visibility push(default)
extern "C" {

// Find out where everything lies.
void golf_plan(Table* table) { table->plan(); }

int64_t golf_workspace_bytes(const Table* table, int64_t batch_size) {
    return table->workspace_floats(int(batch_size)) * int64_t(sizeof(float));
}

// Train until the epoch ends, the time is over, the lane is stopped or the loss is not finite.
int32_t golf_train(const Table* table, Training* t) {
    const FlushDenormals flush;
    const int64_t steps = (t->n + t->batch_size - 1) / t->batch_size;
    const double end = now_s() + t->limit_s;
    Driver net(*table, t->workspace, t->weights, t->buffers, true, &t->criterion);
    while (t->step < steps) {
        if (*t->stop) return STOPPED;
        const int64_t at = t->step * t->batch_size, rest = t->n - at;
        const Batch batch{t->images, t->labels, t->soft, t->order + at,
                          int(rest < t->batch_size ? rest : t->batch_size),
                          int(rest < t->batch_size + IMAGES ? rest : t->batch_size + IMAGES),
                          t->distortion, uint32_t(at), t->worth ? t->worth + at : nullptr,
                          t->losses ? t->losses + at : nullptr,
                          MIXED ? share_of_next(*t->distortion, uint32_t(at)) : 0};
        const double loss = net.train(batch, t->dropout_keys + t->step * t->num_dropouts);
        t->loss_sum += loss;
        if (!is_finite(t->loss_sum)) return NOT_FINITE;
        update(t->update, int(table->padded), t->steps_before + t->step + 1, t->rates[t->step],
               net.gradients(), t->weights, t->first, t->second, t->mask);
        if (t->average) {
            const double rate = t->average_rates[t->step];
            follow(rate, int(table->padded), t->weights, t->average);
            follow(rate, int(t->num_buffers), t->buffers, t->average + table->padded);
        }
        t->step++;
        if (now_s() >= end) break;
    }
    if (t->step < steps) return LIMIT;
    return all_finite(t->weights, int(table->padded)) ? EPOCH_END : NOT_FINITE;
}

// The gradient of the mean loss over one batch, [count], and the mean loss.
double golf_gradients(const Table* table, const uint8_t* images, const uint8_t* labels, const float* soft, int64_t n,
                      const float* weights, float* buffers, const uint32_t* dropout_keys,
                      const Criterion* criterion,
                      const uint32_t* order, void* workspace, float* gradients) {
    const FlushDenormals flush;
    Driver net(*table, workspace, weights, buffers, true, criterion);
    const double loss = net.train({images, labels, soft, order, int(n), int(n)}, dropout_keys);
    std::memcpy(gradients, net.gradients(), sizeof(float) * table->padded);
    return loss / double(n);
}

// The scores of n images, [n][classes].
void golf_scores(const Table* table, const uint8_t* images, int64_t n, const float* weights, float* buffers,
                 void* workspace, float* scores) {
    const int32_t stop = 0;
    evaluate(*table, images, n, weights, buffers, &stop, workspace, [&](int64_t image, const float* from) {
        float* to = scores + image * table->classes;
        for (int o = 0; o < table->classes; o++) to[o] = from[o * IMAGES];
    });
}

// How many of n images have their highest score at their label; of equal scores the first counts.
int64_t golf_correct(const Table* table, const uint8_t* images, const uint8_t* labels, int64_t n, const float* weights,
                     float* buffers, const volatile int32_t* stop, void* workspace) {
    int64_t correct = 0;
    evaluate(*table, images, n, weights, buffers, stop, workspace, [&](int64_t image, const float* from) {
        int best = 0;
        for (int o = 1; o < table->classes; o++) {
            if (from[o * IMAGES] > from[best * IMAGES]) best = o;
        }
        correct += best == labels[image];
    });
    return correct;
}

// The order of an epoch's images: see Permutation.
void golf_order(const uint32_t* round_keys, int32_t half, int64_t n, uint32_t* order) {
    const Permutation permutation{round_keys, half, uint32_t(n)};
    for (int64_t i = 0; i < n; i++) order[i] = permutation.once(uint32_t(i));
    for (int64_t i = 0; i < n; i++) order[i] = permutation.walk(order[i]);
}
}
#pragma GCC visibility pop
