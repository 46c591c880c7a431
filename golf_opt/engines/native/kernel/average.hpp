// A running average of the weights, or of a normalisation's statistics, along a training.
#pragma once

#include "primitives.hpp"

namespace golf {

// Go `rate` of the way towards n values; 1 copies them, 0 leaves the average as it is. Which
// average that makes is a matter of the rates: see `recipe.average_rates` in Python.
INLINE void follow(double rate, int n, const float* values, float* average) {
    const float there = float(rate), here = float(1 - rate);
    each<1>(n, [&](int i) { average[i] = here * average[i] + there * values[i]; });
}

}  // namespace golf
