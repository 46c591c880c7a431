// Images moved about at random while they are read: shifted, turned, scaled, sheared, bent, and with
// a rectangle cut out. One bilinear sampling does it all.
//
// `golf_opt.task.distortion` in Python says the same: which numbers are drawn, and where each pixel of an
// image comes from. Outside an image, and where it is cut out, bytes are zero.
#pragma once

#include "pixels.hpp"
#include "random.hpp"

namespace golf {

// How strongly; 0 is off. Mirrored by `table.Distortion` in Python.
struct Distortion {
    float shift;    // pixels
    float rotate;   // radians
    float scale;    // share of the size
    float shear;    // pixels across for each pixel down
    float elastic;  // pixels
    float erase;    // share of height and width
    float mixup;    // share of another image
    uint32_t key;   // of the epoch
};

// What each image of an epoch draws, by number; a knot of the bending has two of them.
struct Draws {
    enum { ANGLE, SIZE, SHEAR, ACROSS, DOWN, HOLE_X, HOLE_Y, MIX, KNOTS, COUNT = 64 };

    Words<IMAGES> first;
    uint32_t key;

    // In [0, 1).
    INLINE Vec<IMAGES> share(int draw) const {
        const Words<IMAGES> counter = first + uint32_t(draw);
        const Words<IMAGES> word = mix(mix(Words<IMAGES>(counter ^ key)) + key) >> 8;
        return to_float<IMAGES>((Ints<IMAGES>)word) * (1.f / (1 << 24));
    }
    // In [-most, most).
    INLINE Vec<IMAGES> within(float most, int draw) const { return (share(draw) * 2 - 1) * most; }
};

// The share of the next one in each image of a batch, whose first has this position in the epoch.
INLINE float share_of_next(const Distortion& strength, uint32_t position) {
    const uint32_t counter = position * Draws::COUNT + Draws::MIX;
    const uint32_t word = mix(mix(counter ^ strength.key) + strength.key) >> 8;
    return float(word) * (1.f / (1 << 24)) * strength.mixup;
}

// Of angles in [-pi, pi], to 1e-6: the series at half the angle.
INLINE void sin_cos(Vec<IMAGES> angle, Vec<IMAGES>& sin, Vec<IMAGES>& cos) {
    const Vec<IMAGES> half = angle * 0.5f, z = half * half;
    Vec<IMAGES> s = 1 - z * (1 / 110.f), c = 1 - z * (1 / 132.f);
    s = 1 - z * (1 / 72.f) * s, c = 1 - z * (1 / 90.f) * c;
    s = 1 - z * (1 / 42.f) * s, c = 1 - z * (1 / 56.f) * c;
    s = 1 - z * (1 / 20.f) * s, c = 1 - z * (1 / 30.f) * c;
    s = half * (1 - z * (1 / 6.f) * s), c = 1 - z * 0.5f * (1 - z * (1 / 12.f) * c);
    sin = 2 * s * c, cos = 1 - 2 * s * s;
}

// A rectangle of each image; what lies at `right` and `bottom` is not in it.
struct Holes {
    Ints<IMAGES> left, right, top, bottom;
};

// One channel of the images of a pass, with zeros around each: `four` are the bytes at (x, y),
// (x, y + 1), (x + 1, y) and (x + 1, y + 1), from the lowest on, where (1, 1) is an image's first
// pixel and (W + 1, H + 1) the last that is asked for.
template <int H, int W, int BYTES>
class Source {
    static constexpr int N = IMAGES;

#if defined(GOLF_WARPS)  // a team's memory has no room for tables: each byte is looked up
    const uint8_t* const images;
    const Ints<N> chosen;
    const Holes& holes;

    INLINE uint32_t byte(int i, int x, int y) const {
        const bool inside = uint32_t(x) < uint32_t(W) && uint32_t(y) < uint32_t(H);
        const bool cut = x >= lane_of_ints<N>(holes.left, i) && x < lane_of_ints<N>(holes.right, i) &&
                         y >= lane_of_ints<N>(holes.top, i) && y < lane_of_ints<N>(holes.bottom, i);
        if (!inside || cut) return 0;
        return images[size_t(lane_of_ints<N>(chosen, i)) * BYTES + y * W + x];
    }

   public:
    INLINE Source(const uint8_t* images_, Ints<N> chosen_, const Holes& holes_)
        : images(images_), chosen(chosen_), holes(holes_) {}

