// A CUDA driver for tests, on the host: what the package calls of libcuda.so.1, as strict as the real one or stricter.
//
// - What is queued on a stream happens when somebody waits for it and no sooner, so that a missing wait shows.
// - Device memory is full of NaN at first, can't be touched by the host, and has guards at both ends.
// - Machine code is the compiler's own: kernels and the sizes and places of their arguments are read from the cubin;
//   what runs is the same source compiled for the host (launch_<kernel> in the library that EDGE_DRIVER_KERNELS names).
// - Any call, and any kernel while it runs, fails when told to: edge_driver_fail.
//
// Settings, read when the library is loaded: EDGE_DRIVER_VERSION (13020), EDGE_DRIVER_DEVICES (1), EDGE_DRIVER_ARCH (87),
// EDGE_DRIVER_MEMORY (bytes), EDGE_DRIVER_KERNELS.

#include <cuda.h>
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace {

using Byte = unsigned char;
using Arguments = void **;
using HostKernel = int (*)(unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Arguments);

constexpr size_t ARENA = size_t(4) << 30, GUARD = 256, PAGE = 4096;
constexpr Byte FRESH = 0xFF, FENCE = 0xA5;  // FRESH is NaN as float and as half

long setting(const char *name, long otherwise) {
    const char *text = std::getenv(name);
    return text ? std::atol(text) : otherwise;
}

struct Parameter {
    size_t offset, size;
};

struct Module;

struct Function {
    std::string name;
    std::vector<Parameter> parameters;
    HostKernel run = nullptr;
    int dynamic_shared = 48 << 10;
};

struct Module {
    std::map<std::string, Function> functions;
};

struct Operation {
    std::function<CUresult()> run;
};

struct Stream {
    std::vector<Operation> queue, noted;
    bool capturing = false, spoilt = false;
    std::thread::id by;
};

struct Event {
    bool recorded = false, done = false;
    std::chrono::steady_clock::time_point at;
};

struct Graph {
    std::vector<Operation> operations;
};

struct Fault {
    CUresult code;
    long after;
    bool sticky;
};

std::recursive_mutex lock;
bool ready = false, hidden = true;
int holders = 0;              // of the primary context
CUresult lost = CUDA_SUCCESS;  // why the context answers nothing any more
Byte primary;                 // its address is the context's handle
thread_local std::vector<CUcontext> current;
std::map<std::string, long> calls;
std::map<std::string, Fault> faults;
Byte *arena = nullptr;
std::map<size_t, size_t> memory;  // offset and size of what is allocated
std::map<Byte *, size_t> pinned;
std::set<Stream *> streams;
std::set<Event *> events;
std::set<Module *> modules;
std::set<Graph *> graphs, executables;
long overruns = 0, opened = 0;
std::string kernels = std::getenv("EDGE_DRIVER_KERNELS") ? std::getenv("EDGE_DRIVER_KERNELS") : "";

size_t capacity() {
    static const size_t bytes = size_t(setting("EDGE_DRIVER_MEMORY", long(1) << 30));
    return bytes;
}

size_t used() {
    size_t sum = 0;
    for (auto &[at, size] : memory) sum += size;
    return sum;
}

bool fatal(CUresult code) {
    return code == CUDA_ERROR_ILLEGAL_ADDRESS || code == CUDA_ERROR_LAUNCH_FAILED || code == CUDA_ERROR_LAUNCH_TIMEOUT ||
           code == CUDA_ERROR_ECC_UNCORRECTABLE || code == CUDA_ERROR_UNKNOWN || code == CUDA_ERROR_DEVICE_UNAVAILABLE;
}

// The device's memory is open to the host only while an operation of the device runs.
struct Open {
    Open() {
        if (!opened++ && hidden) mprotect(arena, extent(), PROT_READ | PROT_WRITE);
    }
    ~Open() {
        if (!--opened && hidden) mprotect(arena, extent(), PROT_NONE);
    }
    static size_t extent() {
        if (memory.empty()) return PAGE;
        auto &[at, size] = *memory.rbegin();
        return (at + size + GUARD + PAGE - 1) / PAGE * PAGE;
    }
};

CUresult fault(const char *name) {
    auto found = faults.find(name);
    if (found == faults.end() || found->second.after-- > 0) return CUDA_SUCCESS;
    Fault one = found->second;
    if (!one.sticky) faults.erase(found);
    if (fatal(one.code)) lost = one.code;
    return one.code;
}

enum Needs { NOTHING, READY, CONTEXT, QUIET };  // QUIET: a context, and no capture on this thread

CUresult enter(const char *name, Needs needs) {
    calls[name]++;
    if (CUresult code = fault(name)) return code;
    if (needs >= READY && !ready) return CUDA_ERROR_NOT_INITIALIZED;
    if (needs >= CONTEXT && current.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (needs >= CONTEXT && !holders) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    if (needs >= CONTEXT && lost) return lost;
    if (needs >= QUIET)
        for (Stream *one : streams)
            if (one->capturing && one->by == std::this_thread::get_id()) {
                one->spoilt = true;
                return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
            }
    return CUDA_SUCCESS;
}

#define ENTER(needs)                                   \
    std::lock_guard<std::recursive_mutex> held(lock);  \
    if (CUresult code = enter(__func__, needs)) return code;

bool inside(CUdeviceptr pointer, size_t size) {
    if (pointer < CUdeviceptr(arena) || pointer >= CUdeviceptr(arena) + ARENA) return false;
    size_t at = pointer - CUdeviceptr(arena);
    auto after = memory.upper_bound(at);
    if (after == memory.begin()) return false;
    auto &[start, length] = *--after;
    return at + size <= start + length;
}

bool is_pinned(const void *pointer, size_t size) {
    auto after = pinned.upper_bound((Byte *)pointer);
    if (after == pinned.begin()) return false;
    auto &[start, length] = *--after;
    return (Byte *)pointer + size <= start + length;
}

Stream *stream_of(CUstream handle) {
    static Stream standard;
    if (!handle) return &standard;
    return streams.count((Stream *)handle) ? (Stream *)handle : nullptr;
}

CUresult drain(Stream *stream) {
    std::vector<Operation> work;
    work.swap(stream->queue);
    for (auto &one : work) {
        Open device;
        if (CUresult code = one.run()) {
            if (fatal(code)) lost = code;
            return code;
        }
    }
    return CUDA_SUCCESS;
}

CUresult drain_all() {
    if (CUresult code = drain(stream_of(nullptr))) return code;
    for (Stream *one : std::set<Stream *>(streams))
        if (!one->capturing)
            if (CUresult code = drain(one)) return code;
    return CUDA_SUCCESS;
}

CUresult queue(CUstream handle, std::function<CUresult()> run) {
    Stream *stream = stream_of(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    (stream->capturing ? stream->noted : stream->queue).push_back({std::move(run)});
    return CUDA_SUCCESS;
}

bool fenced(size_t at, size_t size) {
    for (size_t i = 0; i < GUARD; i++)
        if (arena[at - GUARD + i] != FENCE || arena[at + size + i] != FENCE) return false;
    return true;
}

void drop_context() {  // what the driver does when nobody holds the context any more
    for (auto &[at, size] : pinned) mprotect(at, (size + PAGE - 1) / PAGE * PAGE, PROT_NONE);
    memory.clear();
    pinned.clear();
    streams.clear();
    events.clear();
    modules.clear();
    graphs.clear();
    executables.clear();
    lost = CUDA_SUCCESS;
}

CUresult refused(CUstream handle) {  // by a stream that is capturing
    Stream *stream = stream_of(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (!stream->capturing) return CUDA_SUCCESS;
    stream->spoilt = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

}  // namespace

// ---------------------------------------------------------------------------------------------- what tests turn and read

extern "C" {

// The call of this name (or "run:<kernel>", "graph", "copy") fails with a code after so many that succeed; once, or always.
void edge_driver_fail(const char *name, int code, long after, int sticky) {
    std::lock_guard<std::recursive_mutex> held(lock);
    if (code) faults[name] = {CUresult(code), after, bool(sticky)};
    else faults.erase(name);
}

// How often a function was called, or how many of a kind there are.
long edge_driver_count(const char *name) {
    std::lock_guard<std::recursive_mutex> held(lock);
    std::string what = name;
    if (what == "memory") return long(memory.size());
    if (what == "bytes") return long(used());
    if (what == "pinned") return long(pinned.size());
    if (what == "streams") return long(streams.size());
    if (what == "events") return long(events.size());
    if (what == "modules") return long(modules.size());
    if (what == "graphs") return long(graphs.size() + executables.size());
    if (what == "holders") return holders;
    if (what == "current") return long(current.size());
    if (what == "overruns") {
        Open device;
        for (auto &[at, size] : memory)
            if (!fenced(at, size)) overruns++;
        return overruns;
    }
    return calls[what];
}

// Overruns that a test made on purpose: forget them, and repair the guards.
void edge_driver_forgive() {
    std::lock_guard<std::recursive_mutex> held(lock);
    Open device;
    overruns = 0;
    for (auto &[at, size] : memory)
        std::memset(arena + at - GUARD, FENCE, GUARD), std::memset(arena + at + size, FENCE, GUARD);
}

// As if nothing had been called yet: one test's fault is not the next one's.
void edge_driver_reset() {
    std::lock_guard<std::recursive_mutex> held(lock);
    faults.clear();
    overruns = 0, holders = 0;
    current.clear();
    drop_context();
}

// Whether the host is kept out of device memory (1, the default) or let in (0).
void edge_driver_hide(int whether) {
    std::lock_guard<std::recursive_mutex> held(lock);
    hidden = whether;
    mprotect(arena, ARENA, hidden ? PROT_NONE : PROT_READ | PROT_WRITE);
}

void edge_driver_kernels(const char *path) { kernels = path; }

// ------------------------------------------------------------------------------------------------------ device, context

CUresult cuInit(unsigned) {
    ENTER(NOTHING);
    if (setting("EDGE_DRIVER_DEVICES", 1) == 0) return CUDA_ERROR_NO_DEVICE;
    if (!arena) {
        void *at = mmap(nullptr, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
        arena = (Byte *)at;
    }
    ready = true;
    return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *version) {
    ENTER(NOTHING);
    *version = int(setting("EDGE_DRIVER_VERSION", 13020));
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult code, const char **words) {
    static const std::map<int, const char *> known = {
        {0, "no error"},
        {1, "invalid argument"},
        {2, "out of memory"},
        {3, "initialization error"},
        {4, "driver shutting down"},
        {46, "CUDA-capable device(s) is/are busy or unavailable"},
        {100, "no CUDA-capable device is detected"},
        {101, "invalid device ordinal"},
        {200, "device kernel image is invalid"},
        {201, "invalid device context"},
        {209, "no kernel image is available for execution on the device"},
        {214, "uncorrectable ECC error encountered"},
        {400, "invalid resource handle"},
        {500, "named symbol not found"},
        {600, "device not ready"},
        {700, "an illegal memory access was encountered"},
        {701, "too many resources requested for launch"},
        {702, "the launch timed out and was terminated"},
        {709, "context is destroyed"},
        {719, "unspecified launch failure"},
        {801, "operation not supported"},
        {900, "operation not permitted when stream is capturing"},
        {901, "operation failed due to a previous error during capture"},
        {999, "unknown error"},
    };
    auto found = known.find(int(code));
    *words = found == known.end() ? nullptr : found->second;
    return found == known.end() ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
    ENTER(READY);
    *count = int(setting("EDGE_DRIVER_DEVICES", 1));
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    ENTER(READY);
    if (ordinal < 0 || ordinal >= setting("EDGE_DRIVER_DEVICES", 1)) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice) {
    ENTER(READY);
    std::snprintf(name, size_t(length), "Orin of the tests");
    return CUDA_SUCCESS;
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice) {
    ENTER(READY);
    long arch = setting("EDGE_DRIVER_ARCH", 87);
    *major = int(arch / 10), *minor = int(arch % 10);
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t *bytes, CUdevice) {
    ENTER(READY);
    *bytes = capacity();
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice) {
    ENTER(READY);
    static const std::map<int, int> known = {
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 8},     {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
        {CU_DEVICE_ATTRIBUTE_INTEGRATED, 1},               {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
        {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},      {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 48 << 10},
    };
    auto found = known.find(int(attribute));
    if (found == known.end()) return CUDA_ERROR_NOT_SUPPORTED;
    *value = found->second;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) {
    ENTER(READY);
    holders++;
    *context = CUcontext(&primary);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice) {
    ENTER(READY);
    if (!holders) return CUDA_ERROR_INVALID_CONTEXT;
    if (!--holders) drop_context();
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext context) {
    ENTER(READY);
    if (context != CUcontext(&primary)) return CUDA_ERROR_INVALID_VALUE;
    if (!holders) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    current.push_back(context);
    return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext *context) {
    ENTER(READY);
    if (current.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (context) *context = current.back();
    current.pop_back();
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context) {
    ENTER(READY);
    *context = current.empty() ? nullptr : current.back();
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device) {
    ENTER(CONTEXT);
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() {
    ENTER(QUIET);
    return drain_all();
}

// --------------------------------------------------------------------------------------------------------------- memory

CUresult cuMemGetInfo(size_t *free, size_t *total) {
    ENTER(CONTEXT);
    *total = capacity(), *free = capacity() - used();
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr *pointer, size_t size) {
    ENTER(QUIET);
    if (!size) return CUDA_ERROR_INVALID_VALUE;
    if (used() + size > capacity()) return CUDA_ERROR_OUT_OF_MEMORY;
    size_t at = GUARD;
    for (auto &[start, length] : memory) {  // the first gap that is wide enough
        if (at + size + GUARD <= start - GUARD) break;
        at = (start + length + 2 * GUARD + 255) / 256 * 256;
    }
    if (at + size + GUARD > ARENA) return CUDA_ERROR_OUT_OF_MEMORY;
    memory[at] = size;
    Open device;
    std::memset(arena + at - GUARD, FENCE, size + 2 * GUARD);
    std::memset(arena + at, FRESH, size);
    *pointer = CUdeviceptr(arena + at);
    return CUDA_SUCCESS;
}

CUresult cuMemFree(CUdeviceptr pointer) {
    ENTER(QUIET);
    if (CUresult code = drain_all()) return code;  // as the real one waits
    auto found = memory.find(pointer - CUdeviceptr(arena));
    if (found == memory.end()) return CUDA_ERROR_INVALID_VALUE;
    Open device;
    if (!fenced(found->first, found->second)) overruns++;
    std::memset(arena + found->first, FRESH, found->second);
    memory.erase(found);
    return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void **pointer, size_t size, unsigned) {
    ENTER(QUIET);
    if (!size) return CUDA_ERROR_INVALID_VALUE;
    void *at = mmap(nullptr, (size + PAGE - 1) / PAGE * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(at, FRESH, size);
    pinned[(Byte *)at] = size;
    *pointer = at;
    return CUDA_SUCCESS;
}

CUresult cuMemFreeHost(void *pointer) {
    ENTER(QUIET);
    auto found = pinned.find((Byte *)pointer);
    if (found == pinned.end()) return CUDA_ERROR_INVALID_VALUE;
    // Never given back to the system: who still reads it falls over here, not somewhere else.
    mprotect(pointer, (found->second + PAGE - 1) / PAGE * PAGE, PROT_NONE);
    pinned.erase(found);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoD(CUdeviceptr target, const void *source, size_t size) {
    ENTER(QUIET);
    if (!inside(target, size)) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult code = drain_all()) return code;
    Open device;
    std::memcpy((void *)target, source, size);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoH(void *target, CUdeviceptr source, size_t size) {
    ENTER(QUIET);
    if (!inside(source, size)) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult code = drain_all()) return code;
    Open device;
    std::memcpy(target, (void *)source, size);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr target, const void *source, size_t size, CUstream stream) {
    ENTER(CONTEXT);
    if (!inside(target, size)) return CUDA_ERROR_INVALID_VALUE;
    if (is_pinned(source, size))
        return queue(stream, [=] {
            if (CUresult code = fault("copy")) return code;
            if (!inside(target, size) || !is_pinned(source, size)) return CUDA_ERROR_ILLEGAL_ADDRESS;
            std::memcpy((void *)target, source, size);
            return CUDA_SUCCESS;
        });
    if (CUresult code = refused(stream)) return code;
    auto staged = std::make_shared<std::vector<Byte>>((const Byte *)source, (const Byte *)source + size);
    return queue(stream, [=] {
        if (!inside(target, size)) return CUDA_ERROR_ILLEGAL_ADDRESS;
        std::memcpy((void *)target, staged->data(), size);
        return CUDA_SUCCESS;
    });
}

CUresult cuMemcpyDtoHAsync(void *target, CUdeviceptr source, size_t size, CUstream stream) {
    ENTER(CONTEXT);
    if (!inside(source, size)) return CUDA_ERROR_INVALID_VALUE;
    bool paged = !is_pinned(target, size);
    if (paged)
        if (CUresult code = refused(stream)) return code;
    if (CUresult code = queue(stream, [=] {
            if (CUresult code = fault("copy")) return code;
            if (!inside(source, size) || (!paged && !is_pinned(target, size))) return CUDA_ERROR_ILLEGAL_ADDRESS;
            std::memcpy(target, (void *)source, size);
            return CUDA_SUCCESS;
        }))
        return code;
    return paged ? drain(stream_of(stream)) : CUDA_SUCCESS;
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr target, CUdeviceptr source, size_t size, CUstream stream) {
    ENTER(CONTEXT);
    if (!inside(target, size) || !inside(source, size)) return CUDA_ERROR_INVALID_VALUE;
    if (target < source + size && source < target + size) return CUDA_ERROR_INVALID_VALUE;
    return queue(stream, [=] {
        if (CUresult code = fault("copy")) return code;
        if (!inside(target, size) || !inside(source, size)) return CUDA_ERROR_ILLEGAL_ADDRESS;
        std::memcpy((void *)target, (void *)source, size);
        return CUDA_SUCCESS;
    });
}

CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t size, CUstream stream) {
    ENTER(CONTEXT);
    if (!inside(target, size)) return CUDA_ERROR_INVALID_VALUE;
    return queue(stream, [=] {
        if (!inside(target, size)) return CUDA_ERROR_ILLEGAL_ADDRESS;
        std::memset((void *)target, value, size);
        return CUDA_SUCCESS;
    });
}

// ------------------------------------------------------------------------------------------------------ streams, events

CUresult cuStreamCreate(CUstream *stream, unsigned) {
    ENTER(QUIET);
    Stream *made = new Stream;
    streams.insert(made);
    *stream = CUstream(made);
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream handle) {
    ENTER(CONTEXT);
    Stream *stream = stream_of(handle);
    if (!handle || !stream) return CUDA_ERROR_INVALID_HANDLE;
    CUresult code = drain(stream);
    streams.erase(stream);
    delete stream;
    return code;
}

CUresult cuStreamSynchronize(CUstream handle) {
    ENTER(CONTEXT);
    if (CUresult code = refused(handle)) return code;
    return drain(stream_of(handle));
}

CUresult cuStreamQuery(CUstream handle) {
    ENTER(CONTEXT);
    if (CUresult code = refused(handle)) return code;
    return stream_of(handle)->queue.empty() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *data) {
    ENTER(CONTEXT);
    return queue(stream, [=] {
        function(data);
        return CUDA_SUCCESS;
    });
}

CUresult cuEventCreate(CUevent *event, unsigned) {
    ENTER(QUIET);
    Event *made = new Event;
    events.insert(made);
    *event = CUevent(made);
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent handle) {
    ENTER(CONTEXT);
    if (!events.erase((Event *)handle)) return CUDA_ERROR_INVALID_HANDLE;
    return CUDA_SUCCESS;  // an operation that is still queued may hold it: not deleted
}

CUresult cuEventRecord(CUevent handle, CUstream stream) {
    ENTER(CONTEXT);
    Event *event = (Event *)handle;
    if (!events.count(event)) return CUDA_ERROR_INVALID_HANDLE;
    event->recorded = true, event->done = false;
    return queue(stream, [=] {
        event->at = std::chrono::steady_clock::now(), event->done = true;
        return CUDA_SUCCESS;
    });
}

CUresult cuEventSynchronize(CUevent handle) {
    ENTER(QUIET);
    if (!events.count((Event *)handle)) return CUDA_ERROR_INVALID_HANDLE;
    return drain_all();
}

CUresult cuEventQuery(CUevent handle) {
    ENTER(CONTEXT);
    if (!events.count((Event *)handle)) return CUDA_ERROR_INVALID_HANDLE;
    return ((Event *)handle)->done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuEventElapsedTime(float *ms, CUevent first, CUevent last) {
    ENTER(CONTEXT);
    Event *one = (Event *)first, *two = (Event *)last;
    if (!events.count(one) || !events.count(two) || !one->recorded || !two->recorded) return CUDA_ERROR_INVALID_HANDLE;
    if (!one->done || !two->done) return CUDA_ERROR_NOT_READY;
    *ms = std::chrono::duration<float, std::milli>(two->at - one->at).count();
    return CUDA_SUCCESS;
}

// ------------------------------------------------------------------------------------------------------ modules, kernels

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    ENTER(QUIET);
    const Byte *file = (const Byte *)image;
    const Elf64_Ehdr *head = (const Elf64_Ehdr *)file;
    if (std::memcmp(file, ELFMAG, SELFMAG) || head->e_machine != 190) return CUDA_ERROR_INVALID_IMAGE;
    // CUDA 13 moved the architecture to the second byte, with the eighth version of the format.
    unsigned arch = head->e_ident[EI_ABIVERSION] >= 8 ? head->e_flags >> 8 & 0xff : head->e_flags & 0xff;
    if (long(arch) != setting("EDGE_DRIVER_ARCH", 87)) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    void *host = kernels.empty() ? nullptr : dlopen(kernels.c_str(), RTLD_NOW | RTLD_LOCAL);
    auto made = std::make_unique<Module>();
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(file + head->e_shoff);
    const char *names = (const char *)(file + sections[head->e_shstrndx].sh_offset);
    const std::string prefix = ".nv.info.";
    for (int i = 0; i < head->e_shnum; i++) {
        std::string section = names + sections[i].sh_name;
        if (section.rfind(prefix, 0) != 0) continue;
        Function function;
        function.name = section.substr(prefix.size());
        const Byte *at = file + sections[i].sh_offset, *end = at + sections[i].sh_size;
        while (at + 4 <= end) {  // records: format, attribute, size, and only in format 4 a payload of that size
            unsigned format = at[0], attribute = at[1], size = at[2] | at[3] << 8;
            if (format == 4 && attribute == 0x17) {  // a parameter: index, ordinal, offset, and its size in the top bits
                unsigned short ordinal, offset;
                unsigned facts;
                std::memcpy(&ordinal, at + 8, 2), std::memcpy(&offset, at + 10, 2), std::memcpy(&facts, at + 12, 4);
                if (function.parameters.size() <= ordinal) function.parameters.resize(ordinal + 1u);
                function.parameters[ordinal] = {offset, facts >> 18};
            }
            at += 4 + (format == 4 ? size : 0);
        }
        if (host) function.run = (HostKernel)dlsym(host, ("launch_" + function.name).c_str());
        made->functions[function.name] = function;
    }
    *module = CUmodule(made.get());
    modules.insert(made.release());
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, CUjit_option *options, void **values) {
    for (unsigned i = 0; i < count; i++) {  // nothing to say about machine code
        if (options[i] == CU_JIT_INFO_LOG_BUFFER || options[i] == CU_JIT_ERROR_LOG_BUFFER) *(char *)values[i] = 0;
        if (options[i] == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES || options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
            values[i] = nullptr;
    }
    return cuModuleLoadData(module, image);
}

CUresult cuModuleUnload(CUmodule handle) {
    ENTER(QUIET);
    if (!modules.erase((Module *)handle)) return CUDA_ERROR_INVALID_HANDLE;
    delete (Module *)handle;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule handle, const char *name) {
    ENTER(CONTEXT);
    if (!modules.count((Module *)handle)) return CUDA_ERROR_INVALID_HANDLE;
    auto &there = ((Module *)handle)->functions;
    auto found = there.find(name);
    if (found == there.end()) return CUDA_ERROR_NOT_FOUND;
    *function = CUfunction(&found->second);
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value) {
    ENTER(CONTEXT);
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_NOT_SUPPORTED;
    ((Function *)handle)->dynamic_shared = value;
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, CUstream stream, void **parameters, void **extra) {
    ENTER(CONTEXT);
    const Function *function = (const Function *)handle;
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || !bx || !by || !bz || bz > 64 || bx * by * bz > 1024)
        return CUDA_ERROR_INVALID_VALUE;
    if (int(shared) > function->dynamic_shared) return CUDA_ERROR_INVALID_VALUE;
    if (!function->run) return CUDA_ERROR_NOT_SUPPORTED;  // no host code for this kernel
    size_t total = 0;
    for (auto &one : function->parameters) total = std::max(total, one.offset + one.size);
    auto values = std::make_shared<std::vector<Byte>>(total);
    if (extra) {
        const Byte *given = nullptr;
        size_t size = 0;
        for (int i = 0; extra[i] != CU_LAUNCH_PARAM_END; i += 2) {
            if (extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER) given = (const Byte *)extra[i + 1];
            else if (extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE) size = *(const size_t *)extra[i + 1];
        }
        if (size != total) return CUDA_ERROR_INVALID_VALUE;
        std::memcpy(values->data(), given, total);
    } else {
        for (size_t i = 0; i < function->parameters.size(); i++)
            std::memcpy(values->data() + function->parameters[i].offset, parameters[i], function->parameters[i].size);
    }
    HostKernel run = function->run;
    std::string name = "run:" + function->name;
    std::vector<Parameter> places = function->parameters;
    return queue(stream, [=]() -> CUresult {
        calls[name]++;
        if (CUresult code = fault(name.c_str())) return code;
        std::vector<void *> arguments;
        for (auto &one : places) {
            if (one.size == sizeof(CUdeviceptr)) {  // a pointer: to nothing, or to what is still allocated
                CUdeviceptr pointer;
                std::memcpy(&pointer, values->data() + one.offset, sizeof pointer);
                if (pointer && !inside(pointer, 1)) return CUDA_ERROR_ILLEGAL_ADDRESS;
            }
            arguments.push_back(values->data() + one.offset);
        }
        return run(gx, gy, gz, bx, by, bz, shared, arguments.data()) ? CUDA_ERROR_LAUNCH_FAILED : CUDA_SUCCESS;
    });
}

// --------------------------------------------------------------------------------------------------------------- graphs

CUresult cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode) {
    ENTER(CONTEXT);
    Stream *stream = stream_of(handle);
    if (!handle || !stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capturing) return CUDA_ERROR_ILLEGAL_STATE;
    stream->noted.clear();
    stream->capturing = true, stream->spoilt = false, stream->by = std::this_thread::get_id();
    return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream handle, CUgraph *graph) {
    ENTER(CONTEXT);
    Stream *stream = stream_of(handle);
    *graph = nullptr;
    if (!stream || !stream->capturing) return CUDA_ERROR_ILLEGAL_STATE;
    stream->capturing = false;
    if (stream->spoilt) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    Graph *made = new Graph{stream->noted};
    graphs.insert(made);
    *graph = CUgraph(made);
    return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long) {
    ENTER(QUIET);
    if (!graphs.count((Graph *)graph)) return CUDA_ERROR_INVALID_VALUE;
    Graph *made = new Graph(*(Graph *)graph);
    executables.insert(made);
    *executable = CUgraphExec(made);
    return CUDA_SUCCESS;
}

CUresult cuGraphUpload(CUgraphExec executable, CUstream) {
    ENTER(CONTEXT);
    return executables.count((Graph *)executable) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
    ENTER(CONTEXT);
    if (!executables.count((Graph *)executable)) return CUDA_ERROR_INVALID_VALUE;
    for (auto &one : ((Graph *)executable)->operations)
        if (CUresult code = queue(stream, one.run)) return code;
    return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph) {
    ENTER(READY);
    if (!graphs.erase((Graph *)graph)) return CUDA_ERROR_INVALID_VALUE;
    delete (Graph *)graph;
    return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec executable) {
    ENTER(READY);
    if (!executables.erase((Graph *)executable)) return CUDA_ERROR_INVALID_VALUE;
    delete (Graph *)executable;
    return CUDA_SUCCESS;
}

}  // extern "C"
