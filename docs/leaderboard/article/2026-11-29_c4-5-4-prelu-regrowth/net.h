/*
 * record:        article/2026-11-29_c4-5-4-prelu-regrowth of golf_opt
 * net:           c4-5-4-prelu
 * parameters:    230 not zero of 820
 * test:          98.00 %: 9,800 of 10,000 images
 * train:         97.47 %: 58,479 of 60,000 images
 * memory:        1,434 bytes of constants, 13,136 bytes to work in
 *
 * int golf_predict(const uint8_t image[784], float scores[10])
 *
 * image: 28 rows of 28 pixels from 0 to 255, as in the data; it is normalised in here.
 * scores: of the 10 classes, before any softmax. Returns the class with the
 * highest score.
 *
 * The buffers are static, so one call at a time; define GOLF_BUFFER as nothing
 * before the #include to have them on the stack instead.
 */
#ifndef GOLF_NET_H
#define GOLF_NET_H

#include <stdint.h>

#ifndef GOLF_BUFFER
#define GOLF_BUFFER static
#endif

static const float golf_conv1_bias[4] = {
    -0.685678601f, 0.0f, -1.03081071f, -1.17321587f,
};

static const float golf_conv1_weight[24] = {
    -0.448760986f, 0.578140736f, 0.350670785f, 0.636106491f, -0.360416412f, -0.36258477f,
    0.220892876f, 0.385082006f, 0.326863319f, -0.774298608f, -0.829652071f, -0.627491891f,
    0.180898502f, 0.514846921f, 0.268329978f, 0.4077501f, 0.470897019f, -0.528879762f,
    0.548937023f, 0.814837575f, -0.914739966f, 0.301282048f, 0.355765551f, 0.386931986f,
};

static const uint16_t golf_conv1_at[24] = {
    3, 29, 30, 58, 84, 85, 87, 0, 1, 28, 29, 30, 59, 85, 86, 2, 29, 31, 56, 84, 87, 28, 59, 84,
};

static const uint16_t golf_conv1_first[5] = {
    0, 7, 15, 21, 24,
};

static const float golf_prelu1_slope[4] = {
    -0.722869992f, -0.715540349f, -0.586456299f, 0.840010345f,
};

static const float golf_conv2_bias[5] = {
    -1.44164753f, -1.24124014f, -0.0f, -0.0f, 0.0f,
};

static const float golf_conv2_weight[44] = {
    -0.844841957f, 1.00472343f, -0.514234006f, -0.694063365f, 0.817070901f, 0.579325974f,
    0.806533635f, 0.908711433f, -1.03868341f, -0.654290259f, 0.796988785f, 0.67895627f,
    -0.909467936f, 0.308166444f, 0.657521129f, 0.398872286f, 0.427596599f, 0.440345675f,
    0.624033749f, -0.63278985f, -0.504334152f, -0.412109345f, 0.76954335f, -0.310345799f,
    -0.756396234f, 0.638646901f, 0.308137685f, 0.385776728f, -0.311807781f, -0.291034639f,
    -0.309019923f, -0.365209401f, 0.408132195f, 0.456863195f, 0.230745912f, 0.450444907f,
    -0.392236114f, 0.369707108f, -0.501430273f, 0.529654443f, -0.301188171f, 1.0432328f,
    -1.51867604f, -1.09653437f,
};

static const uint16_t golf_conv2_at[44] = {
    0, 24, 156, 168, 170, 288, 432, 433, 434, 444, 456, 457, 458, 26, 146, 157, 158, 168, 170, 290,
    300, 314, 444, 1, 2, 24, 25, 26, 2, 13, 14, 24, 157, 168, 289, 433, 2, 24, 156, 170, 314, 434,
    457, 458,
};

static const uint16_t golf_conv2_first[6] = {
    0, 13, 23, 28, 36, 44,
};

static const float golf_prelu2_slope[5] = {
    -0.363210052f, 0.976844609f, -1.45983589f, 1.08890557f, 0.0f,
};

static const float golf_conv3_bias[4] = {
    -0.0f, 3.12811708f, -0.0f, 2.1024487f,
};