    INLINE Words<N> four(Ints<N> across, Ints<N> down) const {
        return make_words<N>([&](int i) {
            const int x = lane_of_ints<N>(across, i) - 1, y = lane_of_ints<N>(down, i) - 1;
            return byte(i, x, y) | byte(i, x, y + 1) << 8 | byte(i, x + 1, y) << 16 |
                   byte(i, x + 1, y + 1) << 24;
        });
    }
#else  // what is above and what is below lie side by side, so that one load has all four
    static constexpr int PITCH = W + 2;
    typedef uint16_t Pairs[(H + 2) * PITCH + 2];
    Pairs* const pairs;

    // Nobody writes to the margins: they are zero.
    static Pairs* memory() {
        static thread_local Pairs pairs[N];
        return pairs;
    }
    static INLINE void join(const uint8_t* above, const uint8_t* below, uint16_t* to) {
        constexpr int CHUNK = smaller(W, 16);
        for (int x = 0; x < W; x += CHUNK) {
            const int at = smaller(x, W - CHUNK);
            uint8_t upper[CHUNK], lower[CHUNK];
            uint16_t both[CHUNK];
            std::memcpy(upper, above + at, CHUNK);
            std::memcpy(lower, below + at, CHUNK);
            for (int i = 0; i < CHUNK; i++) both[i] = uint16_t(upper[i] | lower[i] << 8);
            std::memcpy(to + at, both, sizeof both);
        }
    }

   public:
    INLINE Source(const uint8_t* images, Ints<N> chosen, const Holes& holes) : pairs(memory()) {
        for (int i = 0; i < N; i++) {
            const uint8_t zeros[W] = {}, *image = images + size_t(chosen[i]) * BYTES;
            const int left = larger(0, holes.left[i]), right = smaller(W, holes.right[i]);
            uint8_t holed[2][W];
            const uint8_t* above = zeros;
            for (int y = 0; y <= H; y++) {
                const uint8_t* below = y < H ? image + y * W : zeros;
                if (y >= holes.top[i] && y < holes.bottom[i] && y < H && left < right) {
                    std::memcpy(holed[y % 2], below, W);
                    std::memset(holed[y % 2] + left, 0, right - left);
                    below = holed[y % 2];
                }
                join(above, below, pairs[i] + y * PITCH + 1);
                above = below;
            }
        }
    }
    INLINE Words<N> four(Ints<N> across, Ints<N> down) const {
        const Ints<N> at = down * PITCH + across;
        return make_words<N>([&](int i) {
            uint32_t bytes;
            std::memcpy(&bytes, pairs[i] + at[i], sizeof bytes);
            return bytes;
        });
    }
#endif
};

// As `Loader`, with a distortion of each image, where the batch has one.
template <class Input, class Pixels>
struct Distorter {
    using Plain = Loader<Input, Pixels>;
    static constexpr int PIXELS = Plain::PIXELS, BYTES = Plain::BYTES;
    static constexpr int N = IMAGES, H = Input::H, W = Input::W;
    static constexpr int CELL = ceil_div(larger(H, W), 4);  // pixels between knots of the bending
    static constexpr int BESIDE = (W - 1) / CELL + 2, ABOVE = (H - 1) / CELL + 2;  // at most 5 each
    static constexpr int ONE = 1 << 16;  // a pixel, where positions are whole numbers

    struct Point {
        Vec<N> x, y;
    };
    // Where a pixel comes from: an affine map, and what the knots around it add.
    struct Map {
        Point across, down, start;
        Point bend[ABOVE][BESIDE];

        INLINE Point at(int x, int y) const {
            return {start.x + across.x * float(x) + down.x * float(y),
                    start.y + across.y * float(x) + down.y * float(y)};
        }
        // The same at the knot of a row, with the bending there.
        INLINE Point at_knot(int knot, int y) const {
            const Point &above = bend[y / CELL][knot], &below = bend[y / CELL + 1][knot];
            const Point plain = at(knot * CELL, y);
            const float part = float(y % CELL) / CELL;
            return {plain.x + above.x + (below.x - above.x) * part,
                    plain.y + above.y + (below.y - above.y) * part};
        }
    };

