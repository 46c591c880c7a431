/*
 * record:        holdout/2026-11-30_c4-5-4-prelu-hunt of golf_opt
 * net:           c4-5-4-prelu
 * parameters:    245 not zero of 820
 * test:          98.05 %: 9,805 of 10,000 images
 * train:         97.91 %: 48,954 of 50,000 images
 * memory:        1,548 bytes of constants, 13,136 bytes to work in
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
    -0.888526797f, -0.724293411f, 0.0f, -0.0f,
};

static const float golf_conv1_weight[30] = {
    0.588178635f, 0.735307693f, 0.414151341f, 0.262964636f, 0.472967833f, 0.607347608f,
    0.576387644f, 0.661926448f, -0.32184425f, -0.268283635f, 0.743775606f, -0.35160467f,
    -0.526072383f, 0.633563459f, -0.619500935f, 0.749306202f, 0.405836791f, 0.277224928f,
    -0.276691198f, -0.508075893f, 0.412662327f, 0.516946018f, -0.632735014f, 0.575164795f,
    0.378217638f, -1.07778931f, -0.439346194f, -0.55785948f, -0.526174605f, -0.434794456f,
};

static const uint16_t golf_conv1_at[30] = {
    0, 29, 30, 31, 57, 58, 87, 30, 31, 56, 58, 59, 84, 86, 3, 30, 31, 59, 85, 86, 1, 3, 28, 29, 30,
    56, 57, 85, 86, 87,
};

static const uint16_t golf_conv1_first[5] = {
    0, 7, 14, 20, 30,
};

static const float golf_prelu1_slope[4] = {
    1.66149056f, -0.60947448f, -0.887970209f, -0.281176865f,
};

static const float golf_conv2_bias[5] = {
    -0.0f, -0.0f, 0.0f, -0.767123342f, 0.0f,
};

static const float golf_conv2_weight[54] = {
    0.257923424f, 0.317506075f, -0.287885785f, -0.19803229f, 0.264674127f, 0.281740814f,
    -0.506044865f, -0.410145551f, 0.421687722f, 0.678331017f, -0.717437565f, 0.268836826f,
    -0.261336654f, -0.36206305f, -0.328923315f, 0.239088416f, -0.320592642f, -0.516587555f,
    -1.06217778f, -0.473945171f, 0.392970175f, 0.198281735f, 0.328298301f, -0.276705325f,
    0.737927794f, -0.981209755f, 0.508369207f, -0.302746743f, 0.236401081f, 0.263431311f,
    0.287553459f, 0.494717896f, -0.55747366f, -0.549636364f, -0.760278583f, -0.640314877f,
    -0.419171244f, 0.494850397f, 0.728167653f, 0.469043702f, 0.229430467f, 0.33460176f,
    0.458908319f, 0.236618772f, 0.553297102f, 0.549720287f, 0.498427123f, -0.488179535f,
    -0.531602621f, -0.583861649f, -0.481234729f, -0.454571575f, -0.46050176f, -0.553638458f,
};

static const uint16_t golf_conv2_at[54] = {
    1, 2, 13, 14, 144, 145, 289, 290, 433, 444, 446, 456, 457, 1, 12, 14, 24, 289, 301, 313, 446,
    0, 14, 24, 145, 168, 302, 444, 458, 2, 12, 13, 145, 146, 156, 157, 169, 302, 312, 313, 1, 2,
    13, 24, 144, 169, 170, 289, 301, 312, 433, 444, 445, 456,
};

static const uint16_t golf_conv2_first[6] = {
    0, 13, 21, 29, 40, 54,
};

static const float golf_prelu2_slope[5] = {
    -0.878638029f, 0.723291159f, -1.04103529f, 1.04719198f, 1.38266695f,
};

static const float golf_conv3_bias[4] = {
    -0.0f, -0.738438845f, -0.0f, 0.0f,
};

static const float golf_conv3_weight[55] = {
    0.341950119f, 0.683911681f, 0.417871296f, -0.644373298f, -0.517662644f, -0.604140341f,
    -0.62152487f, 0.359575331f, 0.489919662f, 0.463072389f, 0.52007246f, 0.412593007f, 0.59653765f,
    0.499438405f, 0.403244644f, 0.247524187f, -0.588318348f, 0.500423193f, 0.272639275f,
    -0.127872825f, -0.235260069f, -0.560110867f, -0.335285395f, 0.313136131f, 0.632434249f,
    0.284560919f, 0.595492065f, 0.268417895f, 0.287567973f, -0.498598337f, -0.421678603f,
    -0.453451306f, -0.35134986f, 0.218184516f, 0.30183956f, 0.257445484f, 0.319763452f,
    0.492319494f, 0.132685408f, -0.260381818f, -0.266912311f, -0.428075135f, -0.462385178f,
    -0.382702291f, -0.520968497f, -0.605516315f, -0.553671062f, -0.45600757f, 0.387092471f,
    0.258761466f, 0.32369107f, 0.328954101f, -0.402972192f, -0.355805725f, 0.245324641f,
};

static const uint16_t golf_conv3_at[55] = {
    32, 36, 37, 56, 57, 85, 87, 101, 106, 111, 1, 5, 6, 10, 11, 52, 60, 75, 82, 86, 105, 106, 107,
    112, 7, 11, 12, 35, 36, 50, 51, 52, 56, 60, 61, 62, 81, 82, 87, 105, 107, 112, 6, 10, 11, 31,
    32, 50, 56, 60, 61, 75, 85, 102, 106,
};

static const uint16_t golf_conv3_first[5] = {
    0, 10, 24, 42, 55,
};

static const float golf_prelu3_slope[4] = {
    0.512423933f, 1.08550107f, 1.26637959f, 1.11300671f,
};

static const float golf_linear1_bias[10] = {
    -0.0f, -0.0f, -0.0f, -1.08550227f, 0.0f, 0.0f, 0.0f, -0.0f, 1.14922428f, -1.09307826f,
};

static const float golf_linear1_weight[86] = {
    -0.295598179f, 0.349381238f, -0.398492754f, -0.413604736f, -0.179947883f, -0.343594164f,
    0.475390732f, -0.504818857f, 0.366374433f, -0.388614297f, -0.260002792f, 0.362870842f,
    -0.539010823f, -0.306023628f, 0.343730509f, 0.293662906f, -0.324489504f, -0.322273254f,
    -0.180404142f, 0.418250829f, -0.404391736f, -0.55220288f, 0.33815074f, -0.207431525f,
    0.425293505f, -0.226063475f, 0.398555815f, -0.508161426f, 0.256025583f, 0.236120164f,
    -0.305193126f, -0.459006876f, -0.394088328f, -0.277969003f, 0.326717734f, -0.381166697f,
    -0.377736866f, -0.34343645f, -0.23237218f, 0.405786335f, 0.556177855f, -0.395004064f,
    0.429595709f, -0.634813368f, -0.566434443f, -0.333100468f, -0.746878922f, 0.45186621f,
    0.332178414f, -0.268022448f, -0.628587961f, 0.367117345f, 0.689492285f, -0.376039684f,
    0.300496906f, 0.451010436f, 0.355794579f, -0.410906643f, 0.393700451f, 0.293038696f,
    -0.348824561f, -0.312717289f, -0.402056962f, -0.449647009f, 0.192156419f, 0.394005448f,
    -0.391388565f, -0.501435041f, -0.158087611f, -0.311588734f, 0.447593033f, -0.367616534f,
    0.524186909f, 0.232977748f, 0.436471373f, -0.196079791f, -0.373257488f, 0.187157512f,
    0.339397699f, -0.464202642f, 0.243754089f, 0.123154797f, 0.688286245f, 0.389754593f,
    -0.266934007f, 0.171668366f,
};

static const uint16_t golf_linear1_at[86] = {
    2, 3, 7, 12, 21, 28, 29, 35, 1, 11, 16, 26, 33, 8, 10, 12, 15, 20, 22, 26, 27, 6, 9, 20, 22,
    26, 29, 4, 6, 8, 9, 10, 19, 24, 26, 28, 6, 9, 10, 11, 20, 26, 0, 5, 9, 12, 16, 20, 22, 23, 28,
    32, 3, 4, 8, 9, 15, 24, 26, 29, 31, 1, 3, 9, 11, 12, 13, 15, 20, 21, 23, 26, 29, 30, 34, 35, 3,
    5, 8, 9, 11, 22, 29, 30, 34, 35,
};

static const uint16_t golf_linear1_first[11] = {
    0, 8, 13, 21, 27, 36, 42, 52, 61, 76, 86,
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
