/* The threads of a grid as coroutines in random order. */
#include <stdio.h>
#include <sys/mman.h>

#include "tests/cuda_on_cpu/cuda_on_cpu.h"
#include "tests/cuda_on_cpu/cuda_runtime.h"
#include "tests/cuda_on_cpu/memory.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

struct uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

enum {
    MAX_BLOCK = 1024,
    MAX_RESIDENT = 3,
    MAX_THREADS = MAX_RESIDENT * MAX_BLOCK,
    STACK_BYTES = 1 << 16,
    SHARED_BYTES = 227 << 10, /* of sm_90 */
};

/* ---- stacks ------------------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
/* What a call must keep lies on the stack that is left; the rest is the stack pointer. */
struct context {
    void *stack_pointer;
};

extern "C" void cuda_on_cpu_switch(struct context *from, const struct context *to);
__asm__(".text\n"
        ".type cuda_on_cpu_switch, @function\n"
        ".globl cuda_on_cpu_switch\n"
        "cuda_on_cpu_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq (%rsi), %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n"
        ".size cuda_on_cpu_switch, .-cuda_on_cpu_switch\n");

static void context_make(struct context *c, char *stack, size_t n_bytes, void (*entry)(void)) {
    void **top = (void **)((uintptr_t)(stack + n_bytes) & ~(uintptr_t)15);
    *--top = NULL;          /* alignment, and an end for debuggers */
    *--top = (void *)entry; /* popped by ret */
    top -= 6;
    memset(top, 0, 6 * sizeof *top);
    c->stack_pointer = top;
}
#else
struct context {
    ucontext_t saved;
};

static void cuda_on_cpu_switch(struct context *from, const struct context *to) {
    swapcontext(&from->saved, &to->saved);
}

static void context_make(struct context *c, char *stack, size_t n_bytes, void (*entry)(void)) {
    getcontext(&c->saved);
    c->saved.uc_stack.ss_sp = stack;
    c->saved.uc_stack.ss_size = n_bytes;
    c->saved.uc_link = NULL;
    makecontext(&c->saved, entry, 0);
}
#endif

/* ---- threads, warps, blocks --------------------------------------------------------------------------------------- */

enum state { READY, AT_BARRIER, AT_WARP, DONE };

struct place {
    const char *file;
    int line;
};

struct thread {
    struct context context; /* where it was left */
    struct uint3 index;
    int number;   /* in the block */
    int stack;    /* -1: not begun */
    struct block *block;
    enum state state;
    struct place place; /* where it waits */
    void *fake_stack;   /* AddressSanitizer's */
};

struct warp {
    uint64_t slot[2][warpSize]; /* one exchange may begin while the last one is still read */
    int n_lanes, n_arrived, turn;
};

struct block {
    struct uint3 index;
    int n_threads, n_waiting, n_done;
    struct thread *threads;
    struct warp warps[MAX_BLOCK / warpSize];
    unsigned char *shared;       /* dynamic */
    unsigned char *shared_static; /* content of the section while another block runs */
};

static struct grid {
    struct block blocks[MAX_RESIDENT];
    struct thread threads[MAX_THREADS];
    char *stacks;
    int free_stacks[MAX_THREADS], n_free_stacks;
    int ready[MAX_THREADS], n_ready; /* numbers of threads */
    struct thread *running;
    struct block *loaded;            /* whose static shared memory is in the section */
    struct context scheduler;
    const void *scheduler_stack;
    size_t scheduler_stack_bytes;
    void (*entry)(const void *);
    const void *argument;
    size_t shared_bytes;
    unsigned n_ended; /* blocks */
    uint64_t random;
    char report[512];
    bool failed;
} grid;

extern "C" unsigned char __start_cuda_shared[] __attribute__((weak)), __stop_cuda_shared[] __attribute__((weak));

static size_t shared_static_bytes(void) {
    return (size_t)(__stop_cuda_shared - __start_cuda_shared);
}

/* xorshift64* (Vigna, 2016) */
static unsigned random_below(unsigned n) {
    grid.random ^= grid.random >> 12;
    grid.random ^= grid.random << 25;
    grid.random ^= grid.random >> 27;
    return (unsigned)(((grid.random * 0x2545F4914F6CDD1Dull >> 32) * n) >> 32);
}

static void fail(const char *what, const struct thread *t) {
    if (!grid.failed)
        snprintf(grid.report, sizeof grid.report, "%s: block %u, thread %d waits at %s:%d", what, t->block->index.x,
                 t->number, t->place.file ? t->place.file : "?", t->place.line);
    grid.failed = true;
}

static bool same_place(const struct place *a, const struct place *b) {
    return a->line == b->line && (a->file == b->file || strcmp(a->file, b->file) == 0);
}

static void thread_ready(struct thread *t) {
    t->state = READY;
    grid.ready[grid.n_ready++] = (int)(t - grid.threads);
}

