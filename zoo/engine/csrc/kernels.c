/* The decode engine: GPT-2 for a few new tokens at a time over a cache of keys and values.
 *
 * A forward pass is a list of phases (a matrix product, the attention of a layer...), each of many small tasks. Every thread
 * walks the list and takes tasks from an atomic counter, so that a core that is busy with something else takes fewer; a phase
 * is over when its tasks are done, whoever did them, so that a thread which never woke up holds nobody back. Waiting threads
 * spin for some microseconds, then sleep. No task writes what another of its phase reads. Vector code is in tile.h, whole.h
 * and bf16.h. */

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#define PAUSE() _mm_pause()
#else
#define PAUSE() ((void)0)
#endif

#define ALWAYS __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
enum { F32, BF16, F16, INT8, INT4 };
enum { SPIN = 4000, MAX_PRIVATE = 4, BLOCK_ROWS = 32, MANY = 18, FIRST_CACHE = 38000 };
/* Weights are fetched 16 KB in advance, into the second cache: rows are too short for the processor to see where they lead. */
#define FETCH(p) __builtin_prefetch((p) + 16384, 0, 2)

/* A linear layer or an embedding; the Python side (zoo/engine/native.py) has the same struct. */
typedef struct {
    const void *data;             /* row after row; INT8 and INT4 as whole.h says */
    const uint16_t *group_scales; /* INT4: bfloat16, of each 16 rows and 32 columns one for each row */
    const float *row_scales;      /* INT8: one for each row */
    const float *bias;            /* or NULL */
    int32_t rows, cols, type, padding;
} Matrix;

typedef struct { const float *weight, *bias; } Norm;
typedef struct { Norm norm1, norm2; Matrix qkv, out, up, down; } Layer;
typedef struct {
    Matrix tokens, positions, head;
    Norm final_norm;
    const Layer *layers;
    int32_t n_layers, n_heads, width, inner, exact_gelu;
    float eps;
} Model;

/* New tokens: `row` says whose cache each goes on with, `position` where. Tokens of one row are neighbours, in order. */
typedef struct {
    const int32_t *ids, *row, *position, *wanted; /* wanted: the tokens whose logits are asked for */
    void *keys, *values;                          /* caches (L, B, H, room, depth), float32 or, if `halved`, float16 */
    float *logits;                                /* (n_wanted, V) */
    int32_t n, n_wanted, batch, room, halved, rounded; /* rounded: activations may be bfloat16 where the weights are */
} Tokens;

/* What becomes of a product; the two forms of GELU are those of torch's `approximate`. */
typedef enum { STORE, ADD, GELU_TANH, GELU_NONE } Then;

/* Rows of a matrix; of INT8 and INT4 stride and groups (of 32 columns) are those of 16 rows that lie together. */
typedef struct { const char *data; const uint16_t *scales; size_t stride; int groups, cols; } Rows;
typedef struct {
    void (*product)(Rows, int type, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, float *scratch);
    void (*unpack)(Rows, int type, float *out); /* not of INT8 and INT4 */
    void (*finish)(float *v, int n, const float *scales, const float *bias, Then then, float *y);
    void (*norm)(const float *x, const float *weight, const float *bias, float eps, int n, float *out);
    void (*attend)(const float *q, size_t ldq, int n, const void *keys, const void *values, int halved, int length, int head,
                   int depth, float *acc, float *out, size_t ldo);
    void (*halve)(const float *x, int n, uint16_t *out);
    void (*quantise)(const float *x, int n, int16_t *numbers, float *scales);
    void (*round)(const float *x, int n, uint16_t *out); /* this and the next may be NULL */
    void (*rounded_product)(Rows, int type, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, float *scratch);
} Kernels;

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
static size_t larger(size_t a, size_t b) { return a > b ? a : b; }
static inline float from_bf16(uint16_t bits) {
    union { uint32_t bits; float value; } both = {(uint32_t)bits << 16};
    return both.value;
}
static inline float from_half(uint16_t bits) {
    union { uint32_t bits; float value; } both = {(uint32_t)(bits & 0x7fff) << 13};
    return (bits & 0x8000 ? -both.value : both.value) * 0x1p112f;
}

#define JOIN(a, b) a##_##b
#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,prefer-vector-width=512")
#define TILE_AVX512
#define ISA(name) JOIN(name, avx512)
#include "tile.h"
#undef ISA
#undef TILE_AVX512
#pragma GCC pop_options
#if __GNUC__ >= 10 || __clang_major__ >= 9
#define HAS_BF16
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,avx2,fma,f16c,prefer-vector-width=512")
#define TILE_AVX512
#define TILE_BF16
#define ISA(name) JOIN(name, bf16)
#include "tile.h"
#undef ISA
#undef TILE_BF16
#undef TILE_AVX512
#pragma GCC pop_options
#endif
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define TILE_AVX2
#define ISA(name) JOIN(name, avx2)
#include "tile.h"
#undef ISA
#undef TILE_AVX2
#pragma GCC pop_options
#endif
#define ISA(name) JOIN(name, generic) /* on ARM the compiler makes NEON of it */
#include "tile.h"

