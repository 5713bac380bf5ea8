// The blocks, threads and barriers behind host.h.
#include "host.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <mutex>
#include <vector>

namespace {

constexpr unsigned kMostThreads = 1024, kMostShared = 48 * 1024, kGuard = 4096;
constexpr size_t kStack = 64 * 1024;
constexpr unsigned char kPoison = 0xff;  // four of them are a NaN

enum class State { running, waiting, ended };

struct Fibre {
    ucontext_t first;
    jmp_buf here;
    State state;
    bool made = false;
};

std::vector<Fibre> fibres(kMostThreads);
jmp_buf scheduler;
unsigned current;
void (*body)(void **);
void **arguments;
bool backwards = false;
const char *error = "";
std::mutex one_at_a_time;

void leave(State state) {
    fibres[current].state = state;
    if (!_setjmp(fibres[current].here)) _longjmp(scheduler, 1);
}

// A fibre is made once and runs one thread of one block after the other.
void live() {
    for (;;) {
        body(arguments);
        leave(State::ended);
    }
}

void resume(unsigned thread) {
    current = thread;
    Fibre &fibre = fibres[thread];
    fibre.state = State::running;
    threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y};
    if (_setjmp(scheduler)) return;
    if (fibre.made) _longjmp(fibre.here, 1);
    fibre.made = true;
    getcontext(&fibre.first);
    static char *stacks = static_cast<char *>(mmap(nullptr, kStack * kMostThreads, PROT_READ | PROT_WRITE,
                                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    fibre.first.uc_stack.ss_sp = stacks + kStack * thread;
    fibre.first.uc_stack.ss_size = kStack;
    makecontext(&fibre.first, live, 0);
    setcontext(&fibre.first);
}

int failed(const char *why) {
    error = why;
    // Whatever hangs at a barrier is forgotten: the next launch makes its fibres anew.
    for (Fibre &fibre : fibres) fibre.made = false;
    return -1;
}

int run_block(unsigned threads, unsigned shared) {
    unsigned char *bytes = reinterpret_cast<unsigned char *>(pool);
    memset(bytes, kPoison, shared + kGuard);
    unsigned ended = 0;
    while (ended == 0) {
        for (unsigned i = 0; i < threads; ++i) {
            const unsigned thread = backwards ? threads - 1 - i : i;
            resume(thread);
            ended += fibres[thread].state == State::ended;
        }
    }
    if (ended != threads) return failed("some threads of a block ended while others waited at a barrier");
    for (unsigned i = shared; i < shared + kGuard; ++i)
        if (bytes[i] != kPoison) return failed("a kernel wrote behind the end of its shared memory");
    return 0;
}

}  // namespace

Triple threadIdx, blockIdx, blockDim, gridDim;
alignas(256) float pool[(kMostShared + kGuard) / sizeof(float)];

void __syncthreads() { leave(State::waiting); }

int host_launch(Triple grid, Triple block, unsigned shared, void (*kernel)(void **), void **values) {
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    const unsigned threads = block.x * block.y * block.z;
    if (threads < 1 || threads > kMostThreads) return failed("a block must have 1 to 1024 threads");
    if (shared > kMostShared) return failed("more than 48 KiB of shared memory");
    if (grid.x < 1 || grid.y < 1 || grid.z < 1) return failed("an empty grid");
    body = kernel;
    arguments = values;
    blockDim = block;
    gridDim = grid;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                if (run_block(threads, shared)) return -1;
            }
    return 0;
}

extern "C" const char *host_error() { return error; }

// In which order the threads between two barriers run: a kernel that is right gives the same in both.
extern "C" void host_backwards(int yes) { backwards = yes; }