static void back_to_scheduler(struct thread *t) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(t->state == DONE ? NULL : &t->fake_stack, grid.scheduler_stack,
                                   grid.scheduler_stack_bytes);
#endif
    cuda_on_cpu_switch(&t->context, &grid.scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(t->fake_stack, &grid.scheduler_stack, &grid.scheduler_stack_bytes);
#endif
}

static void block_load(struct block *b) {
    size_t n = shared_static_bytes();
    if (n == 0 || grid.loaded == b)
        return;
    if (grid.loaded)
        memcpy(grid.loaded->shared_static, __start_cuda_shared, n);
    memcpy(__start_cuda_shared, b->shared_static, n);
    grid.loaded = b;
}

static void thread_enter(struct thread *t) {
    grid.running = t;
    threadIdx = t->index;
    blockIdx = t->block->index;
    block_load(t->block);
}

static void block_end(struct block *b) {
    free(b->shared);
    b->shared = NULL;
    b->n_threads = 0;
}

/* One of the ready threads, drawn at random and taken from the list. */
static struct thread *ready_draw(bool only_if_not_begun) {
    unsigned pick = random_below((unsigned)grid.n_ready);
    struct thread *t = &grid.threads[grid.ready[pick]];
    if (only_if_not_begun && t->stack >= 0)
        return NULL;
    grid.ready[pick] = grid.ready[--grid.n_ready];
    return t;
}

/* The running thread has ended. Returns another one that may begin on its stack; NULL when the scheduler is needed. */
static struct thread *thread_end(void) {
    struct thread *t = grid.running, *next = NULL;
    int stack = t->stack;
    t->state = DONE;
    if (++t->block->n_done == t->block->n_threads) {
        block_end(t->block);
        grid.n_ended++;
    } else if (grid.n_ready && !grid.failed && (next = ready_draw(true))) {
        next->stack = stack;
        return next;
    }
    grid.free_stacks[grid.n_free_stacks++] = stack;
    return NULL;
}

static void thread_main(void) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(NULL, &grid.scheduler_stack, &grid.scheduler_stack_bytes);
#endif
    struct thread *next;
    do {
        grid.entry(grid.argument);
        if ((next = thread_end()))
            thread_enter(next);
    } while (next);
    back_to_scheduler(grid.running);
    abort();
}

static void thread_resume(struct thread *t) {
    thread_enter(t);
    if (t->stack < 0) {
        t->stack = grid.free_stacks[--grid.n_free_stacks];
        size_t colour = (size_t)(t->stack % 61) * 64; /* stacks one power of two apart would share cache sets */
        context_make(&t->context, grid.stacks + (size_t)t->stack * STACK_BYTES, STACK_BYTES - colour, thread_main);
    }
#if defined(__SANITIZE_ADDRESS__)
    void *fake_stack;
    __sanitizer_start_switch_fiber(&fake_stack, grid.stacks + (size_t)t->stack * STACK_BYTES, STACK_BYTES);
#endif
    cuda_on_cpu_switch(&grid.scheduler, &t->context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, NULL, NULL);
#endif
}

/* ---- what kernels call -------------------------------------------------------------------------------------------- */

void *cuda_shared(void) {
    return grid.running->block->shared;
}

int cuda_on_cpu_lane(void) {
    return grid.running->number % warpSize;
}

void cuda_on_cpu_yield(void) {
    struct thread *t = grid.running;
    if (random_below(4))
        return;
    thread_ready(t);
    back_to_scheduler(t);
}

void cuda_on_cpu_barrier(const char *file, int line) {
    struct thread *t = grid.running;
    struct block *b = t->block;
    t->place = {file, line};
    t->state = AT_BARRIER;
    if (++b->n_waiting < b->n_threads) {
        back_to_scheduler(t);
        return;
    }
    b->n_waiting = 0;
    t->state = READY;
    for (int i = 0; i < b->n_threads; i++) {
        struct thread *other = &b->threads[i];
        if (!same_place(&other->place, &t->place))
            fail("divergent barrier", other);
        if (other != t)
            thread_ready(other);
    }
    if (grid.failed) {
        t->state = AT_BARRIER;
        back_to_scheduler(t);
    }
}

const uint64_t *cuda_on_cpu_exchange(unsigned mask, uint64_t mine, const char *file, int line) {
    struct thread *t = grid.running;
    struct warp *w = &t->block->warps[t->number / warpSize];
    int turn = w->turn;
    t->place = {file, line};
    t->state = AT_WARP;
    w->slot[turn][t->number % warpSize] = mine;
    if (mask != 0xFFFFFFFFu || w->n_lanes != warpSize)
        fail("an exchange of less than a whole warp", t);
    if (++w->n_arrived < w->n_lanes || grid.failed) {
        back_to_scheduler(t);
        return w->slot[turn];
    }
    w->n_arrived = 0;
    w->turn = !turn;
    for (int i = 0; i < w->n_lanes; i++) {
        struct thread *lane = t + i - t->number % warpSize;
        if (!same_place(&lane->place, &t->place))
            fail("divergent warp", lane);
        if (lane != t)
            thread_ready(lane);
    }
    t->state = READY;
    if (grid.failed)
        back_to_scheduler(t);
    return w->slot[turn];
}

