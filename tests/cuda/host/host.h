// CUDA C++ on the host, for tests: enough of the language to compile the kernels of edge/flow/kernels as they are.
//
// The threads of a block are fibres of one thread. Each runs until __syncthreads() or its end, then the next; so a
// missing barrier shows as a wrong result, in one of the two orders that the fibres can be run in. Shared memory is
// filled with NaN before each block and guarded behind its end.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <utility>

#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct Triple {
    unsigned x, y, z;
};

extern Triple threadIdx, blockIdx, blockDim, gridDim;

// Where every kernel finds its dynamic shared memory: extern __shared__ float pool[];
extern float pool[];

void __syncthreads();

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

template <class T> T __ldg(const T *where) { return *where; }

template <class T> T atomicAdd(T *where, T value) {
    const T before = *where;
    *where = before + value;
    return before;
}

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

// Runs body(arguments) for every thread of every block; 0, or -1 with the reason in host_error().
int host_launch(Triple grid, Triple block, unsigned shared, void (*body)(void **), void **arguments);

template <class... Types, size_t... At>
void host_call(void (*kernel)(Types...), void **arguments, std::index_sequence<At...>) {
    kernel(*static_cast<typename std::remove_reference<Types>::type *>(arguments[At])...);
}

template <class... Types> void host_call(void (*kernel)(Types...), void **arguments) {
    host_call(kernel, arguments, std::index_sequence_for<Types...>());
}

// The launch function of a kernel, with cuLaunchKernel's own arguments.
#define HOST_KERNEL(name)                                                                                              \
    extern "C" int launch_##name(unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,         \
                                 unsigned shared, void **arguments) {                                                  \
        return host_launch({gx, gy, gz}, {bx, by, bz}, shared, [](void **a) { host_call(name, a); }, arguments);       \
    }
