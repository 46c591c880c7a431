// A net held together by a table of pieces: what `net.hpp` does with types, at run time.
//
// See there for segments and sums. Tensors lie in the same order here.
#pragma once

#include "loss.hpp"
#include "piece.hpp"

namespace golf {

// A layer of a net. Mirrored by `library.Row` in Python.
struct Row {
    const Forward* forward;
    const Backward* backward;  // null in front of the first layer with weights
    int64_t weights, buffers, dropouts;  // where the layer's own begin
    int64_t second;                      // the other tensor that a sum reads, or -1
    int64_t activation, gradient, saved, state;  // where its input etc. lie; set by `plan`
};

// A net. Mirrored by `library.Table` in Python.
struct Table {
    Row* rows;  // [count + 1]: the last one is the scores, and has no layer
    const Input* input;
    int64_t count, first, numbers, classes;          // first: the first layer with weights
    int64_t padded, segmented, own, pass, shared, scratch;  // set by `plan`

    bool is_sync(int i) const { return rows[i].forward->begin != nullptr; }
    int next_sync(int i) const {
        while (i < count && !is_sync(i)) i++;
        return i;
    }
    // Whether a later sum reads tensor i too.
    bool is_added(int i) const {
        for (int k = i; k < count; k++) {
            if (rows[k].second == i) return true;
        }
        return false;
    }
    // Whether the gradient of tensor i waits for the other passes.
    bool waits(int i) const {
        if (i == 0) return false;
        const int second = int(rows[i - 1].second);
        return is_sync(i - 1) || (second >= 0 && next_sync(second) < i);
    }

    void plan() {
        padded = (numbers + WIDTH - 1) / WIDTH * WIDTH;
        segmented = next_sync(0) < count;
        own = padded + larger(WIDTH, 16) + padded * KEPT;
        int64_t at = 0;
        for (int i = 0; i <= count; i++) {
            rows[i].activation = at;
            at += i == 0 ? rows[0].forward->in : rows[i - 1].forward->out;
        }
        for (int i = 0; i < count; i++) {
            rows[i].saved = at;
            at += rows[i].forward->saved;
        }
        int64_t shared_at = own, most = 0;
        for (int i = 0; i <= count; i++) {
            int64_t& next = waits(i) ? at : shared_at;
            rows[i].gradient = next;
            next += i > first ? rows[i - 1].forward->out_gradient : 0;
        }
        pass = at;
        for (int i = 0; i < count; i++) {
            rows[i].state = shared_at;
            shared_at += rows[i].forward->state;
            if (rows[i].backward && rows[i].backward->scratch > most) most = rows[i].backward->scratch;
        }
        scratch = shared_at;
        shared = scratch + (most + 2 * WIDTH - 1) / WIDTH * WIDTH;
    }

    static int num_passes(int batch) { return ceil_div(batch, IMAGES); }
    int64_t workspace_floats(int batch) const {
        return shared + pass * (segmented ? num_passes(batch) : 1) + WIDTH;
    }
};

class Driver {
    const Table& table;
    Row* const rows;
    const int count, first;
    float* workspace;  // [table.shared]
    float* passes;
    Step step;
    const Criterion* criterion;  // of training, else null
    Batch batch;

   public:
    // The memory, of `workspace_floats(batch size)`, holds zeros at first.
    Driver(const Table& table_, void* memory, const float* weights, float* buffers, bool training,
           const Criterion* criterion_)
        : table(table_), rows(table.rows), count(int(table.count)), first(int(table.first)),
          workspace(static_cast<float*>(memory)), passes(workspace + table.shared), step{},
          criterion(criterion_), batch{} {
        step.weights = weights;
        step.buffers = buffers;
        step.loss = reinterpret_cast<double*>(workspace + table.padded);
        step.kept_sums = workspace + table.padded + larger(WIDTH, 16);
        step.scratch = workspace + table.scratch;
        step.training = training;
    }

    float* gradients() { return workspace; }

    // Forward, backward and the gradients' sums over the lanes. Returns the sum of the losses.
    double train(const Batch& next, const uint32_t* dropout_keys) {
        batch = next;
        step.batch_size = batch.size;
        step.dropout_keys = dropout_keys;
        *step.loss = 0;
        clear_all(step.kept_sums, int(table.padded * KEPT));
        segment(0, false);
        gather(gradients(), step.kept_sums, int(table.padded));
        return *step.loss;
    }

