// A net: layers one after the other, over as many passes of IMAGES images as the batch takes.
//
// Batch normalisation needs sums over the whole batch, so it cuts the net into segments: every pass
// goes through a segment, then the sums are closed, then every pass goes through the next one, and
// the same on the way back. A net without it is one segment, and a pass runs forward and backward
// while its activations are in the cache.
//
// A sum reads an earlier tensor too. On the way back it hands its gradient on to the layer in front,
// and when the earlier tensor's own layer has written its gradient, the sum's is added to that.
#pragma once

#include "distort.hpp"
#include "loss.hpp"

#ifndef GOLF_READER  // of images: Loader, or one for recipes that distort or mix
#define GOLF_READER Loader
#endif

namespace golf {

// A layer that reads tensor OTHER besides the one in front of it; what others have there is -1.
template <class In, class Other, class Out, int OTHER>
struct Add;
template <class Layer>
constexpr int SECOND_INPUT = -1;
template <class In, class Other, class Out, int OTHER>
constexpr int SECOND_INPUT<Add<In, Other, Out, OTHER>> = OTHER;

// COUNT trained numbers; FIRST is the first layer that has any; Pixels::mean(c) and Pixels::std(c)
// normalise channel c of the images.
template <int COUNT, int FIRST, class Pixels, class... Layers>
struct Net {
    static constexpr int N = sizeof...(Layers);
    template <int i>
    using Layer = typename TypeAt<i, Layers...>::Type;
    using Input = typename Layer<0>::In;
    static constexpr int CLASSES = Layer<N - 1>::Out::FEATURES;
    using Images = GOLF_READER<Input, Pixels>;
    static constexpr int BYTES = Images::BYTES;

    // Where things lie in a pass and in the part that passes share, in floats.
    static constexpr int PADDED = ceil_div(COUNT, WIDTH) * WIDTH;
    static constexpr bool SYNC[] = {Layers::SYNC...};
    static constexpr int ACTIVATION[] = {Input::FLOATS, Layers::Out::FLOATS...};
    static constexpr int GRADIENT[] = {0, Layers::Out::Compact::FLOATS...};
    static constexpr int SAVED[] = {(Layers::SAVED + WIDTH - 1) / WIDTH * WIDTH...};
    static constexpr int STATE[] = {Layers::STATE...};
    static constexpr int SECOND[] = {SECOND_INPUT<Layers>...};

    // In front: the gradients, the loss, and what they are summed up from.
    static constexpr long KEPT_AT = PADDED + larger(WIDTH, 16);
    static constexpr long OWN_FLOATS = KEPT_AT + long(PADDED) * KEPT;

    static constexpr int next_sync(int i) {
        while (i < N && !SYNC[i]) i++;
        return i;
    }
    static constexpr bool SEGMENTED = next_sync(0) < N;
    // The gradient of tensor i waits for the other passes where a SYNC layer wrote tensor i, and
    // where one lies between it and the other tensor of a sum that it is.
    static constexpr bool waits(int i) {
        return i > 0 && (SYNC[i - 1] || (SECOND[i - 1] >= 0 && next_sync(SECOND[i - 1]) < i));
    }
    // Whether a later sum reads tensor i too.
    static constexpr bool is_added(int i) {
        for (int second : SECOND) {
            if (second == i) return true;
        }
        return false;
    }
    // Nothing in front of the first trained layer wants one.
    static constexpr int gradient_floats(int i) { return i > FIRST ? GRADIENT[i] : 0; }
    static constexpr long activation_at(int i) {
        long at = 0;
        for (int k = 0; k < i; k++) at += ACTIVATION[k];
        return at;
    }
    static constexpr long saved_at(int i) {
        long at = activation_at(N + 1);
        for (int k = 0; k < i; k++) at += SAVED[k];
        return at;
    }
    static constexpr long gradient_at(int i) {
        long at = waits(i) ? saved_at(N) : OWN_FLOATS;
        for (int k = 0; k < i; k++) at += waits(k) == waits(i) ? gradient_floats(k) : 0;
        return at;
    }
    static constexpr long PASS_FLOATS = [] {
        long at = saved_at(N);
        for (int k = 0; k <= N; k++) at += waits(k) ? gradient_floats(k) : 0;
        return at;
    }();
    static constexpr long state_at(int i) {
        long at = OWN_FLOATS;
        for (int k = 0; k <= N; k++) at += waits(k) ? 0 : gradient_floats(k);
        for (int k = 0; k < i; k++) at += STATE[k];
        return at;
    }
    static constexpr long SCRATCH_AT = state_at(N);
    static constexpr long SHARED_FLOATS = [] {
        int most = 0;
        for (int floats : {Layers::SCRATCH...}) most = larger(most, floats);
        return SCRATCH_AT + (most + 2 * WIDTH - 1) / WIDTH * WIDTH;
    }();

