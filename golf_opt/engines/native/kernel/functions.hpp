// Functions of a real number, in vectors: series that the compiler keeps in registers.
#pragma once

#include "primitives.hpp"

namespace golf {

// e^x for x <= 0, to 2 units in the last place: 2^n * 2^f with f in [-0.5, 0.5] by its series.
template <int N>
INLINE Vec<N> exp_negative(Vec<N> x) {
    Vec<N> t = x * 1.44269504f;
    t = t < -126 ? broadcast<N>(-126) : t;
    const Ints<N> n = to_int<N>(t - 0.5f);
    const Vec<N> f = t - to_float<N>(n);
    Vec<N> series = f * 1.52527338e-5f + 1.54035304e-4f;
    series = series * f + 1.33335581e-3f;
    series = series * f + 9.61812911e-3f;
    series = series * f + 5.55041087e-2f;
    series = series * f + 2.40226507e-1f;
    series = series * f + 6.93147181e-1f;
    series = series * f + 1.f;
    return series * from_bits<N>((n + 127) << 23);
}

// The share of a normal distribution below x, to 3e-7, and its density: Abramowitz and Stegun,
// 7.1.26, where |erf| is 1 - series(t) * e^(-z * z) with z = |x| / sqrt(2).
template <int N>
struct Normal {
    Vec<N> below, density;

    INLINE explicit Normal(Vec<N> x) {
        Vec<N> z = (x < 0 ? -x : x) * 0.707106781f;
        z = z > 9 ? broadcast<N>(9) : z;  // where both are 0 in this precision
        const Vec<N> bell = exp_negative<N>(-z * z), t = 1.f / (1.f + 0.3275911f * z);
        Vec<N> series = t * 1.061405429f - 1.453152027f;
        series = series * t + 1.421413741f;
        series = series * t - 0.284496736f;
        series = series * t + 0.254829592f;
        const Vec<N> outside = 0.5f * series * t * bell;
        below = x < 0 ? outside : 1.f - outside;
        density = bell * 0.398942280f;
    }
};

// To 5e-7 of itself: near 0 by its series, since a normalisation may blow up what is small there.
template <int N>
INLINE Vec<N> tanh(Vec<N> x) {
    const Vec<N> size = x < 0 ? -x : x, square = x * x, e = exp_negative<N>(-2.f * size);
    const Vec<N> far = 1.f - 2.f * e / (1.f + e);
    Vec<N> series = square * 0.0218694885f - 0.0539682540f;
    series = series * square + 0.133333333f;
    series = series * square - 0.333333333f;
    series = x + x * square * series;
    return size < 0.25f ? series : (x < 0 ? -far : far);
}

}  // namespace golf
