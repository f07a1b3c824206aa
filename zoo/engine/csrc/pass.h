/* The state of an engine, and how its threads share the work of a pass.
 *
 * A pass is a list of phases (a matrix product, the attention of a layer...), each of many small tasks. Every thread walks the list
 * and takes tasks from an atomic counter, so that a thread on a busy core takes fewer. A phase is over when its tasks are done,
 * whoever did them, so a thread that never woke up delays nobody. Waiting threads spin for some microseconds, then sleep. No
 * task writes what another of its phase reads. */
#pragma once

#include "kernels.h"

typedef struct { _Alignas(64) atomic_int next; _Alignas(64) atomic_int done; } Phase;

typedef struct {
    Engine *engine;
    Thread thread;
    int phase, layer, seen;                /* seen: the last epoch that this worker took part in */
    int prepared;                          /* the phase whose activations are in `activations` */
    float *activations, *scratch, *result; /* of this thread */
} Worker;

struct Engine {
    Model model;
    Tokens tokens;
    const Kernels *kernels;
    int n_threads, n_started, n_phases, n_segments, process, closed;
    size_t ldc, ldi; /* floats from one token to the next in x, mixed (width) and hidden (inner width) */
    float *x, *qkv, *mixed, *hidden, *prepared;
    int32_t *segments; /* the first token of each cache row, then the number of tokens */
    Phase *phases;
    Worker *workers;
    Mutex pass, lock; /* pass: held during a pass; lock: protects sleeping */
    Condition changed;
    atomic_int sleepers, epoch, left, closing;
};

enum { MAX_PRIVATE = 4 }; /* up to so many activations each thread prepares for itself */

/* The thread's part of a pass. */
void forward(Worker *w);

/* Wake the threads that sleep in await. */
void wake(Engine *e);
/* Wait until *value equals `wanted` (or, with `unlike`, no longer does). */
void await(Engine *e, atomic_int *value, int wanted, int unlike);