    static int num_passes(int batch) { return ceil_div(batch, IMAGES); }
    static long passes_floats(int batch) {
        return PASS_FLOATS * (SEGMENTED ? num_passes(batch) : 1) + WIDTH;
    }
    static long workspace_floats(int batch) { return SHARED_FLOATS + passes_floats(batch); }

    float* workspace;  // [SHARED_FLOATS]
    float* passes;     // [passes_floats(batch size)]
    Step step;
    const Criterion* criterion;  // of training, else null
    Batch batch;

    // Both parts of the memory hold zeros at first: nobody writes to the halos.
    Net(float* workspace_, float* passes_, const float* weights, float* buffers, bool training,
        const Criterion* criterion_)
        : workspace(workspace_), passes(passes_), step{}, criterion(criterion_), batch{} {
        step.weights = weights;
        step.buffers = buffers;
        step.loss = reinterpret_cast<double*>(workspace + PADDED);
        step.kept_sums = workspace + KEPT_AT;
        step.scratch = workspace + SCRATCH_AT;
        step.training = training;
    }

    float* gradients() { return workspace; }
    float* pass_at(int pass) {
        return passes + (SEGMENTED ? pass * PASS_FLOATS : 0);
    }
    template <int i> float* activation(int pass) { return pass_at(pass) + activation_at(i); }
    template <int i> float* saved(int pass) { return pass_at(pass) + saved_at(i); }
    template <int i> float* state() { return workspace + state_at(i); }
    template <int i> float* gradient(int pass) {
        return (waits(i) ? pass_at(pass) : workspace) + gradient_at(i);
    }

    // Forward, backward and the gradients' sums over the lanes. Returns the sum of the losses.
    double train(const Batch& next, const uint32_t* dropout_keys) {
        batch = next;
        step.batch_size = batch.size;
        step.dropout_keys = dropout_keys;
        once([&] { *step.loss = 0; });
        clear_all(step.kept_sums, PADDED * KEPT);
        segment<0, false>();
        gather(gradients(), step.kept_sums, PADDED);
        barrier();
        return *step.loss;
    }

    // The scores of up to IMAGES images, [CLASSES][IMAGES].
    const float* scores(const Batch& next) {
        batch = next;
        step.batch_size = batch.size;
        begin_pass(0);
        load_images(0);
        forward_layers<0, N>(0);
        return activation<N>(0);
    }
    // Before the first `scores`: normalisation layers take up the running statistics.
    void begin_evaluation() { close_all<0>(); }

   private:
    template <int i>
    void close_all() {
        if constexpr (i < N) {
            if constexpr (SYNC[i]) Layer<i>::forward_end(step, state<i>());
            close_all<i + 1>();
        }
    }

    void begin_pass(int pass) {
        step.first_image = pass * IMAGES;
        step.num_images = smaller(IMAGES, batch.size - step.first_image);
    }

    // Layers A .. B, where B is the next one that needs sums over the batch, and all behind it.
    // APPLY: layer A is itself such a layer, and its sums are closed.
    template <int A, bool APPLY>
    void segment() {
        constexpr int B = next_sync(APPLY ? A + 1 : A);
        const int passes = num_passes(batch.size);
        if constexpr (APPLY) Layer<A>::backward_begin(state<A>());
        if constexpr (B < N) {
            Layer<B>::forward_begin(state<B>());
            for (int pass = 0; pass < passes; pass++) {
                begin_pass(pass);
                if constexpr (!APPLY) load_images(pass);
                forward_and_sum<A, B>(pass);
            }
            Layer<B>::forward_end(step, state<B>());
            segment<B, true>();
            Layer<B>::backward_end(step, state<B>());
            for (int pass = 0; pass < passes; pass++) {
                begin_pass(pass);
                backward_from_sum<APPLY ? A + 1 : A, B>(pass);
                if constexpr (APPLY) backward_sum<A>(pass);
            }
        } else {
            for (int pass = 0; pass < passes; pass++) {
                begin_pass(pass);
                if constexpr (!APPLY) load_images(pass);
                forward_layers<A, N>(pass);
                add_loss(pass);
                backward_layers<N - 1, APPLY ? A + 1 : A>(pass);
                if constexpr (APPLY) backward_sum<A>(pass);
            }
        }
    }

