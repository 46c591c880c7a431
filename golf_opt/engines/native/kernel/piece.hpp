// A layer compiled by itself: its sizes and its functions, for `driver.hpp` to hold together.
//
// It is found as `golf_forward` and `golf_backward` in a library of its own. Where its weights,
// buffers and dropout keys lie in the net it does not know: `Step` comes with pointers to them.
#pragma once

#include "shapes.hpp"

namespace golf {

// What reads the images.
struct Input {
    void (*load)(const Batch&, const Step&, float* to);
};

// A layer's way forward. Sizes are in floats.
struct Forward {
    int32_t in, out, out_gradient, saved, state;
    int32_t features;  // numbers in front of it, for each image
    void (*run)(const Step&, const float* in, const float* other, float* out, float* saved,
                float* state);
    // Of a normalisation, and null elsewhere. `joined`: `sum` also does the convolution in front of
    // it, from `source` and with `source_saved`, row by row.
    int32_t joined;
    void (*begin)(float* state);
    void (*sum)(const Step&, const float* source, float* source_saved, float* in, float* state);
    void (*end)(const Step&, float* state);
};

// Its way back. `joined` as above: `run` writes the gradient in front of the convolution.
struct Backward {
    int32_t scratch;
    void (*run)(const Step&, const float* in, const float* out, const float* out_gradient,
                float* in_gradient, float* saved, float* state, const float* source,
                float* source_gradient);
    void (*begin)(float* state);
    void (*sum)(const Step&, const float* in, const float* out, const float* out_gradient,
                float* saved, float* state);
    void (*end)(const Step&, float* state);
};

// A layer that reads two tensors.
template <class In, class Other, class Out, int OTHER>
struct Add;
template <class Layer>
constexpr bool IS_SUM = false;
template <class In, class Other, class Out, int OTHER>
constexpr bool IS_SUM<Add<In, Other, Out, OTHER>> = true;

template <class Images>
constexpr Input input_of() {
    return {[](const Batch& batch, const Step& step, float* to) {
        Images::load(batch, step, to);
        for (int i = 0; i < IMAGES; i++) {  // the next pass' images arrive while this one works
            const int image = step.first_image + IMAGES + i;
            if (image >= batch.ahead) break;
            const uint8_t* start = batch.images + size_t(batch.order[image]) * Images::BYTES;
            for (int at = 0; at < Images::PIXELS; at += 64) prefetch(start + at);
        }
    }};
}

// Source: the convolution that a normalisation is joined with, or void.
template <class Layer, class Source = void>
constexpr Forward forward_of() {
    Forward piece{};
    piece.in = Layer::In::FLOATS;
    piece.out = Layer::Out::FLOATS;
    piece.out_gradient = Layer::Out::Compact::FLOATS;
    piece.saved = ceil_div(Layer::SAVED, WIDTH) * WIDTH;
    piece.state = Layer::STATE;
    piece.features = Layer::In::FEATURES;
    piece.run = [](const Step& step, const float* in, [[maybe_unused]] const float* other,
                   float* out, [[maybe_unused]] float* saved, [[maybe_unused]] float* state) {
        if constexpr (IS_SUM<Layer>)
            Layer::forward(in, other, out);
        else
            Layer::forward(step, in, out, saved, state);
    };
    if constexpr (Layer::SYNC) {
        piece.joined = !SAME<Source, void>;
        piece.begin = Layer::forward_begin;
        piece.end = Layer::forward_end;
        piece.sum = [](const Step& step, [[maybe_unused]] const float* source,
                       [[maybe_unused]] float* source_saved, float* in, float* state) {
            if constexpr (SAME<Source, void>) {
                Layer::forward_sum(step, in, state);
            } else {
                Source::forward_rows(step, source, in, source_saved, [&](int y) {
                    Layer::forward_sum_row(step, in, y, state);
                });
                Layer::forward_close_pass(state);
            }
        };
    }
    return piece;
}

template <class Layer, class Source = void>
constexpr Backward backward_of() {
    Backward piece{};
    piece.scratch = Layer::SCRATCH;
    piece.run = [](const Step& step, const float* in, const float* out, const float* out_gradient,
                   [[maybe_unused]] float* in_gradient, float* saved, float* state,
                   [[maybe_unused]] const float* source, [[maybe_unused]] float* source_gradient) {
        if constexpr (SAME<Source, void>) {
            Layer::backward(step, in, out, out_gradient, in_gradient, saved, state);
        } else {
            Source::backward_rows(step, source, source_gradient, [&](int y, int rows, float* to) {
                Layer::backward_rows(step, in, out, out_gradient, saved, state, y, rows, to,
                                     Source::CHANNEL_FLOATS, Source::ROW_FLOATS);
            });
        }
    };
    if constexpr (!SAME<Source, void>) piece.scratch = larger(Layer::SCRATCH, Source::SCRATCH);
    if constexpr (Layer::SYNC) {
        piece.begin = Layer::backward_begin;
        piece.sum = Layer::backward_sum;
        piece.end = Layer::backward_end;
    }
    return piece;
}

}  // namespace golf
