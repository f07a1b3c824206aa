/* What differs between compilers and operating systems: attributes, aligned memory and threads. */
#pragma once

#include <stdatomic.h>
#include <stdlib.h>

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#define PAUSE() _mm_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <malloc.h>
#include <process.h>
#include <windows.h>
typedef SRWLOCK Mutex;
typedef CONDITION_VARIABLE Condition;
typedef HANDLE Thread;
#define THREAD_FUNCTION static DWORD WINAPI
#define THREAD_RESULT 0
static inline void mutex_init(Mutex *m) { InitializeSRWLock(m); }
static inline void mutex_lock(Mutex *m) { AcquireSRWLockExclusive(m); }
static inline void mutex_unlock(Mutex *m) { ReleaseSRWLockExclusive(m); }
static inline void condition_init(Condition *c) { InitializeConditionVariable(c); }
static inline void condition_wait(Condition *c, Mutex *m) { SleepConditionVariableSRW(c, m, INFINITE, 0); }
static inline void condition_broadcast(Condition *c) { WakeAllConditionVariable(c); }
static inline int thread_start(Thread *t, LPTHREAD_START_ROUTINE run, void *argument) {
    return (*t = CreateThread(NULL, 0, run, argument, 0, NULL)) ? 0 : -1;
}
static inline void thread_join(Thread t) { WaitForSingleObject(t, INFINITE), CloseHandle(t); }
static inline int process_id(void) { return _getpid(); }
static inline void *aligned_new(size_t bytes) { return _aligned_malloc(bytes, 64); }
static inline void aligned_free(void *p) { _aligned_free(p); }
#else
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
typedef pthread_mutex_t Mutex;
typedef pthread_cond_t Condition;
typedef pthread_t Thread;
#define THREAD_FUNCTION static void *
#define THREAD_RESULT NULL
static inline void mutex_init(Mutex *m) { pthread_mutex_init(m, NULL); }
static inline void mutex_lock(Mutex *m) { pthread_mutex_lock(m); }
static inline void mutex_unlock(Mutex *m) { pthread_mutex_unlock(m); }
static inline void condition_init(Condition *c) { pthread_cond_init(c, NULL); }
static inline void condition_wait(Condition *c, Mutex *m) { pthread_cond_wait(c, m); }
static inline void condition_broadcast(Condition *c) { pthread_cond_broadcast(c); }
/* Start a thread with all signals blocked: they are for the threads of the program. */
static inline int thread_start(Thread *t, void *(*run)(void *), void *argument) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(t, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}
static inline void thread_join(Thread t) { pthread_join(t, NULL); }
static inline int process_id(void) { return (int)getpid(); }
static inline void *aligned_new(size_t bytes) { return aligned_alloc(64, bytes); }
static inline void aligned_free(void *p) { free(p); }
#endif
