/* The forward pass of GPT-2: the tasks of its phases. */
#include "pass.h"

typedef void Task(Worker *, int number, const void *argument);

static void phase(Worker *w, int n, Task *task, const void *argument) {
    Engine *e = w->engine;
    Phase *p = &e->phases[w->phase++];
    for (int i; (i = atomic_fetch_add(&p->next, 1)) < n;) {
        task(w, i, argument);
        if (atomic_fetch_add(&p->done, 1) + 1 == n) wake(e);
    }
    await(e, &p->done, n, 0);
}

static int is_packed(const Matrix *m) { return m->type == INT8 || m->type == INT4; }

/* The rows from `first` on; of a packed matrix, `first` is rounded down to a multiple of 16. */
static Rows rows_of(const Matrix *m, int first) {
    int groups = (m->cols + GROUP - 1) / GROUP, block = is_packed(m) ? first / ROWS : first;
    size_t size = m->type == F32 ? 4 : 2, stride = is_packed(m) ? (m->type == INT8 ? 512 : 256) * (size_t)groups : m->cols * size;
    const uint16_t *scales = m->group_scales ? m->group_scales + ROWS * (size_t)block * groups : NULL;
    return (Rows){(const char *)m->data + block * stride, scales, stride, groups, m->cols};
}

/* One weight of a packed matrix; int_kernels.h describes the layout. */
static float packed_weight(const Matrix *m, int row, int col) {
    Rows w = rows_of(m, row);
    int bits = m->type == INT8 ? 8 : 4, columns = 32 / bits, inside = col % columns;
    uint32_t word = ((const uint32_t *)w.data)[ROWS * (col / columns) + row % ROWS];
    int32_t number = (int32_t)(word << (32 - bits * (inside / 2 + 1) - 16 * (inside % 2))) >> (32 - bits);
    return number * (m->type == INT8 ? m->row_scales[row] : from_bf16(w.scales[ROWS * (col / GROUP) + row % ROWS]));
}

static void add_row(Engine *e, const Matrix *m, int row, float *scratch, float *x) {
    if (is_packed(m)) for (int i = 0; i < m->cols; i++) scratch[i] = packed_weight(m, row, i);
    else e->kernels->unpack(rows_of(m, row), m->type, scratch);
    for (int i = 0; i < m->cols; i++) x[i] += scratch[i];
}

static void embed(Worker *w, int t, const void *unused) {
    Engine *e = w->engine;
    float *x = e->x + t * e->ldc;
    (void)unused;
    memset(x, 0, 4 * e->ldc);
    add_row(e, &e->model.tokens, e->tokens.ids[t], w->scratch, x);
    add_row(e, &e->model.positions, e->tokens.position[t], w->scratch, x);
}

typedef struct {
    const Matrix *matrix;
    const Norm *norm; /* of the input, or NULL */
    const float *x;
    float *y;
    size_t ldx, ldy;
    int n;
    const int32_t *pick; /* indices into x; NULL: all */
    Epilogue then;
    int rows, rounded; /* rows of a task; how activations are rounded */
} LinearLayer;

static int is_prepared(const LinearLayer *l) { return l->norm || l->rounded || is_packed(l->matrix); }

/* One token's activations as the kernels take them: normed, then rounded to bfloat16, or as numbers and scales (at ldx / 2). */
static void prepare(Worker *w, const LinearLayer *l, int t, float *out) {
    const Engine *e = w->engine;
    const float *x = l->x + (l->pick ? l->pick[t] : t) * l->ldx;
    int cols = l->matrix->cols, padded = (int)round_up(cols, GROUP), type = l->matrix->type;
    if (l->norm) {
        float *normed = is_packed(l->matrix) || l->rounded ? w->scratch : out;
        e->kernels->norm(x, l->norm->weight, l->norm->bias, e->model.eps, cols, normed);
        memset(normed + cols, 0, 4 * (size_t)(padded - cols));
        x = normed;
    }
    if (l->rounded == ROUND_BF16) e->kernels->to_bf16(x, padded, (uint16_t *)out);
    else if (l->rounded == ROUND_INT8) e->kernels->quantize8(x, padded, type, (int8_t *)out, out + l->ldx / 2);
    else if (is_packed(l->matrix)) e->kernels->quantize16(x, padded, (int16_t *)out, out + l->ldx / 2);
}

static void prepare_shared(Worker *w, int t, const void *argument) {
    const LinearLayer *l = argument;
    prepare(w, l, t, w->engine->prepared + t * l->ldx);
}

static Product *product_of(const LinearLayer *l, const Kernels *kernels) {
    return l->rounded == ROUND_BF16 ? kernels->product_bf16 : l->rounded == ROUND_INT8 ? kernels->product8 : kernels->product;
}