static const float golf_conv3_weight[44] = {
    0.369411588f, -0.342235535f, 0.98456198f, 0.350276172f, -0.319623619f, -0.722227693f,
    -0.350710839f, -0.294025064f, 0.257257521f, -0.507464468f, -0.624504745f, -0.744841218f,
    -0.582759976f, -0.432509065f, -0.460738748f, 0.388187438f, 0.354334623f, -0.667609274f,
    0.492294431f, 0.625544727f, -0.703801811f, 0.529154718f, 0.670511842f, 0.550957561f,
    0.44156006f, -0.680466115f, -0.505043089f, -0.557549655f, 0.237616777f, -0.798643708f,
    0.706823528f, 0.93500185f, -0.185399532f, -0.344901562f, -0.491768867f, -0.427057683f,
    -0.524240315f, -0.298137218f, -0.401063681f, 0.300929129f, 0.345728874f, 0.292774588f,
    -0.39687562f, -0.503012478f,
};

static const uint16_t golf_conv3_at[44] = {
    32, 51, 77, 82, 85, 86, 87, 105, 107, 1, 2, 6, 7, 11, 12, 30, 36, 76, 77, 82, 86, 100, 101,
    102, 107, 25, 26, 27, 36, 52, 61, 76, 26, 32, 36, 37, 57, 60, 61, 81, 86, 102, 107, 111,
};

static const uint16_t golf_conv3_first[5] = {
    0, 9, 25, 32, 44,
};

static const float golf_prelu3_slope[4] = {
    1.3070122f, 0.526665807f, 0.280782759f, 0.622970819f,
};

static const float golf_linear1_bias[10] = {
    0.0f, 2.71466804f, -0.0f, -3.259969f, 2.17908907f, 0.0f, -0.0f, 0.924345493f, 0.0f,
    -3.16623974f,
};

static const float golf_linear1_weight[94] = {
    -0.552714705f, -1.52321374f, 0.431526214f, 1.08745086f, -0.737441957f, -0.726948678f,
    -1.31286168f, 1.40378022f, 0.733832777f, -1.08912706f, 0.45366174f, -0.87948674f,
    -0.842494547f, 1.08603132f, 0.817329645f, 0.398818552f, -1.07827425f, -0.495208204f,
    -0.688329399f, 0.607346117f, 0.757469952f, -0.992940724f, -0.490019232f, -0.683982968f,
    0.470198393f, -0.669281423f, 0.795450151f, -0.63834697f, -1.08102012f, 0.6097489f,
    -0.688800216f, 0.556735992f, -1.40131831f, -1.11122203f, 1.0178529f, -1.29196167f,
    -0.69464469f, -0.468853205f, 0.973325074f, -0.453377575f, 0.74146384f, -0.552482188f,
    -1.11371171f, 0.916368186f, -1.02852058f, -0.995358467f, 0.927156985f, 0.704699576f,
    1.05457342f, -0.885786533f, -0.827041984f, 0.897726476f, -0.572524905f, -1.14472258f,
    1.07526433f, 0.980157852f, -0.395966709f, -1.45260334f, 0.71486181f, -0.532729506f,
    -0.821771681f, 1.89333868f, -1.25770557f, 0.690939844f, -0.30407095f, -0.545119762f,
    0.678573012f, 0.600445867f, -0.565877974f, -0.481613666f, -0.945020795f, -1.43779731f,
    1.20446384f, -0.741455257f, -1.04390717f, 1.52156043f, 0.751021624f, -1.28039312f, 1.02129865f,
    0.553305268f, -0.590348542f, -0.77879864f, -1.09144974f, 0.293244213f, -0.615087986f,
    -0.515590847f, -1.09522045f, -0.389080197f, 1.02037609f, -0.811491668f, -1.59594703f,
    0.554625869f, -1.48800147f, 0.683714986f,
};

static const uint16_t golf_linear1_at[94] = {
    14, 15, 16, 17, 20, 21, 23, 27, 30, 34, 5, 6, 21, 27, 28, 34, 35, 3, 4, 8, 12, 15, 19, 21, 23,
    28, 30, 33, 35, 5, 8, 12, 18, 21, 27, 28, 33, 1, 2, 6, 8, 11, 12, 28, 30, 31, 33, 1, 2, 8, 9,
    14, 20, 29, 2, 4, 5, 12, 14, 23, 26, 27, 34, 2, 3, 4, 8, 12, 15, 17, 18, 22, 24, 27, 31, 33, 0,
    3, 5, 7, 8, 13, 15, 17, 20, 27, 28, 34, 0, 12, 19, 24, 30, 34,
};

