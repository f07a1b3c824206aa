/* Causal attention of one head over the cache, 16 positions at a time with a running maximum (online softmax). */
#pragma once

/* Online-softmax update over 16 scores, of which `count` are visible: rescale the accumulator if the maximum changes, and turn
 * the scores into weights. Not inline, so that one query and several are rounded alike. */
NOINLINE void softmax_update(float *scores, int count, float scale, float *largest, float *total, float *acc, int depth) {
    static const int32_t lanes[ROWS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    float most[ROWS], before = *largest;
    for (int i = 0; i < ROWS; i += LANES) {
        V score = load(scores + i) * scale;
        store(scores + i, score);
        store(most + i, select_v((W)(load_w(lanes + i) < count), score, set1(before)));
    }
    UNROLL for (int width = ROWS / 2; width; width /= 2)
        for (int i = 0; i < width; i++) most[i] = most[i] > most[i + width] ? most[i] : most[i + width];
    if (most[0] > before) {
        float kept = before == -INFINITY ? 0 : exp_v(set1(before - most[0]))[0];
        for (int i = 0; i < ROWS; i += LANES) store(total + i, load(total + i) * kept);
        for (int d = 0; d < depth; d += LANES) store(acc + d, load(acc + d) * kept);
        *largest = most[0];
    }
    for (int i = 0; i < ROWS; i += LANES) {
        V weight = select_v((W)(load_w(lanes + i) < count), exp_v(load(scores + i) - *largest), set1(0));
        store(scores + i, weight);
        store(total + i, load(total + i) + weight);
    }
}

INLINE V cached(const void *from, size_t at, int halved) {
    return halved ? load_f16((const uint16_t *)from + at) : load((const float *)from + at);
}

/* scores[j][0..16] = q[j] . keys of 16 positions. */
INLINE void score16(const float *q, size_t ldq, const void *keys, size_t block, int halved, int head, float scores[][ROWS], int Q) {
    V part[ATTEND_TOKENS][CHAINS][PARTS];
    int d = 0;
    UNROLL for (int j = 0; j < Q; j++)
        UNROLL for (int c = 0; c < CHAINS; c++) UNROLL for (int p = 0; p < PARTS; p++) part[j][c][p] = set1(0);
    for (; d + CHAINS <= head; d += CHAINS)
        UNROLL for (int c = 0; c < CHAINS; c++) {
            V key[PARTS];
            UNROLL for (int p = 0; p < PARTS; p++) key[p] = cached(keys, block + ROWS * (d + c) + LANES * p, halved);
            UNROLL for (int j = 0; j < Q; j++)
                UNROLL for (int p = 0; p < PARTS; p++) part[j][c][p] = fma_v(set1(q[j * ldq + d + c]), key[p], part[j][c][p]);
        }
    for (; d < head; d++)
        UNROLL for (int j = 0; j < Q; j++)
            UNROLL for (int p = 0; p < PARTS; p++)
                part[j][0][p] = fma_v(set1(q[j * ldq + d]), cached(keys, block + ROWS * d + LANES * p, halved), part[j][0][p]);
    UNROLL for (int j = 0; j < Q; j++)
        UNROLL for (int p = 0; p < PARTS; p++) {
            V total = part[j][0][p];
            if (CHAINS == 4) total = (total + part[j][1 % CHAINS][p]) + (part[j][2 % CHAINS][p] + part[j][3 % CHAINS][p]);
            store(scores[j] + LANES * p, total);
        }
}

/* acc[j] += the values of `count` positions, weighted. */
INLINE void add_values(float weight[][ROWS], const void *values, size_t block, int halved, int count, int depth, float *acc, int Q) {
    for (int d = 0; d < depth; d += ROWS) {
        V total[ATTEND_TOKENS][PARTS];
        UNROLL for (int j = 0; j < Q; j++)
            UNROLL for (int p = 0; p < PARTS; p++) total[j][p] = load(acc + j * depth + d + LANES * p);
        for (int i = 0; i < count; i++) {
            V value[PARTS];
            UNROLL for (int p = 0; p < PARTS; p++) value[p] = cached(values, block + (size_t)i * depth + d + LANES * p, halved);
            UNROLL for (int j = 0; j < Q; j++)
                UNROLL for (int p = 0; p < PARTS; p++) total[j][p] = fma_v(set1(weight[j][i]), value[p], total[j][p]);
        }
        UNROLL for (int j = 0; j < Q; j++)
            UNROLL for (int p = 0; p < PARTS; p++) store(acc + j * depth + d + LANES * p, total[j][p]);
    }
}

/* Attention of Q adjacent tokens (constant): the first sees `length` positions, each next one more. Keys are stored as (blocks of
 * 16 positions, channel, position), values as (position, channel), both padded to `depth` channels; float16 if `halved`
 * (constant). */
INLINE void attend_some(const float *q, size_t ldq, const void *keys, const void *values, int halved, int length, int head, int depth,
                        float *acc, float *out, size_t ldo, int Q) {
    float weight[ATTEND_TOKENS][ROWS], total[ATTEND_TOKENS][ROWS] = {{0}}, largest[ATTEND_TOKENS], scale = 1 / sqrtf((float)head);
    for (int j = 0; j < Q; j++) largest[j] = -INFINITY;
    memset(acc, 0, 4 * (size_t)Q * depth);
    for (int first = 0; first < length + Q - 1; first += ROWS) {
        size_t block = (size_t)first * depth;
        int seen = length - first, most = seen + Q - 1 < ROWS ? seen + Q - 1 : ROWS;
        score16(q, ldq, keys, block, halved, head, weight, Q);
        for (int j = 0; j < Q; j++) softmax_update(weight[j], seen + j, scale, &largest[j], total[j], acc + j * depth, depth);
        add_values(weight, values, block, halved, most, depth, acc, Q);
    }
    for (int j = 0; j < Q; j++) {
        V all = load(total[j]);
        for (int i = LANES; i < ROWS; i += LANES) all += load(total[j] + i);
        float inverse = 1 / sum(all);
        for (int d = 0; d < head; d++) out[j * ldo + d] = acc[j * depth + d] * inverse;
    }
}

static void attend(const float *q, size_t ldq, int n, const void *keys, const void *values, int halved, int length, int head, int depth,
                   float *acc, float *out, size_t ldo) {
    for (int i = 0, step; i < n; i += step, q += step * ldq, out += step * ldo, length += step) {
        step = n - i >= ATTEND_TOKENS ? ATTEND_TOKENS : 1;
#define ATTEND(HALVED, Q) attend_some(q, ldq, keys, values, HALVED, length, head, depth, acc, out, ldo, Q)
        if (halved && step > 1) ATTEND(1, ATTEND_TOKENS);
        else if (halved) ATTEND(1, 1);
        else if (step > 1) ATTEND(0, ATTEND_TOKENS);
        else ATTEND(0, 1);
#undef ATTEND
    }
}