/* Some rows of a matrix with all activations. */
static void multiply(Worker *w, int number, const void *argument) {
    const LinearLayer *l = argument;
    const Engine *e = w->engine;
    const Matrix *m = l->matrix;
    int first = number * l->rows, last = first + l->rows < m->rows ? first + l->rows : m->rows, count = last - first;
    const float *x = !is_prepared(l) ? l->x : l->n > MAX_PRIVATE ? e->prepared : w->activations;
    if (x == w->activations && w->prepared != w->phase) {
        for (int t = 0; t < l->n; t++) prepare(w, l, t, w->activations + t * l->ldx);
        w->prepared = w->phase;
    }
    size_t ld = round_up(count, ROWS);
    product_of(l, e->kernels)(rows_of(m, first), m->type, count, x, l->ldx, l->n, w->result, ld, w->scratch);
    const float *scales = m->type == INT8 ? m->row_scales + first : NULL, *bias = m->bias ? m->bias + first : NULL;
    for (int t = 0; t < l->n; t++)
        e->kernels->epilogue(w->result + t * ld, count, scales, bias, l->then, l->y + t * l->ldy + first);
}

static void linear(Worker *w, LinearLayer l) {
    const Matrix *m = l.matrix;
    const Kernels *kernels = w->engine->kernels;
    int asked = w->engine->tokens.rounded;
    if (asked & ROUND_BF16 && m->type == BF16 && kernels->product_bf16) l.rounded = ROUND_BF16;
    if (asked & ROUND_INT8 && is_packed(m) && kernels->product8) l.rounded = ROUND_INT8;
    if (l.n > MAX_PRIVATE && is_prepared(&l)) phase(w, l.n, prepare_shared, &l);
    size_t even = round_up(m->rows / (8 * w->engine->n_threads) + 1, ROWS);
    l.rows = l.n > 1 || l.rounded ? BLOCK_ROWS : even > 1024 ? 1024 : (int)even;
    phase(w, (m->rows + l.rows - 1) / l.rows, multiply, &l);
}

/* Write one token's key and value of one head into the cache; attention.h describes the layout. */
static void cache_token(Worker *w, const float *k, const float *v, void *keys, void *values, size_t at, int head, int depth) {
    const Engine *e = w->engine;
    size_t key = at / ROWS * depth * ROWS + at % ROWS;
    if (e->tokens.halved) {
        uint16_t *half = (uint16_t *)w->scratch;
        e->kernels->to_f16(k, depth, half);
        for (int d = 0; d < head; d++) ((uint16_t *)keys)[key + ROWS * d] = half[d];
        e->kernels->to_f16(v, depth, half);
        memcpy((uint16_t *)values + at * depth, half, 2 * (size_t)head);
    } else {
        for (int d = 0; d < head; d++) ((float *)keys)[key + ROWS * d] = k[d];
        memcpy((float *)values + at * depth, v, 4 * (size_t)head);
    }
}

/* One head of one cache row: its new keys and values go into the cache, then each new token attends. */
static void attention(Worker *w, int number, const void *unused) {
    Engine *e = w->engine;
    const Tokens *t = &e->tokens;
    int c = e->model.width, heads = e->model.n_heads, head = c / heads, h = number % heads, depth = (int)round_up(head, ROWS);
    int first = e->segments[number / heads], last = e->segments[number / heads + 1];
    size_t start = (t->halved ? 2 : 4) * (((size_t)w->layer * t->batch + t->row[first]) * heads + h) * t->room * depth;
    void *keys = (char *)t->keys + start, *values = (char *)t->values + start;
    (void)unused;
    for (int i = first; i < last; i++) {
        const float *k = e->qkv + (size_t)i * 3 * c + c + h * head;
        cache_token(w, k, k + c, keys, values, t->position[i], head, depth);
    }
    e->kernels->attend(e->qkv + (size_t)first * 3 * c + h * head, 3 * (size_t)c, last - first, keys, values, t->halved,
                       t->position[first] + 1, head, depth, w->scratch, e->mixed + first * e->ldc + h * head, e->ldc);
}

void forward(Worker *w) {
    Engine *e = w->engine;
    const Model *m = &e->model;
    int n = e->tokens.n;
    size_t c = e->ldc, i = e->ldi;
    w->phase = 0, w->prepared = -1;
    phase(w, n, embed, NULL);
    for (w->layer = 0; w->layer < m->n_layers; w->layer++) {
        const Layer *l = &m->layers[w->layer];
        linear(w, (LinearLayer){&l->qkv, &l->norm1, e->x, e->qkv, c, 3 * (size_t)m->width, n, NULL, STORE, 0, 0});
        phase(w, e->n_segments * m->n_heads, attention, NULL);
        linear(w, (LinearLayer){&l->out, NULL, e->mixed, e->x, c, c, n, NULL, ADD, 0, 0});
        linear(w, (LinearLayer){&l->up, &l->norm2, e->x, e->hidden, c, i, n, NULL, m->exact_gelu ? GELU_NONE : GELU_TANH, 0, 0});
        linear(w, (LinearLayer){&l->down, NULL, e->hidden, e->x, i, c, n, NULL, ADD, 0, 0});
    }
    if (e->tokens.n_wanted)
        linear(w, (LinearLayer){&m->head, &m->final_norm, e->x, e->tokens.logits, c, m->head.rows, e->tokens.n_wanted,
                                e->tokens.wanted, STORE, 0, 0});
}
