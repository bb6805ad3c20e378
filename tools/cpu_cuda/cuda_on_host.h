// Runs CUDA C++ kernels on the CPU, for tests: the same text that NVRTC compiles for a GPU is compiled by a
// C++ compiler with this header in front of it.
//
// Blocks run one after another; the threads of a block are fibers, switched at __syncthreads and at warp
// operations only, in an order that the caller seeds. So a missing barrier gives wrong numbers in every run
// (a thread runs as far as it can before its neighbour starts), and another order gives other wrong numbers.
// Shared memory is filled with NaN before every block. Threads that wait at different barriers are an error.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct uint3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("cuda_shared")))
extern "C" char __start_cuda_shared[] __attribute__((weak));
extern "C" char __stop_cuda_shared[] __attribute__((weak));

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

namespace cuda_on_host {

// One fiber: its own stack, resumed where it yielded.
#if !defined(__x86_64__)
#error "cuda_on_host: write `cuda_on_host_switch` for this processor"
#endif
extern "C" void cuda_on_host_switch(void **save, void *load);
asm(".text\n.hidden cuda_on_host_switch\n.globl cuda_on_host_switch\n.type cuda_on_host_switch,@function\ncuda_on_host_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");

enum class State : uint8_t { Ready, AtBlock, AtWarp, Done };
struct Fiber { void *sp; State state; int line; uint3 index; };

constexpr size_t STACK = 64 << 10;
static std::vector<char> stacks;
static std::vector<Fiber> fibers;
static std::vector<uint64_t> exchange;  // a word per thread, for warp operations
static void *scheduler;
static unsigned current;
static bool current_has_stack;
static void (*body)(void *);
static void *body_data;

[[noreturn]] inline void fail(const char *what) {
    std::fprintf(stderr, "cuda_on_host: %s (block %u,%u,%u thread %u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z, current);
    std::abort();
}

inline void yield_as(State state, int line) {
    if (!current_has_stack) fail("a barrier in a kernel that was taken to have none");
    fibers[current].state = state;
    fibers[current].line = line;
    cuda_on_host_switch(&fibers[current].sp, scheduler);
}

static void start() {
    body(body_data);
    yield_as(State::Done, 0);
    fail("a finished thread ran on");
}

inline void prepare(unsigned thread) {
    auto top = reinterpret_cast<uintptr_t>(stacks.data() + (thread + 1) * STACK) & ~uintptr_t(15);
    auto *stack = reinterpret_cast<void **>(top);
    *--stack = nullptr;                            // where `start` would return to
    *--stack = reinterpret_cast<void *>(&start);   // where the first switch returns to
    for (int i = 0; i < 6; i++) *--stack = nullptr;  // six registers
    fibers[thread].sp = stack;
    fibers[thread].state = State::Ready;
}

// Lets waiting threads of [first, last) go on if all that live wait in `state`, at one line.
inline bool release(unsigned first, unsigned last, State state) {
    int line = -1;
    for (unsigned t = first; t < last; t++) {
        if (fibers[t].state == State::Done) continue;
        if (fibers[t].state != state) return false;
        if (line >= 0 && fibers[t].line != line) fail("threads wait at different barriers");
        line = fibers[t].line;
    }
    if (line < 0) return false;
    for (unsigned t = first; t < last; t++)
        if (fibers[t].state == state) fibers[t].state = State::Ready;
    return true;
}

inline void run_block(const std::vector<unsigned> &order) {
    unsigned count = blockDim.x * blockDim.y * blockDim.z;
    for (unsigned t = 0; t < count; t++) {
        fibers[t].index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
        prepare(t);
    }
    if (__start_cuda_shared) std::memset(__start_cuda_shared, 0xff, __stop_cuda_shared - __start_cuda_shared);
    for (;;) {
        bool ran = false, live = false;
        for (unsigned t : order) {
            live |= fibers[t].state != State::Done;
            if (fibers[t].state != State::Ready) continue;
            current = t;
            threadIdx = fibers[t].index;
            cuda_on_host_switch(&scheduler, fibers[t].sp);
            ran = true;
        }
        if (!live) return;
        bool released = false;
        for (unsigned warp = 0; warp < count; warp += 32) released |= release(warp, std::min(warp + 32, count), State::AtWarp);
        if (!released) released = release(0, count, State::AtBlock);
        if (!ran && !released) fail("threads wait for each other at different barriers");
    }
}

// Launches `kernel` as cuLaunchKernel does: `arguments` points to each parameter.
template <class... A, size_t... I>
void call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_cv_t<A> *>(arguments[I])...);
}
template <class... A>
void launch(void (*kernel)(A...), const unsigned *grid, const unsigned *block, unsigned seed, void **arguments) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    unsigned count = block[0] * block[1] * block[2];
    if (count == 0 || count > 1024 || grid[1] > 65535 || grid[2] > 65535) fail("a GPU would refuse this launch");
    if (stacks.size() < count * STACK) stacks.resize(count * STACK), fibers.resize(count), exchange.resize(count + 31);
    std::vector<unsigned> order(count);
    for (unsigned t = 0; t < count; t++) order[t] = t;
    if (seed == 1) std::reverse(order.begin(), order.end());
    for (unsigned t = count; seed > 1 && t > 1; t--) std::swap(order[t - 1], order[(seed = seed * 1664525u + 1013904223u) % t]);
    current_has_stack = true;
    struct Closure { void (*kernel)(A...); void **arguments; } closure{kernel, arguments};
    body_data = &closure;
    body = [](void *data) { auto *c = static_cast<Closure *>(data); call(c->kernel, c->arguments, std::index_sequence_for<A...>{}); };
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) blockIdx = {x, y, z}, run_block(order);
}