    // The scores of up to IMAGES images, [classes][IMAGES].
    const float* scores(const Batch& next) {
        batch = next;
        step.batch_size = batch.size;
        begin_pass(0);
        table.input->load(batch, step, activation(0, 0));
        forward(0, count, 0);
        return activation(count, 0);
    }
    // Before the first `scores`: normalisation layers take up the running statistics.
    void begin_evaluation() {
        for (int i = 0; i < count; i++) {
            if (table.is_sync(i)) rows[i].forward->end(own(i), state(i));
        }
    }

   private:
    float* pass_at(int pass) { return passes + (table.segmented ? pass * table.pass : 0); }
    float* activation(int i, int pass) { return pass_at(pass) + rows[i].activation; }
    float* saved(int i, int pass) { return pass_at(pass) + rows[i].saved; }
    float* state(int i) { return workspace + rows[i].state; }
    float* gradient(int i, int pass) {
        return (table.waits(i) ? pass_at(pass) : workspace) + rows[i].gradient;
    }

    void begin_pass(int pass) {
        step.first_image = pass * IMAGES;
        step.num_images = smaller(IMAGES, batch.size - step.first_image);
    }

    // The step as layer i sees it.
    Step own(int i) const {
        Step mine = step;
        mine.weights += rows[i].weights;
        mine.kept_sums += rows[i].weights * KEPT;
        mine.buffers += rows[i].buffers;
        mine.dropout_keys += rows[i].dropouts;
        return mine;
    }

    // Layers a .. b, where b is the next one that needs sums over the batch, and all behind it.
    // `apply`: layer a is itself such a layer, and its sums are closed.
    void segment(int a, bool apply) {
        const int b = table.next_sync(apply ? a + 1 : a), last = apply ? a + 1 : a;
        const int passes = Table::num_passes(batch.size);
        if (apply && rows[a].backward) rows[a].backward->begin(state(a));
        const bool joined = b < count && rows[b].forward->joined;
        if (b < count) rows[b].forward->begin(state(b));
        for (int pass = 0; pass < passes; pass++) {
            begin_pass(pass);
            if (!apply) table.input->load(batch, step, activation(0, pass));
            forward(a, joined ? b - 1 : b, pass);
            if (b < count) {
                rows[b].forward->sum(own(b), activation(joined ? b - 1 : b, pass),
                                     saved(joined ? b - 1 : b, pass), activation(b, pass), state(b));
            } else {
                add_loss(pass);
                backward(count - 1, last, pass);
                if (apply) backward_sum(a, pass);
            }
        }
        if (b == count) return;
        rows[b].forward->end(own(b), state(b));
        segment(b, true);
        if (rows[b].backward) rows[b].backward->end(own(b), state(b));
        for (int pass = 0; pass < passes; pass++) {
            begin_pass(pass);
            backward(b, last, pass);
            if (apply) backward_sum(a, pass);
        }
    }

    void forward(int from, int to, int pass) {
        for (int i = from; i < to; i++) {
            const float* other = rows[i].second < 0 ? nullptr : activation(int(rows[i].second), pass);
            rows[i].forward->run(own(i), activation(i, pass), other, activation(i + 1, pass),
                                 saved(i, pass), state(i));
        }
    }
    // Layers from .. last, backwards, and those that they are joined with.
    void backward(int from, int last, int pass) {
        for (int i = from; i >= last && i >= first; i--) {
            if (i == first && table.is_sync(i)) break;  // nobody wants the gradient in front of it
            const int source = rows[i].forward->joined ? i - 1 : i;
            rows[i].backward->run(own(i), activation(i, pass), activation(i + 1, pass),
                                  gradient(i + 1, pass), gradient(i, pass), saved(i, pass), state(i),
                                  activation(source, pass), gradient(source, pass));
            i = source;
            add_gradients(i, pass);
        }
    }
    // What later sums hand back to tensor i: the gradients of their own tensors, which nobody has
    // written to since.
    void add_gradients(int i, int pass) {
        for (int k = i; i > first && k < count; k++) {
            if (rows[k].second != i) continue;
            float* to = gradient(i, pass);
            const float* from = gradient(k + 1, pass);
            for (int at = 0; at < rows[i].forward->features * IMAGES; at += IMAGES) {
                add_to<IMAGES>(to + at, load<IMAGES>(from + at));
            }
        }
    }
    void backward_sum(int i, int pass) {
        if (!rows[i].backward) return;
        rows[i].backward->sum(own(i), activation(i, pass), activation(i + 1, pass),
                              gradient(i + 1, pass), saved(i, pass), state(i));
    }
    void add_loss(int pass) {
        add_losses(step, int(table.classes), activation(count, pass), batch, *criterion,
                   gradient(count, pass));
    }
};

}  // namespace golf
