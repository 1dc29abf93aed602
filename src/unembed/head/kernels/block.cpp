// One pass over a block of logits while it is in the cache. See running.py for what is kept.
//
// Everything a row gets is computed in an order that depends on the row alone, 16 lanes wide on
// every machine, so neither the block's width nor the number of threads changes a bit of it.
#include <cstdint>
#include <utility>

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

// Log-probabilities of p, and logits that less `top` and less `base` are those of q: per segment the
// sums of p, q, p log(p/q) - p + q and min(p, q), and how many logits are above the bar. See
// eager.py, whose series this is.
extern "C" void unembed_beside(
    const float *log_p, const float *logits, int64_t rows, int64_t width, int64_t p_stride,
    int64_t q_stride, const float *top, const float *base, const float *bar, float *sums,
    int64_t plane, int64_t parts, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        const lanes t = spread(top[r]), b = spread(base[r]), high = spread(bar[r]);
        for (int64_t c = 0; c < width; c += SEGMENT) {
            lanes mass_p = {}, mass_q = {}, apart = {}, shared = {};
            whole above = {};
            for (int64_t i = c; i < c + SEGMENT; i += LANES) {
                const lanes x = *(const lanes *)(log_p + r * p_stride + i);
                const lanes l = *(const lanes *)(logits + r * q_stride + i);
                const lanes y = (l - t) - b, d = x - y;
                const lanes p = power_of_two(x * 1.44269504f), q = power_of_two(y * 1.44269504f);
                lanes near = spread(1.0f / 40320) * -d + 1.0f / 5040;
                near = near * -d + 1.0f / 720;
                near = near * -d + 1.0f / 120;
                near = near * -d + 1.0f / 24;
                near = near * -d + 1.0f / 6;
                near = near * -d + 1.0f / 2;
                mass_p += p;
                mass_q += q;
                apart += d > -0.5f && d < 0.5f ? near * d * d * p : p * (d - 1.0f) + q;
                shared += p < q ? p : q;
                above -= (whole)(l > high);
            }
            float *out = sums + r * parts + c / SEGMENT;
            int32_t count = 0;
            for (int i = 0; i < LANES; i++) count += above[i];
            out[0] = total(mass_p);
            out[plane] = total(mass_q);
            out[2 * plane] = total(apart);
            out[3 * plane] = total(shared);
            out[4 * plane] = count;
        }
    }
}

// Elements of a and b one after the other: of their first halves, or of their second ones.
template <int... I> static inline lanes interleave(lanes a, lanes b, int half,
                                                   std::integer_sequence<int, I...>) {
#ifdef __clang__
    return half ? __builtin_shufflevector(a, b, (8 + I / 2 + I % 2 * LANES)...)
                : __builtin_shufflevector(a, b, (I / 2 + I % 2 * LANES)...);
#else
    return half ? __builtin_shuffle(a, b, whole{(8 + I / 2 + I % 2 * LANES)...})
                : __builtin_shuffle(a, b, whole{(I / 2 + I % 2 * LANES)...});
#endif
}

// Each of the four rounds turns the numbers' places, (row, lane) as eight bits, by one bit.
static inline void transpose(lanes *x) {
    const auto lane = std::make_integer_sequence<int, LANES>{};
    for (int round = 0; round < 4; round++) {
        lanes y[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            y[2 * i] = interleave(x[i], x[i + LANES / 2], 0, lane);
            y[2 * i + 1] = interleave(x[i], x[i + LANES / 2], 1, lane);
        }
        for (int i = 0; i < LANES; i++) x[i] = y[i];
    }
}

static inline void fetch(const float *at) { __builtin_prefetch(at, 1, 2); }

