// Images as they are stored -> the first tensor of a net.
#pragma once

#include "shapes.hpp"
#if !defined(__CUDACC__)
#include "words.hpp"
#endif

namespace golf {

// What becomes of a reader's numbers: they are kept, or go into what is there by a share.
struct Keep {
    INLINE void operator()(float* at, Vec<IMAGES> value) const { store<IMAGES>(at, value); }
};
struct Blend {
    float share;
    INLINE void operator()(float* at, Vec<IMAGES> value) const {
        const Vec<IMAGES> here = load<IMAGES>(at);
        store<IMAGES>(at, here + (value - here) * share);
    }
};

// Bytes -> normalised floats with the images side by side, 16 pixels of each at a time.
// Pixels::mean(c) and Pixels::std(c) normalise channel c.
template <class Input, class Pixels>
struct Loader {
    // An image is [channel][y][x] bytes, and others up to a whole number of chunks of 16.
    static constexpr int PIXELS = Input::C * Input::H * Input::W;
    static constexpr int CHUNKS = ceil_div(PIXELS, 16), BYTES = 16 * CHUNKS;

    // One pass' images.
    static void load(const Batch& batch, const Step& step, float* to) {
        read<false>(batch, step, to, Keep{});
    }
    // The same, or with NEXT those behind each of them.
    template <bool NEXT, class Put>
    static INLINE void read(const Batch& batch, const Step& step, float* to, const Put& put) {
        const Rows<IMAGES> from = make_rows<IMAGES>([&](int i) {
            return batch.images + size_t(batch.order[in_batch<NEXT>(batch, step, i)]) * BYTES;
        });
        constexpr bool WHOLE = Input::W % 4 == 0;  // a word does not cross rows
        constexpr int AREA = Input::H * Input::W;
        each<IMAGES>(CHUNKS, [&](int chunk) {
            Ints<IMAGES> words[4];
            load_words<IMAGES>(from, 16 * chunk, words);
            UNROLL for (int word = 0; word < 4; word++) {
                UNROLL for (int k = 0; k < 4; k++) {
                    const int first = 16 * chunk + 4 * word, pixel = WHOLE ? first : first + k;
                    if (PIXELS % 16 != 0 && pixel >= PIXELS) break;
                    const int c = Input::C == 1 ? 0 : pixel / AREA, rest = pixel - c * AREA;
                    const float std = Pixels::std(c), scale = 1 / (255 * std);
                    float* at = to + Input::at(c, rest / Input::W, rest % Input::W);
                    const Ints<IMAGES> byte = words[word] >> (8 * k) & 255;
                    put(at + (WHOLE ? k : 0) * IMAGES,
                        to_float<IMAGES>(byte) * scale + -Pixels::mean(c) / std);
                }
            }
        });
    }
};

// As a reader, with a share of the next image of the batch in each (Zhang et al. 2018).
template <class Reader>
struct Mixer : Reader {
    static void load(const Batch& batch, const Step& step, float* to) {
        Reader::load(batch, step, to);
        if (batch.mix > 0) Reader::template read<true>(batch, step, to, Blend{batch.mix});
    }
};
template <class Input, class Pixels>
using MixedLoader = Mixer<Loader<Input, Pixels>>;

}  // namespace golf
