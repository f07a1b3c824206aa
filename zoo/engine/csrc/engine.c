/* Opening, running and closing an engine: memory and threads. */
#include "pass.h"

enum { SPIN = 4000 };

void wake(Engine *e) {
    if (atomic_load(&e->sleepers)) {
        mutex_lock(&e->lock);
        condition_broadcast(&e->changed);
        mutex_unlock(&e->lock);
    }
}

void await(Engine *e, atomic_int *value, int wanted, int unlike) {
    for (int i = 0; i < SPIN; i++) {
        if ((atomic_load(value) == wanted) != unlike) return;
        PAUSE();
    }
    mutex_lock(&e->lock);
    atomic_fetch_add(&e->sleepers, 1); /* before reading value, as wake reads it after value has changed */
    while ((atomic_load(value) == wanted) == unlike) condition_wait(&e->changed, &e->lock);
    atomic_fetch_sub(&e->sleepers, 1);
    mutex_unlock(&e->lock);
}

THREAD_FUNCTION serve(void *argument) {
    Worker *w = argument;
    Engine *e = w->engine;
    for (; await(e, &e->epoch, w->seen, 1), !atomic_load(&e->closing);) {
        w->seen = atomic_load(&e->epoch);
        forward(w);
        atomic_fetch_sub(&e->left, 1);
        wake(e);
    }
    return THREAD_RESULT;
}

/* Start the threads that do not run yet; the first worker is the thread that calls zoo_forward. */
static int start_threads(Engine *e) {
    for (; e->n_started < e->n_threads; e->n_started++) {
        Worker *w = &e->workers[e->n_started];
        w->seen = atomic_load(&e->epoch);
        if (e->n_started && thread_start(&w->thread, serve, w)) return -1;
    }
    return 0;
}

static void init_locks(Engine *e) {
    mutex_init(&e->pass), mutex_init(&e->lock);
    condition_init(&e->changed);
    atomic_store(&e->sleepers, 0);
    e->process = process_id();
}

/* Enter the engine: nobody else is in a pass afterwards. In the child of a fork the threads do not exist, and locks may be held
 * by threads that do not exist. */
static void enter(Engine *e) {
    if (e->process != process_id()) init_locks(e), e->n_started = 1;
    mutex_lock(&e->pass);
}

static void *floats(size_t n) {
    size_t bytes = round_up(4 * n + 64, 64);
    void *memory = aligned_new(bytes);
    if (memory) memset(memory, 0, bytes); /* padding must be zero */
    return memory;
}

static void free_memory(Engine *e) {
    for (int i = 0; e->workers && i < e->n_threads; i++) {
        Worker *w = &e->workers[i];
        aligned_free(w->activations), aligned_free(w->scratch), aligned_free(w->result);
    }
    free(e->workers), aligned_free(e->phases), free(e->segments);
    aligned_free(e->x), aligned_free(e->qkv), aligned_free(e->mixed), aligned_free(e->hidden), aligned_free(e->prepared);
}

/* The struct itself is kept for the life of the process, so that a thread that comes too late gets an error. */
void zoo_close(Engine *e) {
    if (!e) return;
    enter(e);
    if (!e->closed) {
        e->closed = 1;
        atomic_store(&e->closing, 1);
        atomic_fetch_add(&e->epoch, 1);
        wake(e);
        for (int i = 1; i < e->n_started; i++) thread_join(e->workers[i].thread);
        free_memory(e);
    }
    mutex_unlock(&e->pass);
}

/* Floats from one row of activations to the next: a multiple of 128 that is not one of 512, else rows compete for the same lines
 * of the L1 cache. */
static size_t leading(size_t cols) { return round_up(cols, 256) + (round_up(cols, 256) % 512 ? 0 : 256); }

static int allocate(Engine *e, size_t capacity) {
    size_t n = capacity, widest = e->ldi > e->ldc ? e->ldi : e->ldc, tall = n > 32 ? n : 32;
    int ok = (e->phases = aligned_new(e->n_phases * sizeof(Phase))) && (e->segments = calloc(n + 1, 4)) &&
             (e->workers = calloc(e->n_threads, sizeof(Worker))) && (e->x = floats(n * e->ldc)) && (e->mixed = floats(n * e->ldc)) &&
             (e->qkv = floats(n * 3 * e->model.width)) && (e->hidden = floats(n * e->ldi)) && (e->prepared = floats(n * widest));
    for (int i = 0; ok && i < e->n_threads; i++) {
        Worker *w = &e->workers[i];
        w->engine = e;
        ok = (w->activations = floats(MAX_PRIVATE * widest)) && (w->result = floats(tall * BLOCK_ROWS)) &&
             (w->scratch = floats(BLOCK_ROWS * (widest + MAX_STRIP * MAX_LANES)));
    }
    return ok;
}

Engine *zoo_open(const Model *model, int n_threads, int capacity, const char *isa) {
    const Kernels *kernels = find_kernels(isa);
    Engine *e = kernels ? calloc(1, sizeof *e) : NULL;
    if (!e) return NULL;
    e->model = *model, e->kernels = kernels, e->n_threads = n_threads;
    e->ldc = leading(model->width), e->ldi = leading(model->inner);
    e->n_phases = 9 * model->n_layers + 3;
    init_locks(e);
    if (allocate(e, capacity) && !start_threads(e)) return e;
    zoo_close(e);
    return NULL;
}

const char *zoo_isa(const Engine *e) { return e->kernels->name; }

int64_t zoo_abi(void) { return 1000000 * (int64_t)ZOO_ABI + (int64_t)(sizeof(Model) + sizeof(Layer) + sizeof(Tokens)); }

int zoo_rounds(const Engine *e) {
    int type = e->model.n_layers ? e->model.layers[0].qkv.type : F32;
    if (type == BF16) return e->kernels->product_bf16 ? ROUND_BF16 : 0;
    return (type == INT8 || type == INT4) && e->kernels->product8 ? ROUND_INT8 : 0;
}

int zoo_forward(Engine *e, const Tokens *tokens) {
    enter(e);
    int failed = e->closed || start_threads(e) ? -1 : 0;
    if (!failed) {
        e->tokens = *tokens;
        e->n_segments = 0;
        for (int i = 0; i < tokens->n; i++)
            if (!i || tokens->row[i] != tokens->row[i - 1]) e->segments[e->n_segments++] = i;
        e->segments[e->n_segments] = tokens->n;
        memset(e->phases, 0, e->n_phases * sizeof(Phase));
        atomic_store(&e->left, e->n_started - 1);
        atomic_fetch_add(&e->epoch, 1);
        wake(e);
        forward(&e->workers[0]);
        await(e, &e->left, 0, 0);
    }
    mutex_unlock(&e->pass);
    return failed;
}
