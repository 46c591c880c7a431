// What a team does for its lane in one slice: train, evaluate at the end of each epoch, leave the
// state where the next slice finds it.
#pragma once

#include "average.hpp"
#include "net.hpp"
#include "conv.hpp"
#include "norm.hpp"
#include "optimizer.hpp"
#include "random.hpp"
#include "simple.hpp"

#include GOLF_NET  // generated: `using GolfNet = golf::Net<...>`

namespace golf {

#ifndef GOLF_PLACE  // what lies in global memory: 0 nothing, 1 the activations, 2 all
#define GOLF_PLACE 0
#endif

// These structures are mirrored by `engines.cuda.launch` in Python.
struct Data {
    const uint8_t* images;  // [n][BYTES of the net]
    const uint8_t* labels;  // [n]
    const float* soft;      // [n][classes]: a teacher's scores, or null
    int64_t n;
};
struct Epoch {
    const double* rates;          // [steps]
    uint32_t order_keys[8];       // of the permutation
    const double* average_rates;  // [steps], or null
    Distortion distortion;        // of a recipe that has one
    const uint32_t* order;        // [n]: the images, or null for a permutation by the keys
    const float* worth;           // [n]: what each of them counts, or null
};
struct Result {
    double loss_sum;         // over the epoch's images
    double time_s;           // of training and evaluation
    int64_t correct;         // of the objective's images
    int64_t train_correct;   // of all training images, where `last_train`; else -1
};
enum Outcome : int32_t { LIMIT = 0, DONE = 1, NOT_FINITE = 3 };

struct Lane {
    float* state;            // [weights, first, second][PADDED], buffers, averages; updated
    float* average;          // where the averages begin there, [PADDED + num_buffers], or null
    const float* mask;       // [PADDED], or null
    float* snapshots;        // [num_epochs] states, as of the end of each epoch
    float* spill;            // workspace in global memory, where it has a place there
    const Epoch* epochs;     // [num_epochs]: the one in progress and those behind it
    Result* results;         // [num_epochs]
    float* losses;           // [n]: of the images of an epoch, by their places; set, or null
    const uint32_t* dropout_prefixes;  // [num_dropouts]
    int64_t num_epochs;
    int64_t num_dropouts;
    int64_t num_buffers;
    int64_t num_floats;      // of a state
    int64_t batch_size;
    int64_t steps_before;    // of earlier epochs
    int64_t train_last;      // index of the epoch behind which all training images are evaluated
    int64_t step;            // the next one of the epoch in progress; updated
    int64_t epochs_done;     // in this slice; set
    double loss_sum;         // of the epoch in progress so far; updated
    double time_s;           // spent on the epoch in progress; updated
    Update update;
    Criterion criterion;
    int32_t half;            // bits of the permutation's halves
    int32_t outcome;         // set
};

// Where a team's memory lies, in floats from its start.
struct Layout {
    static constexpr long PADDED = GolfNet::PADDED;
    static constexpr long STATE = 0, FLAGS = STATE + 3 * PADDED, WORKSPACE = FLAGS + WIDTH;
    static constexpr long PASSES = WORKSPACE + GolfNet::SHARED_FLOATS;
    // Behind the passes: the batch's images and the dropouts' keys.
    static constexpr long tail(long batch, long dropouts) {
        return (larger(int(batch), IMAGES) + dropouts + WIDTH - 1) / WIDTH * WIDTH;
    }
};

struct Team {
    float *weights, *first, *second, *buffers, *workspace, *passes;
    uint32_t *order, *keys;
    int32_t* late;     // whether the slice's time is over
    int32_t* correct;  // images so far
};

INLINE Team team_of(const Lane& lane, float* shared, long passes_floats) {
    float* front = GOLF_PLACE == 2 ? lane.spill : shared;
    Team team;
    team.weights = front + Layout::STATE;
    team.first = team.weights + GolfNet::PADDED;
    team.second = team.first + GolfNet::PADDED;
    team.buffers = lane.state + 3 * GolfNet::PADDED;
    team.late = reinterpret_cast<int32_t*>(front + Layout::FLAGS);
    team.correct = team.late + 1;
    team.workspace = front + Layout::WORKSPACE;
    team.passes = GOLF_PLACE == 1 ? lane.spill : front + Layout::PASSES;
    float* tail = GOLF_PLACE == 1 ? front + Layout::PASSES : team.passes + passes_floats;
    team.order = reinterpret_cast<uint32_t*>(tail);
    team.keys = team.order + larger(int(lane.batch_size), IMAGES);
    return team;
}

// The same answer for the whole team.
INLINE bool is_late(const Team& team, double end) {
    once([&] { *team.late = now_s() >= end; });
    barrier();
    return *team.late != 0;
}

INLINE bool all_finite(const Team& team) {
    once([&] { *team.correct = 1; });
    barrier();
    each<1>(GolfNet::PADDED, [&](int i) {
        if (!is_finite(team.weights[i])) *team.correct = 0;
    });
    barrier();
    return *team.correct != 0;
}

// How many images have their highest score at their label; of equal scores the first counts.
INLINE int64_t count_correct(const Team& team, const Data& data, int64_t from, int64_t to) {
    GolfNet net(team.workspace, team.passes, team.weights, team.buffers, false, nullptr);
    net.begin_evaluation();
    barrier();  // everybody has read the last count
    once([&] { *team.correct = 0; });
    for (int64_t at = from; at < to; at += IMAGES) {
        const int size = int(to - at < IMAGES ? to - at : IMAGES);
        each<1>(size, [&](int i) { team.order[i] = uint32_t(at + i); });
        barrier();
        const float* scores = net.scores({data.images, data.labels, data.soft, team.order, size, size});
        each<IMAGES>(1, [&](int) {
            const double right = sum_lanes<IMAGES>([&](int i) {
                if (i >= size) return 0.;
                int best = 0;
                for (int o = 1; o < GolfNet::CLASSES; o++) {
                    if (scores[o * IMAGES + i] > scores[best * IMAGES + i]) best = o;
                }
                return best == data.labels[at + i] ? 1. : 0.;
            });
            one<IMAGES>([&] { *team.correct += int32_t(right); });
        });
        barrier();
    }
    return *team.correct;
}

INLINE void copy_state(const Team& team, const Lane& lane, float* to) {
    each<1>(3 * GolfNet::PADDED, [&](int i) { to[i] = team.weights[i]; });
    each<1>(int(lane.num_floats) - 3 * GolfNet::PADDED,
            [&](int i) { to[3 * GolfNet::PADDED + i] = team.buffers[i]; });
    barrier();
}
INLINE void take_weights(const Team& team, const float* from) {
    each<1>(GolfNet::PADDED, [&](int i) { team.weights[i] = from[i]; });
    barrier();
}

// One step on the next images of the epoch; returns the sum of their losses.
INLINE double train_step(const Team& team, const Lane& lane, const Epoch& epoch, const Data& data,
                         GolfNet& net, int64_t step, int64_t steps_before) {
    const int64_t at = step * lane.batch_size, rest = data.n - at;
    const int size = int(rest < lane.batch_size ? rest : lane.batch_size);
    const Permutation permutation{epoch.order_keys, lane.half, uint32_t(data.n)};
    each<1>(size, [&](int i) {
        team.order[i] = BY_LOSS && epoch.order ? epoch.order[at + i] : permutation(uint32_t(at + i));
    });
    each<1>(int(lane.num_dropouts), [&](int i) {
        team.keys[i] = mix(lane.dropout_prefixes[i] ^ uint32_t(steps_before + step)) + 0x9e3779b9u;
    });
    barrier();
    const Batch batch{data.images, data.labels,       data.soft,   team.order, size,
                      size,        &epoch.distortion, uint32_t(at),
                      BY_LOSS && epoch.worth ? epoch.worth + at : nullptr,
                      BY_LOSS && lane.losses ? lane.losses + at : nullptr,
                      MIXED ? share_of_next(epoch.distortion, uint32_t(at)) : 0};
    const double loss = net.train(batch, team.keys);
    update(lane.update, GolfNet::PADDED, steps_before + step + 1, epoch.rates[step],
           net.gradients(), team.weights, team.first, team.second, lane.mask);
    if (lane.average) {
        const double rate = epoch.average_rates[step];
        follow(rate, GolfNet::PADDED, team.weights, lane.average);
        follow(rate, int(lane.num_buffers), team.buffers, lane.average + GolfNet::PADDED);
    }
    return loss;
}

INLINE void run_slice(Lane& lane, const Data& train, const Data& objective, float* shared,
                      double limit_s) {
    const double begun = now_s(), end = begun + limit_s;
    const long passes_floats = GolfNet::passes_floats(int(lane.batch_size));
    const Team team = team_of(lane, shared, passes_floats);
    each<1>(3 * GolfNet::PADDED, [&](int i) { team.weights[i] = lane.state[i]; });
    clear_all(team.workspace, int(GolfNet::SHARED_FLOATS));
    clear_all(team.passes, int(passes_floats));
    barrier();
    GolfNet net(team.workspace, team.passes, team.weights, team.buffers, true,
                &lane.criterion);
    const int64_t steps = (train.n + lane.batch_size - 1) / lane.batch_size;
    int64_t step = lane.step, done = 0;
    double loss_sum = lane.loss_sum, epoch_begun = begun - lane.time_s;
    int32_t outcome = DONE;
    while (outcome == DONE && done < lane.num_epochs) {
        const Epoch& epoch = lane.epochs[done];
        while (outcome == DONE && step < steps) {
            loss_sum += train_step(team, lane, epoch, train, net, step,
                                   lane.steps_before + done * steps);
            step++;
            if (!is_finite(loss_sum))
                outcome = NOT_FINITE;
            else if (is_late(team, end))
                outcome = LIMIT;
        }
        if (step < steps || outcome == NOT_FINITE) break;
        if (!all_finite(team)) {
            outcome = NOT_FINITE;
            break;
        }
        float* const snapshot = lane.snapshots + done * lane.num_floats;
        copy_state(team, lane, snapshot);
        Team shown = team;
        if (lane.average) {
            shown.buffers = lane.average + GolfNet::PADDED;
            take_weights(team, lane.average);
        }
        const int64_t correct = count_correct(shown, objective, 0, objective.n);
        const int64_t train_correct =
            done == lane.train_last ? count_correct(shown, train, 0, train.n) : -1;
        if (lane.average) take_weights(team, snapshot);
        const double now = now_s();
        once([&] {
            lane.results[done] = {loss_sum, now - epoch_begun, correct, train_correct};
        });
        epoch_begun = now;
        done++;
        step = 0;
        loss_sum = 0;
    }
    barrier();  // everybody has read the lane
    copy_state(team, lane, lane.state);
    once([&] {
        lane.step = step;
        lane.epochs_done = done;
        lane.loss_sum = loss_sum;
        lane.time_s = now_s() - epoch_begun;
        lane.outcome = outcome;
    });
}

}  // namespace golf
