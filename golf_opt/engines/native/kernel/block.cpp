// A thread block for each lane: the kernels of a GPU, or their stand-ins on a CPU.
#include "slice.hpp"

namespace golf {

// The gradient of the mean loss over one batch: a slice of one step without the update.
struct Batched {
    const uint32_t* order;         // [n]
    const uint32_t* dropout_keys;  // [num_dropouts]
    float* gradients;              // [PADDED]; set
    double loss_sum;               // set
};

INLINE void run_gradients(Lane& lane, const Data& data, Batched& batched, float* shared) {
    const long passes_floats = GolfNet::passes_floats(int(data.n));
    const Team team = team_of(lane, shared, passes_floats);
    each<1>(GolfNet::PADDED, [&](int i) { team.weights[i] = lane.state[i]; });
    clear_all(team.workspace, int(GolfNet::SHARED_FLOATS));
    clear_all(team.passes, int(passes_floats));
    barrier();
    GolfNet net(team.workspace, team.passes, team.weights, team.buffers, true,
                &lane.criterion);
    const int n = int(data.n);
    const double loss = net.train({data.images, data.labels, data.soft, batched.order, n, n},
                                  batched.dropout_keys);
    each<1>(GolfNet::PADDED, [&](int i) { batched.gradients[i] = net.gradients()[i]; });
    once([&] { batched.loss_sum = loss; });
}

// Each block counts a share of the images.
INLINE void run_correct(Lane& lane, const Data& data, int64_t* counts, int block, int blocks,
                        float* shared) {
    const long passes_floats = GolfNet::passes_floats(IMAGES);
    const Team team = team_of(lane, shared, passes_floats);
    each<1>(GolfNet::PADDED, [&](int i) { team.weights[i] = lane.state[i]; });
    clear_all(team.workspace, int(GolfNet::SHARED_FLOATS));
    clear_all(team.passes, int(passes_floats));
    barrier();
    const int64_t share = (data.n + blocks - 1) / blocks, from = block * share;
    const int64_t to = from + share < data.n ? from + share : data.n;
    const int64_t correct = from < to ? count_correct(team, data, from, to) : 0;
    once([&] { counts[block] = correct; });
}

// {trained numbers, images side by side, warps, floats in front of the passes, of one pass,
//  whether each pass of a batch has its own, GOLF_PLACE, WIDTH}
#define GOLF_INFO                                                                          \
    {                                                                                      \
        GolfNet::PADDED, IMAGES, WARPS, Layout::PASSES, GolfNet::PASS_FLOATS,              \
            GolfNet::SEGMENTED, GOLF_PLACE, WIDTH                                          \
    }

}  // namespace golf

using namespace golf;

#if defined(__CUDACC__)

#define KERNEL __global__ void __launch_bounds__(WARPS * WIDTH, GOLF_BLOCKS)

extern "C" {

__constant__ int64_t golf_info[8] = GOLF_INFO;

KERNEL golf_slice(Lane* lanes, const Data* train, const Data* objective, double limit_s) {
    extern __shared__ float4 shared[];
    run_slice(lanes[blockIdx.x], *train, *objective, reinterpret_cast<float*>(shared), limit_s);
}
KERNEL golf_gradients(Lane* lanes, const Data* data, Batched* batched) {
    extern __shared__ float4 shared[];
    run_gradients(lanes[blockIdx.x], *data, batched[blockIdx.x], reinterpret_cast<float*>(shared));
}
KERNEL golf_correct(Lane* lanes, const Data* data, int64_t* counts) {
    extern __shared__ float4 shared[];
    run_correct(*lanes, *data, counts, blockIdx.x, gridDim.x, reinterpret_cast<float*>(shared));
}
}

#else

// One block after the other, each with its own shared memory full of rubbish, as on a GPU.
template <class Body>
static void blocks(int64_t count, int64_t shared_floats, Body&& body) {
    const auto memory = std::make_unique<float[]>(shared_floats + 16);
    for (int64_t block = 0; block < count; block++) {
        for (int64_t i = 0; i < shared_floats + 16; i++) memory[i] = 1e30f;
        float* shared = memory.get();
        while (reinterpret_cast<uintptr_t>(shared) % 16) shared++;
        run_block([&] { body(int(block), shared); });
    }
}

extern "C" {

void golf_info(int64_t* to) {
    const int64_t info[8] = GOLF_INFO;
    std::memcpy(to, info, sizeof info);
}
void golf_slice(int64_t count, int64_t shared_floats, Lane* lanes, const Data* train,
                const Data* objective, double limit_s) {
    blocks(count, shared_floats, [&](int block, float* shared) {
        run_slice(lanes[block], *train, *objective, shared, limit_s);
    });
}
void golf_gradients(int64_t count, int64_t shared_floats, Lane* lanes, const Data* data,
                    Batched* batched) {
    blocks(count, shared_floats, [&](int block, float* shared) {
        run_gradients(lanes[block], *data, batched[block], shared);
    });
}
void golf_correct(int64_t count, int64_t shared_floats, Lane* lanes, const Data* data,
                  int64_t* counts) {
    blocks(count, shared_floats, [&](int block, float* shared) {
        run_correct(*lanes, *data, counts, block, int(count), shared);
    });
}
}

#endif
