// One pass over a block of logits while it is in the cache. See running.py for what is kept.
//
// Everything a row gets is computed in an order that depends on the row alone, 16 lanes wide on
// every machine, so neither the block's width nor the number of threads changes a bit of it.
#include <cstdint>

typedef float lanes __attribute__((vector_size(64), aligned(4)));
typedef int32_t whole __attribute__((vector_size(64), aligned(4)));

static const int LANES = 16, SEGMENT = 512, GROUP = 64;

static inline lanes spread(float x) { return x - lanes{}; }

// 2^x for x <= 0: exactly 0 below -126. The bits of x + 1.5 * 2^23 end in round(x), which goes into
// the exponent; the polynomial is the minimax one for 2^f on |f| <= 1/2, with p(0) = 1.
static inline lanes power_of_two(lanes x) {
    const lanes magic = spread(12582912.0f);
    lanes shifted = x + magic;
    lanes f = x - (shifted - magic);
    lanes p = spread(1.5353362e-4f);
    p = p * f + 1.3398874e-3f;
    p = p * f + 9.6184374e-3f;
    p = p * f + 5.5503325e-2f;
    p = p * f + 2.4022648e-1f;
    p = p * f + 6.9314720e-1f;
    p = p * f + 1.0f;
    whole bits = (whole)p + ((whole)shifted << 23);
    return (lanes)(bits & ~(whole)(x < -126.0f));
}

static inline float total(lanes x) {
    float pairs[8];
    for (int i = 0; i < 8; i++) pairs[i] = x[i] + x[i + 8];
    for (int half = 4; half; half /= 2)
        for (int i = 0; i < half; i++) pairs[i] += pairs[i + half];
    return pairs[0];
}

static inline float largest(lanes x) {
    float best = x[0];
    for (int i = 1; i < LANES; i++) best = x[i] > best ? x[i] : best;
    return best;
}

// Ids come in ascending order, so a later one takes a place only from a smaller logit.
static inline void keep(float value, int64_t id, int64_t k, float *values, int64_t *ids) {
    int64_t at = k - 1;
    for (; at > 0 && values[at - 1] < value; at--) {
        values[at] = values[at - 1];
        ids[at] = ids[at - 1];
    }
    values[at] = value;
    ids[at] = id;
}

extern "C" void unembed_update(
    const float *logits, int64_t rows, int64_t width, int64_t stride, int64_t start,
    const int64_t *targets, const float *threshold, int64_t k, float *values, int64_t *ids,
    int64_t *larger, float *seen, float *sums, int64_t plane, int64_t parts, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        const float *row = logits + r * stride;
        float *best = values + r * k;
        int64_t *best_ids = ids + r * k;
        float *out = sums + r * parts + start / SEGMENT;
        const lanes bar = spread(threshold[r]);
        whole above = {};
        if (targets[r] >= start && targets[r] < start + width) seen[r] = row[targets[r] - start];
        for (int64_t c = 0; c < width; c += SEGMENT) {
            lanes peak = spread(-__builtin_inff());
            for (int64_t g = c; g < c + SEGMENT; g += GROUP) {
                lanes high = spread(-__builtin_inff());
                for (int64_t i = g; i < g + GROUP; i += LANES) {
                    lanes x = *(const lanes *)(row + i);
                    above -= (whole)(x > bar);
                    high = x > high ? x : high;
                }
                peak = high > peak ? high : peak;
                whole hit = (whole)(high > spread(best[k - 1]));
                int32_t any = 0;
                for (int i = 0; i < LANES; i++) any |= hit[i];
                if (any)
                    for (int64_t i = g; i < g + GROUP; i++)
                        if (row[i] > best[k - 1]) keep(row[i], start + i, k, best, best_ids);
            }
            const float m = largest(peak);
            lanes z = {}, s = {}, q = {};
            for (int64_t i = c; i < c + SEGMENT; i += LANES) {
                lanes x = (*(const lanes *)(row + i) - m) * 1.44269504f;
                lanes e = power_of_two(x);
                z += e;
                s += x * e;
                q += e * e;
            }
            out[0] = m;
            out[plane] = total(z);
            out[2 * plane] = total(s);
            out[3 * plane] = total(q);
            out++;
        }
        int64_t count = 0;
        for (int i = 0; i < LANES; i++) count += above[i];
        larger[r] += count;
    }
}

// Two models' logits p and q less their bases: per segment the sums of p, q, p log(p/q),
// q log(q/p) and |p - q|, as probabilities. See divergence.py; log-probabilities end at `bottom`.
extern "C" void unembed_apart(
    const float *p, const float *q, int64_t rows, int64_t width, int64_t p_stride, int64_t q_stride,
    const float *p_base, const float *q_base, float bottom, float *sums, int64_t plane,
    int64_t parts, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        const lanes low = spread(bottom);
        for (int64_t c = 0; c < width; c += SEGMENT) {
            lanes a = {}, b = {}, forward = {}, backward = {}, apart = {};
            for (int64_t i = c; i < c + SEGMENT; i += LANES) {
                lanes x = *(const lanes *)(p + r * p_stride + i) - p_base[r];
                lanes y = *(const lanes *)(q + r * q_stride + i) - q_base[r];
                x = x < low ? low : x;
                y = y < low ? low : y;
                lanes d = x - y;
                lanes e = power_of_two(x * 1.44269504f), f = power_of_two(y * 1.44269504f);
                lanes g = e - f;
                a += e;
                b += f;
                forward += e * d;
                backward -= f * d;
                apart += g < 0.0f ? -g : g;
            }
            float *out = sums + r * parts + c / SEGMENT;
            out[0] = total(a);
            out[plane] = total(b);
            out[2 * plane] = total(forward);
            out[3 * plane] = total(backward);
            out[4 * plane] = total(apart);
        }
    }
}