static const Kernels *choose(const char *name) {
#if defined(__x86_64__)
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    int avx512 = avx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#ifdef HAS_BF16
    int bf16 = avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
    if (bf16 && (!*name || !strcmp(name, "avx512bf16"))) return &kernels_bf16;
#endif
    if (avx512 && (!*name || !strcmp(name, "avx512"))) return &kernels_avx512;
    if (avx2 && (!*name || !strcmp(name, "avx2"))) return &kernels_avx2;
#endif
    return !*name || !strcmp(name, "generic") ? &kernels_generic : NULL;
}

/* ---- Threads ---- */

typedef struct { _Alignas(64) atomic_int next; _Alignas(64) atomic_int done; } Phase;
struct Engine;
typedef struct { struct Engine *engine; pthread_t thread; int phase, layer, prepared; float *own_rows, *scratch, *temporary; } Worker;
typedef struct Engine {
    Model model;
    Tokens tokens;
    const Kernels *kernels;
    int n_threads, n_workers, n_phases, capacity, n_segments;
    size_t ldc, ldi;
    float *x, *qkv, *mixed, *hidden, *prepared;
    int32_t *segments;
    Phase *phases;
    Worker *workers;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_int sleepers, epoch, left, closing;
} Engine;

static void wake(Engine *e) {
    if (atomic_load(&e->sleepers)) {
        pthread_mutex_lock(&e->lock);
        pthread_cond_broadcast(&e->changed);
        pthread_mutex_unlock(&e->lock);
    }
}

/* Wait until *value is `wanted` (or, with `unlike`, no longer is). */
static void await(Engine *e, atomic_int *value, int wanted, int unlike) {
    for (int i = 0; i < SPIN; i++) {
        if ((atomic_load(value) == wanted) != unlike) return;
        PAUSE();
    }
    pthread_mutex_lock(&e->lock);
    atomic_fetch_add(&e->sleepers, 1); /* before the look at value, as wake looks after its change */
    while ((atomic_load(value) == wanted) == unlike) pthread_cond_wait(&e->changed, &e->lock);
    atomic_fetch_sub(&e->sleepers, 1);
    pthread_mutex_unlock(&e->lock);
}

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

/* ---- Tasks ---- */

static int is_packed(const Matrix *m) { return m->type == INT8 || m->type == INT4; }

/* The rows from `first` on, of a packed matrix a multiple of 16. */
static Rows rows_of(const Matrix *m, int first) {
    int groups = (m->cols + 31) / 32;
    size_t size = m->type == F32 ? 4 : 2, stride = is_packed(m) ? (m->type == INT8 ? 512 : 256) * (size_t)groups : m->cols * size;
    int block = is_packed(m) ? first / 16 : first;
    return (Rows){(const char *)m->data + block * stride, m->group_scales + 16 * (size_t)block * groups, stride, groups, m->cols};
}

/* A number of a packed matrix, by the layout in whole.h. */
static float packed(const Matrix *m, int row, int col) {
    Rows w = rows_of(m, row);
    int bits = m->type == INT8 ? 8 : 4, columns = 32 / bits, inside = col % columns;
    uint32_t word = ((const uint32_t *)w.data)[16 * (col / columns) + row % 16];
    int32_t number = (int32_t)(word << (32 - bits * (inside / 2 + 1) - 16 * (inside % 2))) >> (32 - bits);
    return number * (m->type == INT8 ? m->row_scales[row] : from_bf16(w.scales[16 * (col / 32) + row % 16]));
}

static void add_row(Engine *e, const Matrix *m, int row, float *scratch, float *x) {
    if (is_packed(m)) for (int i = 0; i < m->cols; i++) scratch[i] = packed(m, row, i);
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
    const Norm *norm; /* or NULL */
    const float *x;
    float *y;
    size_t ldx, ldy;
    int n;
    const int32_t *pick; /* which of x; NULL: all */
    Then then;
    int rows, rounded; /* of a task; whether activations are bfloat16 */
} Product;

