/*
 * record:        article/2026-11-30_c4-5-4-prelu-surgeon of golf_opt
 * net:           c4-5-4-prelu
 * parameters:    199 not zero of 820
 * test:          98.00 %: 9,800 of 10,000 images
 * train:         97.31 %: 58,389 of 60,000 images
 * memory:        1,272 bytes of constants, 13,136 bytes to work in
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
    -1.08197343f, 0.0f, -0.873552382f, -1.40617526f,
};

static const float golf_conv1_weight[23] = {
    -0.481418431f, 0.799986482f, 0.972984195f, -0.456324071f, -0.309184432f, 0.266267568f,
    0.231883556f, 0.545749545f, -0.626900554f, -1.05883336f, -0.692202687f, 0.533133447f,
    0.434063196f, 0.37240988f, 0.745325565f, -0.491502196f, 0.627612472f, 0.776504278f,
    -1.28237844f, 0.298865467f, 0.302790821f, 0.597750008f, 0.481432199f,
};

static const uint16_t golf_conv1_at[23] = {
    3, 29, 58, 84, 85, 87, 0, 1, 28, 29, 30, 85, 86, 2, 29, 31, 56, 84, 87, 28, 56, 59, 84,
};

static const uint16_t golf_conv1_first[5] = {
    0, 6, 13, 19, 23,
};

static const float golf_prelu1_slope[4] = {
    -0.599599779f, -0.735192835f, -0.5953511f, 1.09498811f,
};

static const float golf_conv2_bias[5] = {
    -2.7578392f, -1.72150636f, -0.0f, -0.0f, -0.0f,
};

static const float golf_conv2_weight[40] = {
    -0.560841143f, 0.915315747f, -0.489424735f, -0.399976194f, 0.737936378f, 0.549309194f,
    0.410568446f, -0.402706534f, 0.448049426f, -0.230912209f, 0.812517643f, 0.455827713f,
    0.503602147f, 0.506584167f, 0.878382683f, -0.538431942f, -0.581778169f, -0.560372949f,
    0.544108391f, -0.510818839f, -1.08767796f, 0.834027827f, 0.542788804f, 0.346583664f,
    -0.431159168f, -0.576466799f, -0.446494341f, -0.743389964f, 0.631517112f, 0.69987911f,
    0.240940824f, 0.33320421f, -0.556131959f, 0.860053658f, -0.750190556f, 1.05799508f,
    -0.720379531f, 1.22217476f, -1.34059167f, -1.06815183f,
};

static const uint16_t golf_conv2_at[40] = {
    0, 24, 156, 168, 170, 288, 433, 434, 456, 458, 146, 157, 158, 168, 170, 290, 300, 314, 444, 1,
    2, 24, 25, 26, 2, 13, 14, 24, 157, 168, 289, 433, 2, 24, 156, 170, 300, 434, 457, 458,
};

static const uint16_t golf_conv2_first[6] = {
    0, 10, 19, 24, 32, 40,
};

static const float golf_prelu2_slope[5] = {
    -0.223044515f, 0.84690392f, -1.09987652f, 1.1013391f, -0.0f,
};

static const float golf_conv3_bias[4] = {
    -0.0f, 0.0f, -0.0f, 2.87204504f,
};

static const float golf_conv3_weight[40] = {
    0.457952738f, -0.710222661f, -0.395406127f, 1.12046838f, 0.53307277f, -0.393226981f,
    -0.801328182f, -0.308403343f, -0.326929122f, -0.844376564f, -1.03290546f, -1.21811187f,
    -1.06842124f, -0.778199971f, -0.852611065f, 0.328061014f, 0.535154939f, -0.407233149f,
    0.443036377f, 0.420787245f, -0.394534498f, 0.539956272f, 0.593759239f, 0.630043268f,
    0.303070068f, 0.389910698f, -1.07705045f, -0.71600771f, -0.697285235f, 0.263994098f,
    -0.709708929f, 0.621492207f, 0.756799281f, -0.213252157f, -0.361258417f, -0.318159997f,
    -0.33356294f, -0.268406063f, -0.351054817f, -0.252273321f,
};

static const uint16_t golf_conv3_at[40] = {
    32, 51, 56, 77, 82, 85, 86, 87, 105, 1, 2, 6, 7, 11, 12, 30, 36, 76, 77, 82, 86, 100, 101, 102,
    105, 107, 25, 26, 27, 36, 52, 61, 76, 32, 36, 37, 57, 61, 107, 111,
};

static const uint16_t golf_conv3_first[5] = {
    0, 9, 26, 33, 40,
};

static const float golf_prelu3_slope[4] = {
    1.16624331f, 0.589347184f, 0.28020817f, 0.601270437f,
};

static const float golf_linear1_bias[10] = {
    -0.0f, 0.0f, -0.0f, -3.14361739f, -0.0f, 0.0f, 0.0f, 0.0f, -0.0f, -3.27039814f,
};

static const float golf_linear1_weight[76] = {
    -0.747604668f, 0.704657197f, -0.388635248f, -0.723171115f, 1.20293188f, -0.917749882f,
    0.243164405f, -0.428843737f, 1.74971175f, 0.341348767f, -0.949205101f, -0.378505468f,
    0.352863371f, 0.364952683f, -0.597897828f, -0.593963146f, 0.43513301f, -1.10570323f,
    0.538997293f, -0.561226904f, -1.26956463f, 0.297103345f, -0.424319327f, 0.248583734f,
    -1.00488174f, 0.660015941f, -1.48633993f, -0.709495425f, 0.372551262f, 0.287262917f,
    -0.407706887f, -0.868304193f, 0.709385216f, -1.34103453f, -1.1742847f, 1.2166959f,
    0.275310636f, 0.531995714f, -0.621577501f, -0.694381893f, 0.717760921f, -0.546639383f,
    -1.37471247f, 0.517992616f, 0.575764298f, -0.294340789f, -1.0285728f, 0.623287678f,
    -0.187249541f, -0.71285069f, 1.83593345f, -1.39741635f, 0.21910806f, -0.187602311f,
    0.33534655f, -0.313051015f, -0.743126571f, -1.12748504f, 0.60996139f, -1.39111769f,
    1.52135611f, 0.46280992f, -0.716751456f, 0.490184069f, 0.298709989f, -0.342757106f,
    -0.407994717f, -0.62114799f, -0.590350151f, -1.49853837f, -0.493476093f, 0.524130106f,
    -0.637851179f, -1.03326929f, -1.40231931f, 0.881386638f,
};

static const uint16_t golf_linear1_at[76] = {
    15, 17, 20, 23, 27, 34, 5, 21, 27, 34, 35, 4, 8, 12, 15, 19, 23, 28, 30, 33, 35, 5, 8, 12, 18,
    27, 28, 33, 2, 8, 11, 12, 28, 30, 31, 33, 1, 2, 8, 9, 14, 20, 29, 2, 4, 5, 12, 14, 23, 26, 27,
    34, 2, 4, 8, 17, 18, 22, 24, 31, 33, 0, 3, 5, 7, 8, 13, 15, 20, 28, 34, 0, 12, 19, 30, 34,
};

static const uint16_t golf_linear1_first[11] = {
    0, 6, 11, 21, 28, 36, 43, 52, 61, 71, 76,
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
