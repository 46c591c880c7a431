// The limit: fused multiply-adds on registers alone. Prints GFLOP/s of one thread.
#include <chrono>
#include <cstdio>

#include "primitives.hpp"

using namespace golf;

static double gflops() {
    constexpr int CHAINS = 12;  // more than latency times throughput of any core so far
    constexpr long ROUNDS = 8'000'000;
    Vec<WIDTH> a[CHAINS], x = broadcast<WIDTH>(0.999f), y = broadcast<WIDTH>(1e-7f);
    asm volatile("" : "+m"(x), "+m"(y));  // no constants to fold
    UNROLL for (int i = 0; i < CHAINS; i++) a[i] = broadcast<WIDTH>(float(i));
    const double start = now_s();
    for (long k = 0; k < ROUNDS; k++) {
        UNROLL for (int i = 0; i < CHAINS; i++) a[i] = a[i] * x + y;
    }
    const double seconds = now_s() - start;
    Vec<WIDTH> total{};
    UNROLL for (int i = 0; i < CHAINS; i++) total += a[i];
    volatile float keep = sum<WIDTH>(total);
    (void)keep;
    return 2.0 * WIDTH * CHAINS * ROUNDS / seconds / 1e9;
}

int main() { std::printf("%.2f\n", gflops()); }