// Launches a kernel that meets no barrier: its threads are calls, in the seeded order.
template <class... A>
void launch_without_barriers(void (*kernel)(A...), const unsigned *grid, const unsigned *block, unsigned seed, void **arguments) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    unsigned count = block[0] * block[1] * block[2];
    if (count == 0 || count > 1024 || grid[1] > 65535 || grid[2] > 65535) fail("a GPU would refuse this launch");
    current_has_stack = false;
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                for (unsigned i = 0; i < count; i++) {
                    unsigned t = seed == 0 ? i : count - 1 - i;
                    current = t;
                    threadIdx = {t % block[0], t / block[0] % block[1], t / (block[0] * block[1])};
                    call(kernel, arguments, std::index_sequence_for<A...>{});
                }
            }
}

template <class... A> const size_t *sizes(void (*)(A...)) {
    static const size_t all[] = {sizeof(A)..., 0};
    return all;
}
template <class T> T shuffle(T value, unsigned lane, int line) {
    static_assert(sizeof(T) <= 8, "shuffles move 4 or 8 bytes");
    unsigned warp = current & ~31u, count = blockDim.x * blockDim.y * blockDim.z;
    std::memcpy(&exchange[current], &value, sizeof(T));
    yield_as(State::AtWarp, 2 * line);
    T result = value;
    if (lane < 32 && warp + lane < count) std::memcpy(&result, &exchange[warp + lane], sizeof(T));
    yield_as(State::AtWarp, 2 * line + 1);
    return result;
}
}  // namespace cuda_on_host

#define __syncthreads() cuda_on_host::yield_as(cuda_on_host::State::AtBlock, __LINE__)
#define __syncwarp(...) cuda_on_host::yield_as(cuda_on_host::State::AtWarp, 2 * __LINE__)
#define __shfl_sync(mask, v, lane) cuda_on_host::shuffle(v, (lane), __LINE__)
#define __shfl_xor_sync(mask, v, bits) cuda_on_host::shuffle(v, (cuda_on_host::current & 31u) ^ unsigned(bits), __LINE__)
#define __shfl_down_sync(mask, v, delta) cuda_on_host::shuffle(v, (cuda_on_host::current & 31u) + unsigned(delta), __LINE__)

template <class T> T atomicAdd(T *at, T value) { T old = *at; *at = old + value; return old; }
template <class T> T atomicMax(T *at, T value) { T old = *at; *at = std::max(old, value); return old; }
inline unsigned __float_as_uint(float x) { unsigned u; std::memcpy(&u, &x, 4); return u; }
inline float __uint_as_float(unsigned u) { float x; std::memcpy(&x, &u, 4); return x; }
inline double __dmul_rn(double a, double b) { volatile double product = a * b; return product; }  // never fused
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
template <class T> const T &__ldg(const T *at) { return *at; }
inline void __threadfence() {}
using std::isfinite; using std::isnan; using std::max; using std::min;

// The C entries of a kernel: ENTRY(name) gives host_name(grid, block, seed, arguments), and sizes_name(), those of its arguments.
#define SIZES(name) extern "C" const size_t *sizes_##name() { return cuda_on_host::sizes(name); }
#define ENTRY(name) SIZES(name) extern "C" void host_##name(const unsigned *grid, const unsigned *block, unsigned seed, void **arguments) { \
    cuda_on_host::launch(name, grid, block, seed, arguments); }
#define ENTRY_WITHOUT_BARRIERS(name) SIZES(name) extern "C" void host_##name(const unsigned *grid, const unsigned *block, unsigned seed, void **arguments) { \
    cuda_on_host::launch_without_barriers(name, grid, block, seed, arguments); }
