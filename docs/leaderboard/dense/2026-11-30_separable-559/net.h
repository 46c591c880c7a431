/*
 * record:        dense/2026-11-30_separable-559 of golf_opt
 * net:           separable-559
 * parameters:    559 not zero of 559
 * test:          98.17 %: 9,817 of 10,000 images
 * train:         98.32 %: 49,162 of 50,000 images
 * memory:        2,236 bytes of constants, 16,320 bytes to work in
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

static const float golf_conv1_bias[3] = {
    -1.12670398f, -0.892197847f, -0.638032794f,
};

static const float golf_conv1_weight[27] = {
    -0.0646273941f, 0.959929824f, 0.522562861f, -0.367075831f, 0.0933486074f, 0.572162867f,
    -0.346514016f, -0.992644608f, -1.10617208f, 0.279029131f, -0.417867035f, 0.697614133f,
    -0.831709862f, -0.293792397f, 0.845730603f, -0.101323582f, 0.702927768f, 0.0952645093f,
    0.185874119f, -0.173412532f, -0.782945335f, 0.123008184f, -0.611840248f, -0.481133133f,
    -0.580819905f, -0.637465f, -0.0108191855f,
};

static const float golf_depthwise1_weight[27] = {
    -0.191903546f, -0.0908339471f, -0.615226805f, 0.0853424743f, -0.588399768f, 0.0216689967f,
    -0.620072842f, -0.213210702f, -0.292416573f, -0.262152702f, -0.193432182f, 0.0534937941f,
    0.360370666f, -0.693171978f, -0.737222373f, 0.78593421f, -0.427516282f, -0.397968531f,
    0.374814063f, 0.0537982918f, -0.0439956822f, 0.307047695f, 0.717699468f, 0.741918445f,
    0.273730427f, 0.367129713f, -0.068277292f,
};

static const float golf_pointwise1_bias[6] = {
    0.291926295f, 0.156072184f, 1.10718763f, -0.764306486f, 0.393190742f, -0.774359107f,
};

static const float golf_pointwise1_weight[18] = {
    0.208121866f, -0.645916104f, 0.108323149f, 0.662600398f, -0.0492964163f, 0.527217686f,
    -0.0873027369f, 0.0575122908f, -0.720664918f, 0.871050537f, -0.561370015f, 0.144594267f,
    0.286566556f, 0.911562443f, -0.472114921f, 0.74442023f, 0.00365363248f, -0.469224036f,
};

static const float golf_pointwise2_bias[12] = {
    0.572986186f, -0.336234897f, 0.59724021f, -0.52593267f, -1.03658569f, -0.108983196f,
    -1.57984042f, 1.02298033f, 0.459915489f, 0.181585744f, 0.559306085f, -0.428995878f,
};

static const float golf_pointwise2_weight[72] = {
    0.166914463f, 0.295655578f, -1.87045741f, -0.981477618f, -0.620467424f, -0.484252572f,
    0.120413154f, 1.78200555f, -0.854874432f, -0.358925939f, -0.784985006f, -0.099468939f,
    -1.12753713f, 0.622852027f, 0.72217679f, -0.597092569f, 0.0484815389f, 0.566418409f,
    0.231478348f, 0.460152596f, -0.294855803f, 0.733892798f, 0.645504355f, -0.0337235667f,
    -0.0967419818f, 1.01990938f, -0.207346037f, 0.959493518f, 1.35302043f, -0.508089721f,
    0.683922827f, -0.658447027f, -0.393424362f, -0.0718322694f, 0.531968892f, -0.151811123f,
    1.14261758f, -0.719334483f, 1.50391126f, -1.35154939f, 0.0845148638f, -0.564693987f,
    -1.55533588f, 0.149105862f, -0.220680833f, -0.244116962f, -0.637566626f, -1.72419882f,
    -0.656955183f, -0.0218535103f, 1.19040811f, 0.928677201f, -1.52278411f, -1.05983484f,
    -0.120324284f, 0.0150436703f, -0.531247616f, -0.0300393756f, -0.573013842f, -0.624860644f,
    -0.51060456f, 0.51863122f, 0.0875790864f, 0.0296437107f, -0.269344211f, -0.597828209f,
    0.955857396f, 0.038300585f, 0.305816382f, 1.07005286f, -0.854156256f, 0.192875907f,
};

static const float golf_depthwise_7_0_weight[108] = {
    -0.157773122f, -0.00948591623f, -0.15943718f, 0.415000379f, 0.477702349f, 0.28421554f,
    1.32009935f, -0.287956685f, -1.03168583f, -0.904628694f, -0.316304058f, -0.668419778f,
    -0.00249061245f, 0.40167293f, 0.412087232f, 0.760074496f, 0.0873582214f, 0.65735954f,
    0.221924558f, -0.157951131f, 0.395929962f, -0.00342253759f, -0.988071561f, -0.466177344f,
    0.484599203f, 0.809788585f, 0.87727648f, 0.405924439f, 0.366664857f, 0.32919246f,
    -0.274541706f, 0.539635181f, -0.235710979f, 0.179171517f, 0.212054148f, 0.755222321f,
    -0.535053253f, -0.008972059f, -0.947016537f, -0.572352171f, -0.0917311162f, 0.0737282038f,
    -0.18910636f, 0.23412545f, 0.317184776f, 0.712448955f, -0.0464368202f, -0.205555782f,
    0.711070001f, -0.107863285f, -0.0994539633f, 0.264604568f, -0.0754471421f, 0.409141004f,
    0.792882621f, 0.424153984f, -0.282743335f, 0.30105114f, -0.716516435f, -0.239323899f,
    0.19724454f, -0.0113721052f, -1.02025223f, -0.880471647f, -0.773644745f, -0.305094957f,
    0.228334785f, 0.256939828f, -0.165738076f, 0.553782701f, 0.491527408f, 0.768044412f,
    0.106146164f, -0.0695854798f, 0.360844702f, 0.439138055f, 0.658629358f, 0.0804083347f,
    0.264894158f, 0.173906028f, -0.0577673241f, -1.42441487f, 0.305712253f, -0.548458099f,
    -0.0991029516f, 0.170676261f, -0.691466331f, 0.869723618f, 0.21162346f, 0.611333013f,
    0.0641010255f, -0.215589389f, -1.28084528f, 0.167572886f, -0.624872983f, -0.202990219f,
    0.653338015f, 0.188307598f, 0.768170238f, 0.392072022f, 0.543490648f, 0.828902721f,
    0.145037591f, -0.398561478f, 0.0157616604f, 0.214348763f, 0.11391554f, 0.270025223f,
};

static const float golf_pointwise_7_1_bias[12] = {
    -2.7056489f, -1.48374438f, -0.312749475f, 0.639657319f, -1.07621503f, -1.08599508f,
    1.07623792f, 0.812446058f, -1.92312634f, -0.200406149f, -0.895809472f, -1.41031194f,
};

static const float golf_pointwise_7_1_weight[144] = {
    0.66159761f, -0.534663916f, 0.219465926f, -1.28965962f, 0.13209489f, -0.0885359943f,
    -0.468789756f, 0.931459248f, -0.590597332f, -1.0172503f, 0.0998702794f, -0.58348918f,
    0.275054932f, -1.11708248f, -0.846556664f, -0.978076994f, -0.458501637f, -0.442116022f,
    0.0118097011f, -0.512073755f, 0.0216592979f, -0.0491386279f, -0.157524526f, -0.588153839f,
    0.0881481469f, -0.0869554579f, -0.283988893f, -1.09927356f, -0.0319455005f, -0.764665842f,
    -0.990023732f, 0.375550985f, -1.18107402f, -0.871919453f, -0.78513658f, 0.272719204f,
    0.169735074f, -0.489200801f, -0.93104732f, 0.101912878f, 0.0315791853f, 0.0138785262f,
    -1.29320467f, -0.751286447f, -1.0702405f, -0.878383338f, 1.11001229f, -1.89954269f,
    -0.196121931f, 0.269160688f, -1.22794902f, 0.487141013f, 0.0716336817f, 0.360865772f,
    0.710188568f, 1.05997825f, -0.183550492f, -0.749066114f, -0.613638043f, -0.595860243f,
    -0.431485742f, -0.880244374f, -1.14997542f, 0.451929629f, 1.0339402f, -0.103725538f,
    -0.673083723f, -0.458807439f, 0.687011898f, 0.880458176f, 0.378972143f, -0.618842721f,
    0.229459867f, -0.0942448229f, -0.838584065f, -0.55385375f, 0.409981072f, -0.463066787f,
    0.0463562012f, -0.773498297f, -1.80587757f, 0.83365351f, 0.232274979f, -1.04766655f,
    0.470398426f, -0.334956288f, -0.305275828f, 1.03141296f, -0.417770952f, -1.53186131f,
    -0.369098783f, 0.85797137f, -0.802854836f, 0.241884679f, 0.111083508f, -0.215669066f,
    -0.153883263f, -1.00745428f, -0.584286809f, 0.65286237f, 0.325874805f, 0.202640846f,
    0.0444701463f, -0.468469352f, -0.172910646f, -1.09822857f, -0.0271524843f, 0.401394188f,
    0.77982688f, 0.568319082f, 0.169191882f, -0.49326542f, 1.46564043f, -1.48655951f,
    -0.167309478f, -0.0693356916f, -0.970086694f, 0.766011298f, 0.477210552f, 0.297289401f,
    -1.00419819f, 0.125749722f, -1.05381703f, 0.93800813f, -0.622589827f, -0.557611585f,
    1.07686412f, 0.992817879f, -2.01772356f, 0.385014892f, -0.311650068f, 0.0456484407f,
    1.05402911f, 0.0949977338f, -0.584030151f, -0.531296372f, 0.877430201f, -0.766648531f,
    -0.703417599f, 0.456304342f, -0.281995773f, -1.32831442f, 1.37295556f, 0.332393408f,
};

static const float golf_linear1_bias[10] = {
    2.26550674f, -0.227370888f, 0.242059067f, -0.610317528f, 0.620684028f, -1.67382801f,
    -1.25221002f, -1.82136655f, 1.73964524f, 0.896515131f,
};

static const float golf_linear1_weight[120] = {
    -0.632394493f, -2.41044593f, 1.19239354f, -0.171957731f, -0.518621027f, 0.523374498f,
    0.631990373f, -1.38394547f, -0.254945189f, 0.41769436f, 0.267142296f, -1.55154479f,
    0.252945304f, -0.317288399f, -0.367339045f, 0.878791928f, -1.72574246f, -1.40443695f,
    -0.209042042f, 0.634301543f, 0.235266402f, -0.178047895f, 0.477660477f, -0.308785379f,
    -0.530299783f, 0.902324259f, 0.357117683f, 0.253343433f, -0.223610669f, -0.280554414f,
    -0.242172331f, 0.288231879f, 0.968459547f, 0.301747024f, -1.27675271f, -1.14838731f,
    -0.671244621f, 1.61010277f, 0.464303017f, -0.137354404f, -0.00951117836f, -0.0447881445f,
    -2.09832883f, -0.299486548f, -0.70206219f, 0.055287078f, 0.808816254f, 0.825940669f,
    0.846372724f, -0.930595875f, -1.61925626f, 0.717918158f, -0.838854015f, -1.40255582f,
    1.4810282f, 0.561835527f, 0.0115894731f, -1.19233477f, -0.743640184f, 1.36796486f,
    0.0143909669f, -0.461726487f, 0.674669325f, -0.256082565f, 0.399077117f, 1.11173594f,
    -0.511029959f, -0.40966171f, 0.34978506f, -0.228062764f, 1.37102199f, 0.356382996f,
    -0.156346068f, -0.69576025f, 0.417719454f, -0.25112319f, 0.557448447f, 0.680631876f,
    1.32403362f, -1.11505115f, 0.638692141f, 0.441745102f, 1.39784968f, -1.03745198f,
    -0.0697905049f, 0.406671703f, -0.751488149f, 0.639938831f, 0.84189105f, -1.49313235f,
    -1.25192487f, 1.069368f, -0.155281976f, -0.0872885957f, -1.48648989f, -0.248903632f,
    -0.772898853f, 0.387864918f, -0.841574252f, -0.30019927f, 0.219326958f, 0.768300951f,
    -0.152425811f, 0.235291943f, -0.856734335f, 0.92867893f, 0.33354789f, 0.352375984f, 1.6158663f,
    -1.19767857f, -0.574885905f, -1.42033315f, 0.275095999f, 0.817989647f, 0.918730855f,
    0.513250113f, -0.3029854f, -0.921822309f, -0.540246129f, 0.507740498f,
};

/* Convolve in[channels][high][wide], no padding: a kernel of tall x broad that steps down and across.
   depthwise: output o reads channel o alone. */
