// Some slices of an emulated block, for a thread sanitizer to watch.
#include <cstdio>

#include "block.cpp"

int main() {
    constexpr int N = 64, BATCH = 21, EPOCHS = 2;
    static uint8_t images[N * GolfNet::BYTES], labels[N];
    for (int i = 0; i < N * GolfNet::BYTES; i++) images[i] = uint8_t(i * 2654435761u >> 24);
    for (int i = 0; i < N; i++) labels[i] = uint8_t(i % GolfNet::CLASSES);
    static float soft[N * GolfNet::CLASSES];
    for (int i = 0; i < N * GolfNet::CLASSES; i++) soft[i] = float(i % 7);
    const Data data{images, labels, soft, N};
    constexpr int BUFFERS = 1024, FLOATS = 4 * (GolfNet::PADDED + BUFFERS);
    static float state[FLOATS], snapshots[EPOCHS * FLOATS];
    for (int i = 0; i < GolfNet::PADDED; i++) state[i] = 0.1f * float(i % 7 - 3);
    for (int i = 3 * GolfNet::PADDED; i < FLOATS; i++) state[i] = 1;
    static double rates[16];
    for (double& rate : rates) rate = 1e-3;
    Epoch epochs[EPOCHS] = {{rates, {1, 2, 3, 4, 5, 6, 7, 8}, rates},
                            {rates, {8, 7, 6, 5, 4, 3, 2, 1}, rates}};
    Result results[EPOCHS] = {};
    const uint32_t prefixes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    Lane lane{};
    lane.state = state, lane.snapshots = snapshots, lane.epochs = epochs, lane.results = results;
    lane.dropout_prefixes = prefixes, lane.num_dropouts = 2, lane.num_buffers = BUFFERS;
    lane.average = state + 3 * GolfNet::PADDED + BUFFERS, lane.num_floats = FLOATS;
    lane.num_epochs = EPOCHS, lane.batch_size = BATCH, lane.train_last = 1, lane.half = 3;
    for (Epoch& epoch : epochs) epoch.distortion.mixup = 0.5f;
    static float losses[N];
    lane.losses = losses;
    lane.criterion = {0.1f, 0.5f, 2.f};
    lane.update = {ADAM, 0.9, 0.999, 1e-8, 0.9, 0.01};
    const long shared = Layout::PASSES + GolfNet::passes_floats(BATCH) + 256;
    int launches = 0;
    for (; lane.num_epochs > 0; launches++) {  // of one step each
        golf_slice(1, shared, &lane, &data, &data, 0.0);
        if (lane.outcome == NOT_FINITE) return 3;
        lane.num_epochs -= lane.epochs_done;
        lane.train_last -= lane.epochs_done;
        lane.epochs += lane.epochs_done;
    }
    std::printf("%d launches\n", launches);
}