    // A convolution right in front of a normalisation: by rows, so that what one leaves in the first
    // cache the other finds there.
    template <int LAST, int B>
    static constexpr bool by_rows() {
        if constexpr (B > LAST && B > FIRST)
            return Layer<B - 1>::BY_ROWS && !is_added(B);
        else
            return false;
    }
    template <int A, int B>
    void forward_and_sum(int pass) {
        if constexpr (by_rows<A, B>()) {
            forward_layers<A, B - 1>(pass);
            Layer<B - 1>::forward_rows(step, activation<B - 1>(pass), activation<B>(pass),
                                       saved<B - 1>(pass), [&](int y) {
                                           Layer<B>::forward_sum_row(step, activation<B>(pass), y,
                                                                     state<B>());
                                       });
            Layer<B>::forward_close_pass(state<B>());
        } else {
            forward_layers<A, B>(pass);
            Layer<B>::forward_sum(step, activation<B>(pass), state<B>());
        }
    }
    template <int LAST, int B>
    void backward_from_sum(int pass) {
        if constexpr (by_rows<LAST, B>()) {
            using Source = Layer<B - 1>;
            Source::backward_rows(step, activation<B - 1>(pass), gradient<B - 1>(pass),
                                  [&](int y, int rows, float* to) {
                                      Layer<B>::backward_rows(
                                          step, activation<B>(pass), activation<B + 1>(pass),
                                          gradient<B + 1>(pass), saved<B>(pass), state<B>(), y,
                                          rows, to, Source::CHANNEL_FLOATS, Source::ROW_FLOATS);
                                  });
            add_gradients<B - 1>(pass);
            backward_layers<B - 2, LAST>(pass);
        } else {
            if constexpr (B > FIRST) backward_layer<B>(pass);
            backward_layers<B - 1, LAST>(pass);
        }
    }

    template <int A, int B>
    void forward_layers(int pass) {
        if constexpr (A < B) {
            if constexpr (SECOND[A] >= 0)
                Layer<A>::forward(activation<A>(pass), activation<SECOND[A]>(pass),
                                  activation<A + 1>(pass));
            else
                Layer<A>::forward(step, activation<A>(pass), activation<A + 1>(pass),
                                  saved<A>(pass), state<A>());
            forward_layers<A + 1, B>(pass);
        }
    }
    template <int i, int LAST>
    void backward_layers(int pass) {
        if constexpr (i >= LAST && i >= FIRST) {
            backward_layer<i>(pass);
            backward_layers<i - 1, LAST>(pass);
        }
    }
    template <int i>
    void backward_layer(int pass) {
        Layer<i>::backward(step, activation<i>(pass), activation<i + 1>(pass),
                           gradient<i + 1>(pass), gradient<i>(pass), saved<i>(pass), state<i>());
        add_gradients<i>(pass);
    }
    // What later sums hand back to tensor i: the gradients of their own tensors, which nobody has
    // written to since.
    template <int i, int k = i>
    void add_gradients(int pass) {
        if constexpr (is_added(i) && i > FIRST && k < N) {
            if constexpr (SECOND[k] == i) {
                float* to = gradient<i>(pass);
                const float* from = gradient<k + 1>(pass);
                each<IMAGES>(Layer<i>::In::FEATURES, [&](int at) {
                    add_to<IMAGES>(to + at * IMAGES, load<IMAGES>(from + at * IMAGES));
                });
                barrier();
            }
            add_gradients<i, k + 1>(pass);
        }
    }
    template <int i>
    void backward_sum(int pass) {
        Layer<i>::backward_sum(step, activation<i>(pass), activation<i + 1>(pass),
                               gradient<i + 1>(pass), saved<i>(pass), state<i>());
    }

    void add_loss(int pass) {
        each<IMAGES>(1, [&](int) {
            add_losses(step, CLASSES, activation<N>(pass), batch, *criterion, gradient<N>(pass));
        });
        barrier();
    }

    void load_images(int pass) {
        Images::load(batch, step, activation<0>(pass));
        barrier();
    }
};

}  // namespace golf