static inline void golf_conv(const float *in, int channels, int high, int wide, float *out,
                             int outputs, int tall, int broad, int down, int across,
                             int depthwise, const float *weight, const float *bias)
{
    const int out_high = (high - tall) / down + 1;
    const int out_wide = (wide - broad) / across + 1;
    const int depth = depthwise ? 1 : channels;
    for (int o = 0; o < outputs; o++) {
        const float *first = in + (depthwise ? o * high * wide : 0);
        for (int y = 0; y < out_high; y++) {
            for (int x = 0; x < out_wide; x++) {
                const float *w = weight + o * depth * tall * broad;
                float sum = bias ? bias[o] : 0.0f;
                for (int c = 0; c < depth; c++) {
                    for (int i = 0; i < tall; i++) {
                        const float *row = first + (c * high + y * down + i) * wide + x * across;
                        for (int j = 0; j < broad; j++) {
                            sum += *w++ * row[j];
                        }
                    }
                }
                *out++ = sum;
            }
        }
    }
}

/* Copy in[channels][high][wide] into a frame of zeros, `above` and below, `beside` on both sides. */
static inline void golf_pad(const float *in, int channels, int high, int wide, int above,
                            int beside, float *out)
{
    for (int c = 0; c < channels; c++) {
        for (int y = -above; y < high + above; y++) {
            for (int x = -beside; x < wide + beside; x++) {
                const int inside = y >= 0 && y < high && x >= 0 && x < wide;
                *out++ = inside ? in[(c * high + y) * wide + x] : 0.0f;
            }
        }
    }
}