    static INLINE Map draw_map(const Distortion& strength, const Draws& draws) {
        Map map;
        Vec<N> sin, cos;
        sin_cos(draws.within(strength.rotate, Draws::ANGLE), sin, cos);
        const Vec<N> step = 1 / (1 + draws.within(strength.scale, Draws::SIZE));
        const Vec<N> shear = draws.within(strength.shear, Draws::SHEAR);
        map.across = {cos * step, sin * step};
        map.down = {(cos * shear - sin) * step, (sin * shear + cos) * step};
        constexpr float X = (W - 1) / 2.f, Y = (H - 1) / 2.f;  // the middle stays where it is
        map.start = {draws.within(strength.shift, Draws::ACROSS) + X - map.across.x * X - map.down.x * Y,
                     draws.within(strength.shift, Draws::DOWN) + Y - map.across.y * X - map.down.y * Y};
        for (int y = 0; y < ABOVE; y++) {
            for (int x = 0; x < BESIDE; x++) {
                const int draw = Draws::KNOTS + 2 * (5 * y + x);
                map.bend[y][x] = {Vec<N>{}, Vec<N>{}};
                if (strength.elastic > 0) {
                    map.bend[y][x] = {draws.within(strength.elastic, draw),
                                      draws.within(strength.elastic, draw + 1)};
                }
            }
        }
        return map;
    }

    static INLINE Holes draw_holes(const Distortion& strength, const Draws& draws) {
        const float wide = strength.erase * W / 2, high = strength.erase * H / 2;
        const Vec<N> x = draws.share(Draws::HOLE_X) * float(W) + 0.5f;
        const Vec<N> y = draws.share(Draws::HOLE_Y) * float(H) + 0.5f;
        return {to_int<N>(x - wide), to_int<N>(x + wide), to_int<N>(y - high),
                to_int<N>(y + high)};
    }

    // In [0, most], of type Ints.
    static INLINE Ints<N> clamped(Ints<N> value, int most) {
        const Ints<N> zero{}, top = zero + most;
        value = value < zero ? zero : value;
        return value > top ? top : value;
    }

    static void load(const Batch& batch, const Step& step, float* to) {
        read<false>(batch, step, to, Keep{});
    }
    template <bool NEXT, class Put>
    static INLINE void read(const Batch& batch, const Step& step, float* to, const Put& put) {
        if (!batch.distortion) return Plain::template read<NEXT>(batch, step, to, put);
        const Distortion& strength = *batch.distortion;
        const auto image = [&](int i) { return in_batch<NEXT>(batch, step, i); };
        const Ints<N> chosen =
            (Ints<N>)make_words<N>([&](int i) { return batch.order[image(i)]; });
        const Draws draws{make_words<N>([&](int i) {
                              return (batch.position + uint32_t(image(i))) * Draws::COUNT;
                          }), strength.key};
        const Map map = draw_map(strength, draws);
        const Holes holes = draw_holes(strength, draws);
        for (int c = 0; c < Input::C; c++) {
            const Source<H, W, BYTES> source(batch.images + c * H * W, chosen, holes);
            each<N>(H, [&](int y) { read_row(source, map, c, y, to + Input::at(c, y, 0), put); });
        }
    }

    template <class From, class Put>
    static INLINE void read_row(const From& source, const Map& map, int c, int y, float* to,
                                const Put& put) {
        const float std = Pixels::std(c), scale = 1 / (255 * std * ONE);
        const float offset = -Pixels::mean(c) / std, margin = 1 + 1 / 512.f;  // rounded to 1/256
        Point here = map.at_knot(0, y);
        for (int knot = 0; knot < BESIDE - 1; knot++) {
            const Point next = map.at_knot(knot + 1, y);
            Ints<N> x = to_int<N>((here.x + margin) * ONE), y = to_int<N>((here.y + margin) * ONE);
            const Ints<N> step_x = to_int<N>((next.x - here.x) * (ONE / float(CELL)));
            const Ints<N> step_y = to_int<N>((next.y - here.y) * (ONE / float(CELL)));
            for (int at = knot * CELL; at < smaller(W, (knot + 1) * CELL); at++) {
                const Ints<N> from_x = clamped(x, (W + 1) * ONE), from_y = clamped(y, (H + 1) * ONE);
                const Words<N> right = (Words<N>)(from_x >> 8 & 255), below = (Words<N>)(from_y >> 8 & 255);
                const Words<N> four = source.four(from_x >> 16, from_y >> 16);
                // Two columns in the halves of a word: between above and below, then between them.
                const Words<N> above = four & 0xff00ffu;
                const Words<N> pair = (above << 8) + ((four >> 8 & 0xff00ffu) - above) * below;
                const Words<N> left = pair & 0xffffu;
                const Words<N> value = (left << 8) + ((pair >> 16) - left) * right;
                put(to + at * N, to_float<N>((Ints<N>)value) * scale + offset);
                x += step_x, y += step_y;
            }
            here = next;
        }
    }
};
template <class Input, class Pixels>
using MixedDistorter = Mixer<Distorter<Input, Pixels>>;

}  // namespace golf
