// Products of bfloat16 matrices, added up and stored in float32, by AVX512-BF16.
//
// A sum is taken over CHAIN numbers at a time from the first on, then added to those before. That
// order depends on the depth alone, so neither the block nor the number of threads changes a bit.
// The instruction takes subnormal numbers as 0 and makes none.
#ifdef __AVX512BF16__
#include <immintrin.h>

static const int ROWS = 8, PANEL = 3, CHAIN = 128, SLICE = 512;  // SLICE is a multiple of CHAIN
typedef uint32_t pairs[PANEL][SLICE / 2][LANES];

// 16 rows of the right matrix, pairs of numbers, turned: one pair of every row, then the next.
static inline void pack(
    const uint16_t *right, int64_t stride, int64_t count, uint32_t (*packed)[LANES]) {
    for (int64_t k = 0; k < count; k += LANES) {
        const __mmask16 inside = count - k < LANES ? (1 << (count - k)) - 1 : 0xffff;
        lanes x[LANES];
        for (int i = 0; i < LANES; i++)
            x[i] = (lanes)_mm512_maskz_loadu_epi32(inside, right + i * stride + 2 * k);
        transpose(x);
        for (int i = 0; i < LANES; i++) *(lanes *)packed[k + i] = x[i];
    }
}

// ROWS rows by WIDTH vectors of columns. The sums of a chain stay in registers.
template <int WIDTH> static inline void tile(
    const uint16_t *left, int64_t left_stride, const pairs packed, int64_t count, bool begins,
    float *out, int64_t stride) {
    for (int64_t from = 0; from < count; from += CHAIN / 2) {
        const int64_t to = from + CHAIN / 2 < count ? from + CHAIN / 2 : count;
        __m512 sum[ROWS][WIDTH] = {};
        for (int64_t k = from; k < to; k++) {
            __m512bh w[WIDTH];
            for (int v = 0; v < WIDTH; v++) w[v] = (__m512bh)_mm512_load_si512(packed[v][k]);
            for (int r = 0; r < ROWS; r++) {
                int32_t pair;
                __builtin_memcpy(&pair, left + r * left_stride + 2 * k, sizeof pair);
                const __m512bh h = (__m512bh)_mm512_set1_epi32(pair);
                for (int v = 0; v < WIDTH; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], h, w[v]);
            }
        }
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < WIDTH; v++) {
                lanes *at = (lanes *)(out + r * stride + v * LANES);
                *at = begins ? (lanes)sum[r][v] : *at + (lanes)sum[r][v];
            }
        begins = false;
    }
}

extern "C" int64_t unembed_has_bfloat16() { return __builtin_cpu_supports("avx512bf16") != 0; }

// out = left right^T for multiples of ROWS rows and LANES columns and an even depth. A slice of a
// panel of columns is packed into the first cache, and all rows pass over it.
extern "C" void unembed_bfloat16(
    const uint16_t *left, int64_t rows, int64_t left_stride, const uint16_t *right, int64_t columns,
    int64_t right_stride, int64_t depth, float *out, int64_t stride, int64_t threads) {
    const int64_t vectors = columns / LANES, panels = (vectors + PANEL - 1) / PANEL;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t p = 0; p < panels; p++) {
        alignas(64) pairs packed;
        const int64_t first = p * PANEL * LANES;
        const int64_t width = vectors - p * PANEL < PANEL ? vectors - p * PANEL : PANEL;
        for (int64_t k = 0; k < depth; k += SLICE) {
            const int64_t count = (depth - k < SLICE ? depth - k : SLICE) / 2;
            for (int64_t v = 0; v < width; v++)
                pack(right + (first + v * LANES) * right_stride + k, right_stride, count, packed[v]);
            const auto work = width == 3 ? tile<3> : width == 2 ? tile<2> : tile<1>;
            for (int64_t r = 0; r < rows; r += ROWS)
                work(left + r * left_stride + k, left_stride, packed, count, k == 0,
                     out + r * stride + first, stride);
        }
    }
}
#else
extern "C" int64_t unembed_has_bfloat16() { return 0; }
#endif