static const uint16_t golf_linear1_first[11] = {
    0, 10, 17, 29, 37, 47, 54, 63, 76, 88, 94,
};

/* The same with non-zero weights alone: those of output o are first[o] to first[o + 1] - 1, and
   at[] says how far from the window's first pixel each one's input is. */
static inline void golf_sparse(const float *in, int wide, float *out, int outputs, int out_high,
                               int out_wide, int down, int across, const float *weight,
                               const uint16_t *at, const uint16_t *first,
                               const float *bias)
{
    for (int o = 0; o < outputs; o++) {
        for (int y = 0; y < out_high; y++) {
            for (int x = 0; x < out_wide; x++) {
                const float *window = in + y * down * wide + x * across;
                float sum = bias ? bias[o] : 0.0f;
                for (unsigned long k = first[o]; k < first[o + 1]; k++) {
                    sum += weight[k] * window[at[k]];
                }
                *out++ = sum;
            }
        }
    }
}

static inline void golf_prelu(float *x, int channels, int area, const float *slope)
{
    for (int c = 0; c < channels; c++) {
        for (int i = 0; i < area; i++, x++) {
            if (*x < 0.0f) {
                *x *= slope[c];
            }
        }
    }
}

/* In place: an output never lies behind the inputs that are still to be read. */
static inline void golf_max_pool(float *x, int channels, int high, int wide, int tall,
                                 int broad)
{
    float *out = x;
    for (int c = 0; c < channels; c++) {
        for (int y = 0; y + tall <= high; y += tall) {
            for (int left = 0; left + broad <= wide; left += broad) {
                const float *window = x + (c * high + y) * wide + left;
                float result = window[0];
                for (int i = 0; i < tall; i++) {
                    for (int j = 0; j < broad; j++) {
                        const float value = window[i * wide + j];
                        result = value > result ? value : result;
                    }
                }
                *out++ = result;
            }
        }
    }
}

static inline int golf_predict(const uint8_t image[784], float scores[10])
{
    GOLF_BUFFER float a[784];
    GOLF_BUFFER float b[2500];
    int best = 0;
    for (int i = 0; i < 784; i++) {
        a[i] = (float)image[i] * 0.0127282329f + -0.424212933f;
    }
    /* conv1: 1x28x28 -> 4x25x25 */
    golf_sparse(a, 28, b, 4, 25, 25, 1, 1, golf_conv1_weight, golf_conv1_at, golf_conv1_first, golf_conv1_bias);
    /* prelu1: 4x25x25 -> 4x25x25 */
    golf_prelu(b, 4, 625, golf_prelu1_slope);
    /* max_pool1: 4x25x25 -> 4x12x12 */
    golf_max_pool(b, 4, 25, 25, 2, 2);
    /* conv2: 4x12x12 -> 5x10x10 */
    golf_sparse(b, 12, a, 5, 10, 10, 1, 1, golf_conv2_weight, golf_conv2_at, golf_conv2_first, golf_conv2_bias);
    /* prelu2: 5x10x10 -> 5x10x10 */
    golf_prelu(a, 5, 100, golf_prelu2_slope);
    /* max_pool2: 5x10x10 -> 5x5x5 */
    golf_max_pool(a, 5, 10, 10, 2, 2);
    /* conv3: 5x5x5 -> 4x3x3 */
    golf_sparse(a, 5, b, 4, 3, 3, 1, 1, golf_conv3_weight, golf_conv3_at, golf_conv3_first, golf_conv3_bias);
    /* prelu3: 4x3x3 -> 4x3x3 */
    golf_prelu(b, 4, 9, golf_prelu3_slope);
    /* linear1: 4x3x3 -> 10 */
    golf_sparse(b, 3, a, 10, 1, 1, 1, 1, golf_linear1_weight, golf_linear1_at, golf_linear1_first, golf_linear1_bias);
    for (int i = 0; i < 10; i++) {
        scores[i] = a[i];
        best = scores[i] > scores[best] ? i : best;
    }
    return best;
}

#endif