static inline void golf_leaky_relu(float *x, int size, float slope)
{
    for (int i = 0; i < size; i++) {
        if (x[i] < 0.0f) {
            x[i] *= slope;
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

/* Global average pooling, in place. */
static inline void golf_mean(float *x, int channels, int area)
{
    for (int c = 0; c < channels; c++) {
        float sum = 0.0f;
        for (int i = 0; i < area; i++) {
            sum += x[c * area + i];
        }
        x[c] = sum / (float)area;
    }
}

static inline int golf_predict(const uint8_t image[784], float scores[10])
{
    GOLF_BUFFER float a[2352];
    GOLF_BUFFER float b[1728];
    int best = 0;
    for (int i = 0; i < 784; i++) {
        a[i] = (float)image[i] * 0.0127282329f + -0.424212933f;
    }
    /* conv1: 1x28x28 -> 3x28x28 */
    golf_pad(a, 1, 28, 28, 1, 1, b);
    golf_conv(b, 1, 30, 30, a, 3, 3, 3, 1, 1, 0, golf_conv1_weight, golf_conv1_bias);
    /* leaky_relu1: 3x28x28 -> 3x28x28 */
    golf_leaky_relu(a, 2352, 0.200000003f);
    /* max_pool1: 3x28x28 -> 3x14x14 */
    golf_max_pool(a, 3, 28, 28, 2, 2);
    /* depthwise1: 3x14x14 -> 3x14x14 */
    golf_pad(a, 3, 14, 14, 1, 1, b);
    golf_conv(b, 3, 16, 16, a, 3, 3, 3, 1, 1, 1, golf_depthwise1_weight, 0);
    /* pointwise1: 3x14x14 -> 6x14x14 */
    golf_conv(a, 3, 14, 14, b, 6, 1, 1, 1, 1, 0, golf_pointwise1_weight, golf_pointwise1_bias);
    /* leaky_relu2: 6x14x14 -> 6x14x14 */
    golf_leaky_relu(b, 1176, 0.200000003f);
    /* pointwise2: 6x14x14 -> 12x14x14 */
    golf_conv(b, 6, 14, 14, a, 12, 1, 1, 1, 1, 0, golf_pointwise2_weight, golf_pointwise2_bias);
    /* depthwise_7_0: 12x14x14 -> 12x12x12 */
    golf_conv(a, 12, 14, 14, b, 12, 3, 3, 1, 1, 1, golf_depthwise_7_0_weight, 0);
    /* pointwise_7_1: 12x12x12 -> 12x12x12 */
    golf_conv(b, 12, 12, 12, a, 12, 1, 1, 1, 1, 0, golf_pointwise_7_1_weight, golf_pointwise_7_1_bias);
    /* leaky_relu3: 12x12x12 -> 12x12x12 */
    golf_leaky_relu(a, 1728, 0.200000003f);
    /* depthwise_7_0: 12x12x12 -> 12x10x10 */
    golf_conv(a, 12, 12, 12, b, 12, 3, 3, 1, 1, 1, golf_depthwise_7_0_weight, 0);
    /* pointwise_7_1: 12x10x10 -> 12x10x10 */
    golf_conv(b, 12, 10, 10, a, 12, 1, 1, 1, 1, 0, golf_pointwise_7_1_weight, golf_pointwise_7_1_bias);
    /* leaky_relu4: 12x10x10 -> 12x10x10 */
    golf_leaky_relu(a, 1200, 0.200000003f);
    /* depthwise_7_0: 12x10x10 -> 12x8x8 */
    golf_conv(a, 12, 10, 10, b, 12, 3, 3, 1, 1, 1, golf_depthwise_7_0_weight, 0);
    /* pointwise_7_1: 12x8x8 -> 12x8x8 */
    golf_conv(b, 12, 8, 8, a, 12, 1, 1, 1, 1, 0, golf_pointwise_7_1_weight, golf_pointwise_7_1_bias);
    /* leaky_relu5: 12x8x8 -> 12x8x8 */
    golf_leaky_relu(a, 768, 0.200000003f);
    /* global_avg_pool1: 12x8x8 -> 12 */
    golf_mean(a, 12, 64);
    /* linear1: 12 -> 10 */
    golf_conv(a, 12, 1, 1, b, 10, 1, 1, 1, 1, 0, golf_linear1_weight, golf_linear1_bias);
    for (int i = 0; i < 10; i++) {
        scores[i] = b[i];
        best = scores[i] > scores[best] ? i : best;
    }
    return best;
}

#endif