/* One token's activations as a product wants them: normed, rounded to bfloat16, or as numbers and scales. */
static void prepare(Worker *w, const Product *p, int t, float *out) {
    const Engine *e = w->engine;
    const float *x = p->x + (p->pick ? p->pick[t] : t) * p->ldx;
    int cols = p->matrix->cols, packed = is_packed(p->matrix), padded = (int)round_up(cols, 32);
    if (p->norm) {
        float *normed = packed || p->rounded ? w->scratch : out;
        e->kernels->norm(x, p->norm->weight, p->norm->bias, e->model.eps, cols, normed);
        memset(normed + cols, 0, 4 * (size_t)(padded - cols));
        x = normed;
    }
    if (packed) e->kernels->quantise(x, padded, (int16_t *)out, out + p->ldx / 2);
    else if (p->rounded) e->kernels->round(x, padded, (uint16_t *)out);
}

static void prepare_shared(Worker *w, int t, const void *argument) {
    const Product *p = argument;
    prepare(w, p, t, w->engine->prepared + t * p->ldx);
}

/* Some rows of a matrix with all activations, of which each thread prepares few for itself. */
static void multiply(Worker *w, int number, const void *argument) {
    const Product *p = argument;
    const Engine *e = w->engine;
    const Matrix *m = p->matrix;
    int first = number * p->rows, last = first + p->rows < m->rows ? first + p->rows : m->rows, count = last - first;
    int prepared = p->norm || p->rounded || is_packed(m);
    const float *x = !prepared ? p->x : p->n > MAX_PRIVATE ? e->prepared : w->own_rows;
    if (x == w->own_rows && w->prepared != w->phase) {
        for (int t = 0; t < p->n; t++) prepare(w, p, t, w->own_rows + t * p->ldx);
        w->prepared = w->phase;
    }
    size_t ld = round_up(count, 16);
    (p->rounded ? e->kernels->rounded_product : e->kernels->product)(rows_of(m, first), m->type, count, x, p->ldx, p->n, w->temporary, ld,
                                                                     w->scratch);
    const float *scales = m->type == INT8 ? m->row_scales + first : NULL, *bias = m->bias ? m->bias + first : NULL;
    for (int t = 0; t < p->n; t++)
        e->kernels->finish(w->temporary + t * ld, count, scales, bias, p->then, p->y + t * p->ldy + first);
}

static void run_product(Worker *w, Product p) {
    const Matrix *m = p.matrix;
    p.rounded = w->engine->tokens.rounded && w->engine->kernels->round && m->type == BF16;
    if (p.n > MAX_PRIVATE && (p.norm || p.rounded || is_packed(m))) phase(w, p.n, prepare_shared, &p);
    size_t even = round_up(m->rows / (8 * w->engine->n_threads) + 1, 16);
    p.rows = p.n > 1 || p.rounded ? BLOCK_ROWS : even > 1024 ? 1024 : (int)even;
    phase(w, (m->rows + p.rows - 1) / p.rows, multiply, &p);
}

/* One head of one row: its new keys and values go into the cache, then each new token looks back. */
static void attention(Worker *w, int number, const void *unused) {
    Engine *e = w->engine;
    const Tokens *t = &e->tokens;
    int c = e->model.width, heads = e->model.n_heads, head = c / heads, h = number % heads, depth = (int)round_up(head, 16);
    int first = e->segments[number / heads], last = e->segments[number / heads + 1];
    size_t place = (((size_t)w->layer * t->batch + t->row[first]) * heads + h) * t->room * depth;
    void *keys = (char *)t->keys + (t->halved ? 2 : 4) * place, *values = (char *)t->values + (t->halved ? 2 : 4) * place;
    (void)unused;
    for (int i = first; i < last; i++) {
        const float *k = e->qkv + (size_t)i * 3 * c + c + h * head, *v = k + c;
        size_t at = t->position[i], key = at / 16 * depth * 16 + at % 16;
        if (t->halved) {
            uint16_t *half = (uint16_t *)w->scratch;
            e->kernels->halve(k, depth, half);
            for (int d = 0; d < head; d++) ((uint16_t *)keys)[key + 16 * d] = half[d];
            e->kernels->halve(v, depth, half);
            memcpy((uint16_t *)values + at * depth, half, 2 * (size_t)head);
        } else {
            for (int d = 0; d < head; d++) ((float *)keys)[key + 16 * d] = k[d];
            memcpy((float *)values + at * depth, v, 4 * (size_t)head);
        }
    }
    e->kernels->attend(e->qkv + (size_t)first * 3 * c + h * head, 3 * (size_t)c, last - first, keys, values, t->halved,
                       t->position[first] + 1, head, depth, w->scratch, e->mixed + first * e->ldc + h * head, e->ldc);
}

