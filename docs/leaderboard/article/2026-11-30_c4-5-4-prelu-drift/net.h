/*
 * record:        article/2026-11-30_c4-5-4-prelu-drift of golf_opt
 * net:           c4-5-4-prelu
 * parameters:    185 not zero of 820
 * test:          98.07 %: 9,807 of 10,000 images
 * train:         96.54 %: 57,924 of 60,000 images
 * memory:        1,188 bytes of constants, 13,136 bytes to work in
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
    -1.60068667f, 0.0f, -1.22604311f, -1.6411823f,
};

static const float golf_conv1_weight[23] = {
    -0.726352751f, 1.21374428f, 1.53352892f, -0.754840732f, -0.423203021f, 0.392284513f,
    0.39205271f, 0.841520369f, -1.04553425f, -1.57446575f, -1.20565355f, 0.78607887f, 0.782679617f,
    0.532882929f, 1.0358752f, -0.639079392f, 0.852723956f, 1.18614471f, -1.80721414f, 0.372917444f,
    0.390437305f, 0.840125144f, 0.648742199f,
};

static const uint16_t golf_conv1_at[23] = {
    3, 29, 58, 84, 85, 87, 0, 1, 28, 29, 30, 85, 86, 2, 29, 31, 56, 84, 87, 28, 56, 59, 84,
};

static const uint16_t golf_conv1_first[5] = {
    0, 6, 13, 19, 23,
};

static const float golf_prelu1_slope[4] = {
    -0.679123402f, -0.755532086f, -0.65092957f, 1.14919055f,
};

static const float golf_conv2_bias[5] = {
    -2.48510957f, -3.22777677f, -0.0f, -0.0f, -0.0f,
};

static const float golf_conv2_weight[40] = {
    -0.243215784f, 0.372139007f, -0.173385262f, -0.187630579f, 0.321689934f, 0.306170762f,
    0.198097199f, -0.194152653f, 0.191553324f, -0.124223761f, 1.37206888f, 0.827693641f,
    0.814994335f, 0.577426434f, 1.31277084f, -1.00884497f, -1.0806849f, -0.99148792f, 1.14409781f,
    -0.56604439f, -1.37898207f, 1.03668344f, 0.907030106f, 0.378178209f, -0.849156976f,
    -1.08432496f, -0.7755481f, -1.42350554f, 1.23607683f, 1.28166556f, 0.677257121f, 0.735407472f,
    -0.46187976f, 0.776494741f, -0.779113889f, 1.07007575f, -0.635980904f, 1.27748883f,
    -1.40146542f, -1.15125906f,
};

static const uint16_t golf_conv2_at[40] = {
    0, 24, 156, 168, 170, 288, 433, 434, 456, 458, 146, 157, 158, 168, 170, 290, 300, 314, 444, 1,
    2, 24, 25, 26, 2, 13, 14, 24, 157, 168, 289, 433, 2, 24, 156, 170, 300, 434, 457, 458,
};

static const uint16_t golf_conv2_first[6] = {
    0, 10, 19, 24, 32, 40,
};

static const float golf_prelu2_slope[5] = {
    -0.114230804f, 0.998240173f, -1.1122154f, 1.04948485f, -0.0f,
};

static const float golf_conv3_bias[4] = {
    -0.0f, 0.0f, -0.0f, 3.60234356f,
};

static const float golf_conv3_weight[35] = {
    0.328250527f, -0.669475794f, -0.287590235f, 0.616007149f, 0.332842827f, -0.194560692f,
    -0.503107667f, -0.134699941f, -0.533152401f, -0.526663661f, -0.65510273f, -0.691226244f,
    -0.660628378f, -0.394262761f, -0.531517386f, 0.0238495618f, 0.100167483f, 0.148428291f,
    0.144841522f, 0.0646818951f, 0.0707450062f, -0.644625425f, -0.41750741f, -0.448752403f,
    0.112406142f, -0.668408573f, 0.594839931f, 0.432266831f, -0.0516962186f, -0.1150475f,
    -0.0969081521f, -0.173866168f, -0.122367546f, -0.276219845f, -0.195698142f,
};

static const uint16_t golf_conv3_at[35] = {
    32, 51, 56, 77, 82, 85, 86, 87, 105, 1, 2, 6, 7, 11, 12, 82, 100, 101, 102, 105, 107, 25, 26,
    27, 36, 52, 61, 76, 32, 36, 37, 57, 61, 107, 111,
};

static const uint16_t golf_conv3_first[5] = {
    0, 9, 21, 28, 35,
};

static const float golf_prelu3_slope[4] = {
    1.21903276f, 0.749217093f, 0.255974621f, 0.637286067f,
};

static const float golf_linear1_bias[10] = {
    -0.0f, 0.0f, -0.0f, -2.96327591f, -0.0f, 0.0f, 0.0f, 0.0f, -0.0f, -2.13065434f,
};

static const float golf_linear1_weight[67] = {
    -1.2378242f, 1.73463082f, -0.298960298f, -0.326954693f, 1.20385361f, -0.58616817f,
    0.112351961f, -0.155656442f, 1.22675967f, -0.152785957f, 0.158154562f, 1.23835504f,
    -1.69737089f, -0.321614891f, 0.204212904f, -0.681010723f, -0.303896636f, -0.836315215f,
    0.125044078f, -0.206336826f, 0.783052742f, -0.39073205f, -1.06861591f, -0.667491198f,
    0.107955754f, 0.115304738f, -1.21095991f, -1.66102242f, 0.877056658f, -0.826943219f,
    -0.598242521f, 0.989766538f, 0.0925371796f, 0.295240164f, -0.288188308f, -1.12268698f,
    1.25691605f, -0.188153416f, -1.4677074f, 0.234785587f, 0.224791452f, -0.10529504f,
    -2.04192448f, 0.6365062f, -0.265360981f, 1.20564091f, -0.783629775f, 0.126842901f,
    -0.334801406f, -0.675287485f, 0.270810515f, -0.744483769f, 1.19255269f, 0.180661529f,
    -0.312492281f, 0.20084554f, 0.105489865f, -0.17725648f, -0.942698777f, -1.20894384f,
    -0.223648816f, -1.21840513f, 0.252099156f, -1.75471783f, -0.479435533f, -0.794072688f,
    0.78955853f,
};

static const uint16_t golf_linear1_at[67] = {
    15, 17, 20, 23, 27, 34, 5, 21, 27, 4, 8, 12, 15, 19, 23, 28, 33, 35, 5, 8, 12, 18, 28, 33, 2,
    8, 11, 12, 28, 30, 31, 33, 1, 2, 8, 9, 14, 20, 29, 2, 4, 5, 12, 14, 26, 27, 34, 8, 18, 22, 24,
    31, 33, 0, 3, 5, 7, 8, 13, 15, 20, 28, 0, 12, 19, 30, 34,
};

static const uint16_t golf_linear1_first[11] = {
    0, 6, 9, 18, 24, 32, 39, 47, 53, 62, 67,
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