// Count-sketches of exp(logit - reference), of 16 rows at a time, whose numbers for one bucket lie
// side by side: then an addition to a bucket is one of vectors. A table's entry is the bucket, and
// its top bit the sign. See features.py for what is kept of a row.
//
// The sums of all rows do not fit into the cache. While a group is worked on, those of the next are
// fetched in their order, and the logits too: an addition then waits for the cache, not for memory.
template <int MAPS> static void scatter(
    const float *logits, int64_t rows, int64_t width, int64_t stride, int64_t start,
    const int64_t *targets, const int32_t *tables, int64_t plane, float *sums, int64_t buckets,
    float rise, float *reference, float *own, double *rest, double *squares, int64_t threads) {
    const int64_t groups = rows / LANES, size = MAPS * buckets * LANES, tiles = width / LANES;
    const int64_t ahead = (size / LANES + tiles - 1) / tiles * LANES;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t g = 0; g < groups; g++) {
        const float *top = logits + g * LANES * stride;
        float *sum = sums + g * size, *high = reference + g * LANES;
        const int64_t *target = targets + g * LANES;
        double *z = rest + g * LANES, *q = squares + g * LANES;
        for (int64_t s = 0; s < width; s += SEGMENT) {
            lanes shrink = spread(1.0f);
            bool rises = false, held = false, targeted = false;
            for (int r = 0; r < LANES; r++) {
                targeted |= target[r] >= start + s && target[r] < start + s + SEGMENT;
                lanes peak = spread(-__builtin_inff());
                for (int64_t i = s; i < s + SEGMENT; i += LANES) {
                    lanes x = *(const lanes *)(top + r * stride + i);
                    peak = x > peak ? x : peak;
                }
                const float m = largest(peak);
                if (!(m > high[r] + rise)) continue;
                shrink[r] = power_of_two(spread((high[r] - m) * 1.44269504f))[0];
                rises = true;
                held |= z[r] > 0;
                high[r] = m;
                own[g * LANES + r] *= shrink[r];
                z[r] *= shrink[r];
                q[r] *= (double)shrink[r] * shrink[r];
            }
            if (rises && held)
                for (int64_t i = 0; i < size; i += LANES) *(lanes *)(sum + i) *= shrink;
            const lanes base = *(const lanes *)high;
            // The next segment of these rows, or the first of the next rows.
            const float *next = s + SEGMENT < width ? top + s + SEGMENT : top + LANES * stride;
            const bool more = s + SEGMENT < width || g + 1 < groups;
            lanes total_e = {}, total_ee = {};
            for (int64_t c = s; c < s + SEGMENT; c += LANES) {
                lanes e[LANES];
                for (int r = 0; r < LANES; r++) {
                    e[r] = *(const lanes *)(top + r * stride + c);
                    if (more) fetch(next + r * stride + (c - s));
                }
                if (g + 1 < groups) {
                    const int64_t from = c / LANES * ahead;
                    for (int64_t i = from; i < from + ahead && i < size; i += LANES)
                        fetch(sum + size + i);
                }
                transpose(e);
                for (int j = 0; j < LANES; j++)
                    e[j] = power_of_two((e[j] - base) * 1.44269504f);
                for (int r = 0; targeted && r < LANES; r++) {
                    const int64_t j = target[r] - start - c;
                    if (j < 0 || j >= LANES) continue;
                    own[g * LANES + r] = e[j][r];
                    e[j][r] = 0;
                }
                lanes sum_e = {}, sum_ee = {};
                const int32_t *entry = tables + start + c;
                for (int j = 0; j < LANES; j++) {
                    sum_e += e[j];
                    sum_ee += e[j] * e[j];
                    for (int k = 0; k < MAPS; k++) {
                        const int32_t t = entry[k * plane + j];
                        const whole sign = (whole{} + t) & (whole{} + INT32_MIN);
                        const int64_t bucket = k * buckets + (t & INT32_MAX);
                        *(lanes *)(sum + bucket * LANES) += (lanes)((whole)e[j] ^ sign);
                    }
                }
                total_e += sum_e;
                total_ee += sum_ee;
            }
            for (int r = 0; r < LANES; r++) {
                z[r] += total_e[r];
                q[r] += total_ee[r];
            }
        }
    }
}

extern "C" void unembed_scatter(
    const float *logits, int64_t rows, int64_t width, int64_t stride, int64_t start,
    const int64_t *targets, const int32_t *tables, int64_t maps, int64_t plane, float *sums,
    int64_t buckets, float rise, float *reference, float *own, double *rest, double *squares,
    int64_t threads) {
    (maps == 2 ? scatter<2> : scatter<3>)(
        logits, rows, width, stride, start, targets, tables, plane, sums, buckets, rise, reference,
        own, rest, squares, threads);
}