static void forward(Worker *w) {
    Engine *e = w->engine;
    const Model *m = &e->model;
    int n = e->tokens.n;
    size_t c = e->ldc, i = e->ldi;
    w->phase = 0, w->prepared = -1;
    phase(w, n, embed, NULL);
    for (w->layer = 0; w->layer < m->n_layers; w->layer++) {
        const Layer *l = &m->layers[w->layer];
        run_product(w, (Product){&l->qkv, &l->norm1, e->x, e->qkv, c, 3 * (size_t)m->width, n, NULL, STORE});
        phase(w, e->n_segments * m->n_heads, attention, NULL);
        run_product(w, (Product){&l->out, NULL, e->mixed, e->x, c, c, n, NULL, ADD});
        run_product(w, (Product){&l->up, &l->norm2, e->x, e->hidden, c, i, n, NULL, m->exact_gelu ? GELU_NONE : GELU_TANH});
        run_product(w, (Product){&l->down, NULL, e->hidden, e->x, i, c, n, NULL, ADD});
    }
    if (e->tokens.n_wanted)
        run_product(w, (Product){&m->head, &m->final_norm, e->x, e->tokens.logits, c, m->head.rows, e->tokens.n_wanted,
                                 e->tokens.wanted, STORE});
}

/* ---- What Python calls ---- */

static void *serve(void *argument) {
    Worker *w = argument;
    Engine *e = w->engine;
    for (int seen = 0; await(e, &e->epoch, seen, 1), !atomic_load(&e->closing);) {
        seen = atomic_load(&e->epoch);
        forward(w);
        atomic_fetch_sub(&e->left, 1);
        wake(e);
    }
    return NULL;
}

static void *floats(size_t n) {
    void *memory = aligned_alloc(64, round_up(4 * n + 64, 64));
    if (memory) memset(memory, 0, 4 * n + 64); /* padding must be zero */
    return memory;
}

void zoo_close(Engine *e) {
    if (!e) return;
    atomic_store(&e->closing, 1);
    atomic_fetch_add(&e->epoch, 1);
    wake(e);
    for (int i = 0; i < e->n_workers; i++) {
        Worker *w = &e->workers[i];
        if (i) pthread_join(w->thread, NULL);
        free(w->own_rows), free(w->scratch), free(w->temporary);
    }
    free(e->workers), free(e->phases), free(e->segments);
    free(e->x), free(e->qkv), free(e->mixed), free(e->hidden), free(e->prepared);
    free(e);
}

/* Prepare for up to `capacity` tokens a pass; the model's arrays must outlive it. NULL: no memory, or no such isa here. */
Engine *zoo_open(const Model *model, int n_threads, int capacity, const char *isa) {
    const Kernels *kernels = choose(isa);
    Engine *e = kernels ? calloc(1, sizeof *e) : NULL;
    if (!e) return NULL;
    e->model = *model, e->kernels = kernels, e->n_threads = n_threads, e->capacity = capacity;
    e->ldc = round_up(model->width, 128), e->ldi = round_up(model->inner, 128);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->changed, NULL);
    e->n_phases = 9 * model->n_layers + 3;
    size_t n = capacity, widest = larger(e->ldi, e->ldc);
    int ok = (e->phases = aligned_alloc(64, e->n_phases * sizeof(Phase))) && (e->segments = calloc(n + 1, 4)) &&
             (e->workers = calloc(n_threads, sizeof(Worker))) && (e->x = floats(n * e->ldc)) && (e->mixed = floats(n * e->ldc)) &&
             (e->qkv = floats(n * 3 * model->width)) && (e->hidden = floats(n * e->ldi)) && (e->prepared = floats(n * widest));
    for (int i = 0; ok && i < n_threads; i++) {
        Worker *w = &e->workers[i];
        w->engine = e, e->n_workers = i + 1;
        ok = (w->own_rows = floats(MAX_PRIVATE * widest)) && (w->scratch = floats(BLOCK_ROWS * widest)) &&
             (w->temporary = floats(larger(n * BLOCK_ROWS, 1024)));
        if (ok && i && pthread_create(&w->thread, NULL, serve, w)) ok = 0, e->n_workers = i;
    }
    if (ok) return e;
    zoo_close(e);
    return NULL;
}

/* Whether prompts gain from rounded activations: the processor multiplies bfloat16, and the weights are of it. */
int zoo_rounds(const Engine *e) {
    int type = e->model.n_layers ? e->model.layers[0].qkv.type : F32;
    return e->kernels->round && type == BF16;
}

/* One pass. The Python side has checked every id, row, position and length. */
void zoo_forward(Engine *e, const Tokens *tokens) {
    e->tokens = *tokens;
    e->n_segments = 0;
    for (int i = 0; i < tokens->n; i++)
        if (!i || tokens->row[i] != tokens->row[i - 1]) e->segments[e->n_segments++] = i;
    e->segments[e->n_segments] = tokens->n;
    memset(e->phases, 0, e->n_phases * sizeof(Phase));
    atomic_store(&e->left, e->n_workers - 1);
    atomic_fetch_add(&e->epoch, 1);
    wake(e);
    forward(&e->workers[0]);
    await(e, &e->left, 0, 0);
}