/* ---- the scheduler ------------------------------------------------------------------------------------------------ */

static bool grid_prepare(void) {
    if (grid.stacks)
        return true;
    grid.stacks = (char *)mmap(NULL, (size_t)MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (grid.stacks == (char *)MAP_FAILED)
        return grid.stacks = NULL, false;
    for (int i = 0; i < MAX_RESIDENT; i++) {
        grid.blocks[i].threads = grid.threads + i * MAX_BLOCK;
        grid.blocks[i].shared_static = (unsigned char *)malloc(shared_static_bytes() + 1);
        if (!grid.blocks[i].shared_static)
            return false;
    }
    if (!grid.random)
        grid.random = 1;
    return true;
}

static bool block_begin(struct block *b, unsigned number) {
    int n = (int)(blockDim.x * blockDim.y * blockDim.z);
    b->index = {number % gridDim.x, number / gridDim.x % gridDim.y, number / gridDim.x / gridDim.y};
    b->n_threads = n;
    b->n_waiting = b->n_done = 0;
    b->shared = (unsigned char *)aligned_alloc(128, (grid.shared_bytes + 127) / 128 * 128 + 128 * !grid.shared_bytes);
    if (!b->shared)
        return false;
    memset(b->shared, 0xFF, grid.shared_bytes);
    memset(b->shared_static, 0xFF, shared_static_bytes());
    grid.loaded = grid.loaded == b ? NULL : grid.loaded;
    for (int i = 0; i < n; i++) {
        struct thread *t = &b->threads[i];
        *t = {};
        t->stack = -1;
        t->index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        t->number = i;
        t->block = b;
        thread_ready(t);
    }
    for (int i = 0; i < n; i += warpSize) {
        struct warp *w = &b->warps[i / warpSize];
        w->n_lanes = n - i < warpSize ? n - i : warpSize;
        w->n_arrived = w->turn = 0;
    }
    return true;
}

/* A thread that waits for others while the whole grid stands still. */
static void report_standstill(void) {
    for (int i = 0; i < MAX_RESIDENT; i++)
        for (int j = 0; j < grid.blocks[i].n_threads; j++)
            if (grid.blocks[i].threads[j].state != DONE) {
                fail(grid.blocks[i].threads[j].state == AT_BARRIER ? "divergent barrier, others never come"
                                                                   : "divergent warp, others never come",
                     &grid.blocks[i].threads[j]);
                return;
            }
}

static bool grid_run(unsigned n_blocks) {
    unsigned next = 0, n_resident = 1 + random_below(MAX_RESIDENT);
    while (grid.n_ended < n_blocks && !grid.failed) {
        for (unsigned i = 0; i < n_resident && next < n_blocks; i++)
            if (grid.blocks[i].n_threads == 0 && !block_begin(&grid.blocks[i], next++))
                return false;
        if (grid.n_ready == 0) {
            report_standstill();
            break;
        }
        thread_resume(ready_draw(false));
    }
    return true;
}

cudaError_t cuda_on_cpu_launch(const struct cudaLaunchConfig_t *config, void (*entry)(const void *), const void *argument) {
    size_t n_threads = (size_t)config->blockDim.x * config->blockDim.y * config->blockDim.z;
    size_t n_blocks = (size_t)config->gridDim.x * config->gridDim.y * config->gridDim.z;
    if (n_threads == 0 || n_threads > MAX_BLOCK || n_blocks == 0 || n_blocks > INT32_MAX ||
        config->dynamicSmemBytes > 48u << 10) /* more must be asked for */
        return cudaErrorInvalidValue;
    if (!grid_prepare())
        return cudaErrorMemoryAllocation;
    blockDim = config->blockDim;
    gridDim = config->gridDim;
    grid.entry = entry;
    grid.argument = argument;
    grid.shared_bytes = config->dynamicSmemBytes;
    grid.n_ready = 0;
    grid.n_ended = 0;
    for (grid.n_free_stacks = 0; grid.n_free_stacks < MAX_THREADS; grid.n_free_stacks++)
        grid.free_stacks[grid.n_free_stacks] = MAX_THREADS - 1 - grid.n_free_stacks;
    grid.loaded = NULL;
    grid.failed = false;
    memory_open();
    bool ran = grid_run((unsigned)n_blocks);
    memory_close();
    for (int i = 0; i < MAX_RESIDENT; i++)
        block_end(&grid.blocks[i]);
    return !ran ? cudaErrorMemoryAllocation : grid.failed ? cudaErrorLaunchFailure : cudaSuccess;
}

void cuda_on_cpu_seed(uint64_t seed) {
    grid.random = seed * 0x9E3779B97F4A7C15ull + 1;
}

const char *cuda_on_cpu_report(void) {
    return grid.report;
}
