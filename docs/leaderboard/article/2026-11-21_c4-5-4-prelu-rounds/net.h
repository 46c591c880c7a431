/*
 * record:        article/2026-11-21_c4-5-4-prelu-rounds of golf_opt
 * net:           c4-5-4-prelu
 * parameters:    253 not zero of 820
 * test:          98.01 %: 9,801 of 10,000 images
 * train:         97.66 %: 58,597 of 60,000 images
 * memory:        1,560 bytes of constants, 13,136 bytes to work in
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
    -0.597844541f, 0.0f, -0.961039305f, -1.19876313f,
};

static const float golf_conv1_weight[26] = {
    -0.397926271f, 0.535835564f, 0.288661122f, 0.743799686f, -0.422253788f, -0.219015345f,
    -0.30878678f, 0.386519551f, 0.357000947f, 0.422099352f, -0.296683073f, -0.690742254f,
    -0.92667675f, -0.458294511f, 0.265048862f, 0.416657805f, 0.301371157f, 0.324844271f,
    0.482360035f, -0.42674011f, 0.35404709f, 0.658197045f, -0.780909538f, 0.277331889f,
    0.350460768f, 0.33940351f,
};

static const uint16_t golf_conv1_at[26] = {
    3, 29, 30, 58, 84, 85, 86, 87, 0, 1, 3, 28, 29, 30, 59, 85, 86, 2, 29, 31, 56, 84, 87, 28, 59,
    84,
};

static const uint16_t golf_conv1_first[5] = {
    0, 8, 17, 23, 26,
};

static const float golf_prelu1_slope[4] = {
    -0.647880375f, -0.705789506f, -0.591935337f, 0.950585663f,
};

static const float golf_conv2_bias[5] = {
    -0.963476539f, -1.83211088f, -0.0f, -0.632092059f, 0.0f,
};

static const float golf_conv2_weight[46] = {
    -0.655141234f, -0.755174041f, 0.665739119f, 0.790620804f, -0.348842949f, -0.820917547f,
    0.756509006f, 0.725792408f, 0.80711937f, 0.679120779f, -0.93310684f, -0.49544546f,
    0.570671141f, 0.885706067f, -1.06423688f, 0.487040699f, 0.600651026f, 0.333766162f,
    0.441174358f, 0.31045863f, 0.723476946f, -0.408250958f, -0.370629668f, -0.472208083f,
    -0.503291845f, 0.661738038f, -0.489730865f, -0.614251316f, 0.595581532f, 0.313373089f,
    0.432412624f, -0.405659705f, -0.376202464f, -0.264822066f, 0.337685645f, 0.37251845f,
    0.306423515f, 0.463023275f, -0.373139083f, 0.368312776f, -0.389860451f, 0.493575901f,
    -0.335978717f, 0.939784706f, -1.38995492f, -1.12237835f,
};

static const uint16_t golf_conv2_at[46] = {
    0, 1, 2, 24, 156, 168, 170, 288, 432, 433, 434, 444, 456, 457, 458, 26, 146, 157, 158, 168,
    170, 290, 300, 301, 314, 444, 1, 2, 24, 25, 26, 2, 13, 24, 157, 168, 289, 433, 2, 24, 156, 170,
    314, 434, 457, 458,
};

static const uint16_t golf_conv2_first[6] = {
    0, 15, 26, 31, 38, 46,
};

static const float golf_prelu2_slope[5] = {
    -0.476945788f, 1.00308204f, -1.21284664f, 1.18144393f, 0.0f,
};

static const float golf_conv3_bias[4] = {
    0.0f, 2.73736262f, -0.0f, 2.55066657f,
};

static const float golf_conv3_weight[46] = {
    0.419913501f, 1.05313838f, 0.399993479f, -0.466497123f, -0.784387708f, -0.381324172f,
    -0.265963465f, -0.481386691f, -0.69831872f, -0.368631184f, -0.738224208f, -0.660072446f,
    -0.340836436f, -0.405523658f, 0.448414236f, 0.382447243f, 0.372989833f, -0.607589602f,
    0.541170835f, 0.571686327f, -0.732768059f, 0.641041279f, 0.709569931f, 0.563760579f,
    0.375591248f, -0.634462416f, -0.516307473f, -0.638103843f, 0.291074902f, -1.05463278f,
    0.772992313f, 0.641040027f, 0.485910147f, -0.257969886f, -0.210112795f, -0.425547779f,
    -0.556331336f, -0.402423263f, -0.588331521f, -0.359101087f, -0.45441103f, 0.570390522f,
    0.397964954f, -0.365058333f, -0.401953965f, -0.386032641f,
};

static const uint16_t golf_conv3_at[46] = {
    32, 77, 82, 85, 86, 87, 105, 1, 2, 5, 6, 7, 11, 12, 30, 36, 51, 76, 77, 82, 86, 100, 101, 102,
    107, 25, 26, 27, 36, 52, 61, 76, 81, 100, 26, 32, 36, 37, 57, 60, 61, 86, 102, 107, 110, 111,
};

static const uint16_t golf_conv3_first[5] = {
    0, 7, 25, 34, 46,
};

static const float golf_prelu3_slope[4] = {
    1.41426313f, 0.515175045f, 0.292728633f, 0.621929646f,
};

static const float golf_linear1_bias[10] = {
    0.0f, 1.77217054f, -0.0f, -3.49748898f, 2.5064714f, 0.0f, -2.05006385f, 1.86571074f, 0.0f,
    -2.77626467f,
};

static const float golf_linear1_weight[109] = {
    -0.765873432f, -1.70469713f, 0.523697913f, 1.13350606f, -0.906360626f, -0.57955718f,
    -1.0641247f, 0.888611138f, 0.957738519f, -1.10702908f, 0.381502032f, -1.00656426f,
    -0.782539546f, 0.778141499f, 0.637335777f, 0.407639563f, 0.304706484f, -0.995451152f,
    -0.504568934f, -0.681495667f, 0.343920708f, 0.821839869f, -1.08449781f, -0.56227237f,
    -0.816780627f, 0.420303106f, -0.661034405f, 0.869734824f, -0.557298005f, -0.965241551f,
    0.528401852f, -0.660663903f, 0.507138252f, -1.48786378f, -1.3625102f, -0.376153439f,
    1.11883259f, -1.04055476f, -0.585206389f, -0.327663124f, 0.817542195f, -0.734579206f,
    0.673037946f, -0.584975302f, -0.861106992f, -0.479350686f, 0.649052799f, -0.737672806f,
    0.49415496f, -0.394861132f, 0.568274558f, -0.666528463f, -0.97926271f, 0.775462329f,
    0.893080413f, 0.664414644f, -0.85560292f, -0.864516079f, 0.37454468f, 0.769852161f,
    -0.558915794f, -0.874899447f, 0.810653448f, 0.39149794f, 0.770339251f, -0.435244173f,
    -1.14943135f, 0.709403992f, -0.663374066f, -0.884053946f, -0.425590456f, 1.75913501f,
    -1.27978921f, 0.64459765f, -0.420245409f, -0.576293111f, 0.557431698f, 0.675010204f,
    -0.536636055f, -0.611464143f, -0.741537452f, -1.03048968f, 1.31952167f, -1.00033593f,
    -0.884334981f, 1.57091439f, 0.591380656f, -1.22377014f, 0.927947283f, 0.666338563f,
    -0.502306759f, -0.953179479f, -1.19131076f, 0.469660789f, -0.587252975f, -0.796650231f,
    -0.948822558f, 0.676698744f, -0.713357389f, 0.43192926f, 0.955254793f, -0.41721794f,
    -0.898160219f, -0.976035595f, -0.569547296f, 0.702069283f, -1.6175139f, 0.505568624f,
    0.460034996f,
};

static const uint16_t golf_linear1_at[109] = {
    14, 15, 16, 17, 20, 21, 23, 27, 30, 34, 5, 6, 21, 27, 28, 31, 34, 35, 3, 4, 8, 12, 15, 19, 21,
    23, 28, 30, 33, 35, 5, 8, 12, 18, 21, 25, 27, 28, 33, 1, 2, 6, 8, 11, 12, 17, 19, 20, 25, 26,
    28, 30, 31, 33, 1, 2, 8, 9, 11, 14, 20, 29, 2, 3, 4, 5, 12, 14, 15, 23, 24, 27, 34, 2, 3, 4, 8,
    12, 15, 17, 18, 22, 24, 27, 31, 33, 0, 3, 5, 7, 8, 13, 15, 17, 20, 27, 28, 30, 34, 35, 0, 6,
    12, 19, 20, 24, 30, 33, 34,
};

static const uint16_t golf_linear1_first[11] = {
    0, 10, 18, 30, 39, 54, 62, 73, 86, 100, 109,
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
