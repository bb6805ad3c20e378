// A CUDA driver, NVRTC, cuBLAS, cuRAND and cuDNN that compute on the CPU, for tests on machines without a GPU: the
// subset that candle, cudarc and ckd-kernels call. One library under many names (libcuda.so.1, libcudnn.so.9 ...);
// LD_LIBRARY_PATH puts it in the place of NVIDIA's. The program under test is the one that runs on a GPU, unchanged.
//
// - Device memory is host memory. Each block ends at a page that cannot be touched, so that reads and writes behind
//   it are faults; fresh memory is NaN; freed memory cannot be touched.
// - "PTX" is a line with the path of a shared library: nvrtcCompileProgram runs the C++ compiler on the kernel text
//   with cuda_on_host.h in front of it.
// - The first stream runs at once. What is asked of another one is done when its end is waited for (streams.h), as late as a
//   GPU may: what is read before is NaN, what is written over before goes wrong.
#include "streams.h"
#include <sys/mman.h>
#include <unistd.h>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <map>
#include <mutex>
#include <regex>
#include <set>
#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))
typedef uint64_t Ptr;

static std::mutex lock;
static std::map<Ptr, std::pair<void *, size_t>> blocks;  // start -> mapping
static size_t in_use = 0, most_in_use = 0, launches = 0, to_host = 0, to_device = 0, copies_to_host = 0, largest_to_host = 0, allocations = 0, late_copies = 0;

static bool talks() { static bool on = std::getenv("CPU_CUDA_TRACE") != nullptr; return on; }
#define SAY(...) do { if (talks()) std::fprintf(stderr, "cpu_cuda: " __VA_ARGS__); } while (0)
__attribute__((destructor)) static void report() {
    SAY("%zu launches, %zu allocations, at most %zu bytes; %zu bytes to the device, %zu copies of them beside the first stream, %zu in %zu copies to the host, the largest of %zu\n",
        launches, allocations, most_in_use, to_device, late_copies, to_host, copies_to_host, largest_to_host);
}

// CPU_CUDA_MOST_TO_HOST=BYTES ends the process at a larger copy to the host: no map may leave the device in a step.
static void check_copy(size_t n) {
    static const char *set = std::getenv("CPU_CUDA_MOST_TO_HOST");
    if (!set || n <= std::strtoull(set, nullptr, 10)) return;
    std::fprintf(stderr, "cpu_cuda: a copy of %zu bytes to the host; CPU_CUDA_MOST_TO_HOST is %s\n", n, set);
    std::abort();
}

// ---- memory
static Ptr allocate(size_t size) {
    size_t page = sysconf(_SC_PAGESIZE), used = std::max<size_t>((size + 15) / 16 * 16, 16);
    size_t pages = (used + page - 1) / page * page;
    auto *map = static_cast<char *>(mmap(nullptr, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (map == MAP_FAILED) return 0;
    mprotect(map + pages, page, PROT_NONE);
    Ptr start = reinterpret_cast<Ptr>(map + pages - used);
    std::memset(reinterpret_cast<void *>(start), 0xff, used);
    std::lock_guard<std::mutex> held(lock);
    blocks[start] = {map, pages + page};
    allocations++, in_use += pages + page, most_in_use = std::max(most_in_use, in_use);
    return start;
}
static int release(Ptr at) {
    std::lock_guard<std::mutex> held(lock);
    auto block = blocks.find(at);
    if (block == blocks.end()) return at ? 1 : 0;
    in_use -= block->second.second;
    munmap(block->second.first, block->second.second);
    blocks.erase(block);
    return 0;
}
static size_t memory() { static const char *set = std::getenv("CPU_CUDA_MEMORY"); return set ? std::strtoull(set, nullptr, 10) : size_t(80) << 30; }
API int cuMemAlloc_v2(Ptr *at, size_t size) { return in_use + size <= memory() && (*at = allocate(size)) ? 0 : 2; }
API int cuMemAllocAsync(Ptr *at, size_t size, void *) { return cuMemAlloc_v2(at, size); }
API int cuMemFree_v2(Ptr at) { return release(at); }
API int cuMemFreeAsync(Ptr at, Stream *stream) { run(stream, SIZE_MAX, true); return release(at); }
static std::map<const void *, size_t> page_locked;
static bool is_page_locked(const void *at) {
    std::lock_guard<std::mutex> held(lock);
    auto next = page_locked.upper_bound(at);
    return next != page_locked.begin() && at < static_cast<const char *>((--next)->first) + next->second;
}
API int cuMemHostAlloc(void **at, size_t size, unsigned) {
    if (!(*at = std::malloc(std::max<size_t>(size, 1)))) return 2;
    std::memset(*at, 0xff, size);
    std::lock_guard<std::mutex> held(lock);
    page_locked[*at] = size;
    return 0;
}
API int cuMemFreeHost(void *at) {
    std::lock_guard<std::mutex> held(lock);
    page_locked.erase(at), std::free(at);
    return 0;
}
API int cuMemcpyHtoDAsync_v2(Ptr to, const void *from, size_t n, Stream *stream) {
    to_device += n;
    bool is_late = stream && !stream->is_first;
    if (is_late) late_copies++;
    if (is_late && !is_page_locked(from)) {
        // The caller may write over other memory once the call has returned.
        std::string own(static_cast<const char *>(from), n);
        put(stream, [=] { return std::memcpy((void *)to, own.data(), n), true; });
        return 0;
    }
    put(stream, [=] { return std::memcpy((void *)to, from, n), true; });
    return 0;
}
// Memory of the host that is not page-locked is copied before the call returns.
API int cuMemcpyDtoHAsync_v2(void *to, Ptr from, size_t n, Stream *stream) { run(stream, SIZE_MAX, true); to_host += n, copies_to_host++, largest_to_host = std::max(largest_to_host, n), check_copy(n); std::memcpy(to, (void *)from, n); return 0; }
API int cuMemcpyDtoDAsync_v2(Ptr to, Ptr from, size_t n, Stream *stream) { put(stream, [=] { return std::memmove((void *)to, (void *)from, n), true; }); return 0; }
API int cuMemcpyPeerAsync(Ptr to, void *, Ptr from, void *, size_t n, Stream *stream) { return cuMemcpyDtoDAsync_v2(to, from, n, stream); }
API int cuMemsetD8Async(Ptr to, unsigned char value, size_t n, Stream *stream) { put(stream, [=] { return std::memset((void *)to, value, n), true; }); return 0; }
API int cuMemGetInfo_v2(size_t *free, size_t *total) { *total = memory(); *free = *total - std::min(*total, in_use); return 0; }
API int cuDeviceGetDefaultMemPool(void **pool, int) { *pool = (void *)8; return 0; }
API int cuMemPoolSetAttribute(void *, int, void *) { return 0; }
API int cuMemPoolGetAttribute(void *, int attribute, std::uint64_t *value) { *value = attribute == 5 ? in_use : most_in_use; return 0; }  // 5: reserved now

// ---- device, context, streams, events
API int cuInit(unsigned) { return 0; }
API int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
API int cuDeviceTotalMem_v2(size_t *bytes, int) { *bytes = memory(); return 0; }
static int gpus() { static const char *set = std::getenv("CPU_CUDA_GPUS"); return set ? std::atoi(set) : 2; }
API int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal >= 0 && ordinal < gpus() ? 0 : 101; }
API int cuDeviceGetCount(int *count) { *count = gpus(); return 0; }
API int cuDeviceGetName(char *name, int len, int) { std::snprintf(name, len, "CPU instead of a GPU"); return 0; }
API int cuDeviceGetAttribute(int *value, int attribute, int) {
    switch (attribute) {
        case 75: *value = 9; break;      // compute capability
        case 76: *value = 0; break;
        case 16: *value = 132; break;    // multiprocessors
        case 115: *value = 1; break;     // memory pools
        default: *value = 1024;
    }
    return 0;
}
API int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)uintptr_t(8 * (device + 1)); return 0; }
API int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
static thread_local void *context_of_thread = nullptr;
API int cuCtxGetCurrent(void **context) { *context = context_of_thread; return 0; }
API int cuCtxSetCurrent(void *context) { context_of_thread = context; return 0; }
API int cuCtxSynchronize() { return 0; }
API int cuCtxDestroy_v2(void *) { return 0; }
API int cuStreamCreate(Stream **stream, unsigned) {
    static std::set<void *> known;
    std::lock_guard<std::mutex> held(lock);
    *stream = new Stream{known.insert(context_of_thread).second, {}, {}, 0};
    return 0;
}
API int cuStreamDestroy_v2(Stream *stream) { run(stream, SIZE_MAX, false); return 0; }
API int cuStreamSynchronize(Stream *stream) { run(stream, SIZE_MAX, true); return 0; }
API int cuStreamIsCapturing(void *, int *status) { *status = 0; return 0; }
struct Event { std::chrono::steady_clock::time_point at; Stream *stream = nullptr; size_t upto = 0; };
API int cuEventCreate(Event **event, unsigned) { *event = new Event{std::chrono::steady_clock::now()}; return 0; }
API int cuEventDestroy_v2(Event *event) { delete event; return 0; }
API int cuEventRecord(Event *event, Stream *stream) {
    *event = {std::chrono::steady_clock::now(), stream, 0};
    if (!stream) return 0;
    std::lock_guard<std::recursive_mutex> held(stream->lock);
    event->upto = stream->done + stream->waiting.size();
    return 0;
}
API int cuEventSynchronize(Event *event) { run(event->stream, event->upto, true); return 0; }
API int cuStreamWaitEvent(Stream *stream, Event *event, unsigned) { put(stream, [waited = *event] { return run(waited.stream, waited.upto, false); }); return 0; }
API int cuEventQuery(Event *event) { return run(event->stream, event->upto, false) ? 0 : 600; }
API int cuEventElapsedTime_v2(float *ms, const Event *from, const Event *to) { *ms = std::chrono::duration<float, std::milli>(to->at - from->at).count(); return 0; }
API int cuGetErrorString(int code, const char **text) { (void)code; *text = "an error of the stand-in's driver"; return 0; }
API int cuGetErrorName(int code, const char **text) { return cuGetErrorString(code, text); }

// ---- NVRTC: the C++ compiler
struct Program { std::string source, log, ptx; };
API int nvrtcVersion(int *major, int *minor) { *major = 13; *minor = 0; return 0; }
API int nvrtcCreateProgram(Program **program, const char *source, const char *, int, const char *const *, const char *const *) {
    *program = new Program{source, "", ""};
    return 0;
}
API int nvrtcDestroyProgram(Program **program) { delete *program; *program = nullptr; return 0; }
// Functions of a kernel file that meet a barrier or a warp operation, themselves or through another one: only those
// kernels need a stack a thread.
static std::set<std::string> functions_with_barriers(const std::string &source) {
    std::regex definition("(?:__device__|__global__)[^;{}()]*?(?:__launch_bounds__\\([^)]*\\)\\s*)?(\\w+)\\s*\\(");
    std::vector<std::pair<std::string, std::string>> bodies;
    for (std::sregex_iterator i(source.begin(), source.end(), definition), end; i != end; ++i) {
        size_t from = source.find('{', i->position() + i->length()), at = from;
        if (from == std::string::npos) continue;
        for (int depth = 0; at < source.size(); at++) {
            if (source[at] == '{') depth++;
            if (source[at] == '}' && --depth == 0) break;
        }
        bodies.push_back({(*i)[1].str(), source.substr(from, at - from)});
    }
    std::set<std::string> found;
    for (bool grows = true; grows;) {
        grows = false;
        for (auto &[name, body] : bodies) {
            bool meets = body.find("__sync") != std::string::npos || body.find("__shfl") != std::string::npos || body.find("__ballot") != std::string::npos;
            for (auto &other : found) meets |= std::regex_search(body, std::regex("\\b" + other + "\\s*\\("));
            if (meets) grows |= found.insert(name).second;
        }
    }
    return found;
}

API int nvrtcCompileProgram(Program *program, int count, const char *const *options) {
    const char *folder = std::getenv("CPU_CUDA_DIR");
    if (!folder) return program->log = "CPU_CUDA_DIR, the folder of cuda_on_host.h, is not set", 6;
    std::string text = "#include \"cuda_on_host.h\"\n" + program->source + "\n";
    std::set<std::string> meeting = functions_with_barriers(program->source);
    std::regex kernel("__global__\\s+void\\s+(?:__launch_bounds__\\([^)]*\\)\\s+)?(\\w+)\\s*\\(");
    for (std::sregex_iterator i(program->source.begin(), program->source.end(), kernel), end; i != end; ++i) text += (meeting.count((*i)[1].str()) ? "ENTRY(" : "ENTRY_WITHOUT_BARRIERS(") + (*i)[1].str() + ")\n";
    std::ostringstream name, header;
    header << std::ifstream(std::string(folder) + "/cuda_on_host.h").rdbuf();
    const char *cache = std::getenv("CKD_DET_CACHE");
    if (cache) std::system((std::string("mkdir -p '") + cache + "'").c_str());
    name << (cache ? cache : "/tmp") << "/cpu_cuda_" << getuid() << "_" << std::hex << std::hash<std::string>()(text + header.str());
    bool fused = true;
    std::string macros;
    for (int i = 0; i < count; i++) {
        std::string option = options[i], define = "--define-macro=";
        fused = fused && option != "--fmad=false";
        if (option.compare(0, define.size(), define) == 0) macros += " -D" + option.substr(define.size());
    }
    if (!fused) name << "_unfused";
    name << std::hash<std::string>()(macros);
    std::string base = name.str(), library = base + ".so";
    if (access(library.c_str(), R_OK) != 0) {
        std::string own = base + "_" + std::to_string(getpid());
        std::ofstream(own + ".cpp") << text;
        std::string contract = fused ? "fast" : "off";
        std::string command = "c++ -std=c++17 -O2 -march=native -ffp-contract=" + contract + " -w -shared -fPIC" + macros + " -I'" + std::string(folder) + "' " + own + ".cpp -o " + own + ".so 2> " + own + ".log";
        int code = std::system(command.c_str());
        std::ifstream log(own + ".log");
        program->log.assign(std::istreambuf_iterator<char>(log), {});
        unlink((own + ".cpp").c_str()), unlink((own + ".log").c_str());
        if (code != 0) return 6;
        std::rename((own + ".so").c_str(), library.c_str());
    }
    program->ptx = "//CPU_CUDA " + library;
    return 0;
}
API int nvrtcGetPTXSize(Program *program, size_t *size) { *size = program->ptx.size() + 1; return 0; }
API int nvrtcGetPTX(Program *program, char *out) { std::memcpy(out, program->ptx.c_str(), program->ptx.size() + 1); return 0; }
API int nvrtcGetProgramLogSize(Program *program, size_t *size) { *size = program->log.size() + 1; return 0; }
API int nvrtcGetProgramLog(Program *program, char *out) { std::memcpy(out, program->log.c_str(), program->log.size() + 1); return 0; }
API const char *nvrtcGetErrorString(int) { return "an error of the stand-in's NVRTC"; }

// ---- modules and launches
typedef void (*Entry)(const unsigned *, const unsigned *, unsigned, void **);
struct Function { std::string name; Entry entry; const size_t *sizes; };  // sizes of the arguments, up to a 0
struct Module { void *library; };
API int cuModuleLoadData(Module **module, const void *image) {
    auto *text = static_cast<const char *>(image);
    // Real PTX loads, but none of its kernels runs.
    void *library = std::strncmp(text, "//CPU_CUDA ", 11) == 0 ? dlopen(text + 11, RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (std::strncmp(text, "//CPU_CUDA ", 11) == 0 && !library) return 209;
    *module = new Module{library};
    return 0;
}
API int cuModuleLoad(void **, const char *) { return 209; }
API int cuModuleUnload(void *) { return 0; }
// Those of candle's own kernels that ckd-det and its tests come across: copies to row-major order, fills, and the
// formulas of tests. Their parameters are (count, dimensions, sizes and strides or null, operands).
static size_t place(size_t i, size_t dims, const size_t *info) {
    if (!info) return i;
    size_t at = 0;
    for (size_t d = dims; d-- > 0; i /= info[d]) at += i % info[d] * info[dims + d];
    return at;
}
template <class T> static void ucopy(const unsigned *, const unsigned *, unsigned, void **a) {
    auto count = *static_cast<size_t *>(a[0]), dims = *static_cast<size_t *>(a[1]);
    auto *info = *static_cast<size_t **>(a[2]);
    auto *from = *static_cast<T **>(a[3]), *to = *static_cast<T **>(a[4]);
    SAY("candle copies %zu numbers to another order\n", count);
    for (size_t i = 0; i < count; i++) to[i] = from[place(i, dims, info)];
}
template <class T> static void const_set(const unsigned *, const unsigned *, unsigned, void **a) {
    auto count = *static_cast<size_t *>(a[0]), dims = *static_cast<size_t *>(a[1]);
    auto *info = *static_cast<size_t **>(a[2]);
    T value = *static_cast<T *>(a[3]), *to = *static_cast<T **>(a[4]);
    for (size_t i = 0; i < count; i++) to[place(i, dims, info)] = value;
}
static size_t place2(size_t i, size_t dims, const size_t *info, int which) {
    if (!info) return i;
    size_t at = 0;
    for (size_t d = dims; d-- > 0; i /= info[d]) at += i % info[d] * info[which * dims + d];
    return at;
}
static void affine(const unsigned *, const unsigned *, unsigned, void **a) {
    auto count = *static_cast<size_t *>(a[0]), dims = *static_cast<size_t *>(a[1]);
    auto *info = *static_cast<size_t **>(a[2]);
    auto *from = *static_cast<float **>(a[3]), *to = *static_cast<float **>(a[4]);
    float mul = *static_cast<float *>(a[5]), add = *static_cast<float *>(a[6]);
    for (size_t i = 0; i < count; i++) to[i] = (from ? from[place(i, dims, info)] : to[i]) * mul + add;
}
template <float (*F)(float)> static void unary(const unsigned *, const unsigned *, unsigned, void **a) {
    auto count = *static_cast<size_t *>(a[0]), dims = *static_cast<size_t *>(a[1]);
    auto *info = *static_cast<size_t **>(a[2]);
    auto *from = *static_cast<float **>(a[3]), *to = *static_cast<float **>(a[4]);
    for (size_t i = 0; i < count; i++) to[i] = F(from[place(i, dims, info)]);
}
template <float (*F)(float, float)> static void binary(const unsigned *, const unsigned *, unsigned, void **a) {
    auto count = *static_cast<size_t *>(a[0]), dims = *static_cast<size_t *>(a[1]);
    auto *info = *static_cast<size_t **>(a[2]);
    auto *left = *static_cast<float **>(a[3]), *right = *static_cast<float **>(a[4]), *to = *static_cast<float **>(a[5]);
    for (size_t i = 0; i < count; i++) to[i] = F(left[place2(i, dims, info, 1)], right[place2(i, dims, info, 2)]);
}
static void equal(const unsigned *, const unsigned *, unsigned, void **a) {
    auto count = *static_cast<size_t *>(a[0]), dims = *static_cast<size_t *>(a[1]);
    auto *info = *static_cast<size_t **>(a[2]);
    auto *left = *static_cast<float **>(a[3]), *right = *static_cast<float **>(a[4]);
    auto *to = *static_cast<uint8_t **>(a[5]);
    for (size_t i = 0; i < count; i++) to[i] = left[place2(i, dims, info, 1)] == right[place2(i, dims, info, 2)];
}
static void cast_u8_f32(const unsigned *, const unsigned *, unsigned, void **a) {
    auto count = *static_cast<size_t *>(a[0]), dims = *static_cast<size_t *>(a[1]);
    auto *info = *static_cast<size_t **>(a[2]);
    auto *from = *static_cast<uint8_t **>(a[3]);
    auto *to = *static_cast<float **>(a[4]);
    for (size_t i = 0; i < count; i++) to[i] = from[place(i, dims, info)];
}
static void fast_sum(const unsigned *grid, const unsigned *, unsigned, void **a) {
    auto count = *static_cast<size_t *>(a[0]), part = *static_cast<size_t *>(a[1]), dims = *static_cast<size_t *>(a[2]);
    auto *info = *static_cast<size_t **>(a[3]);
    auto *from = *static_cast<float **>(a[4]), *to = *static_cast<float **>(a[5]);
    for (size_t block = 0; block < grid[0]; block++) {
        double sum = 0;
        for (size_t i = block * part; i < std::min(count, (block + 1) * part); i++) sum += from[place(i, dims, info)];
        to[block] = float(sum);
    }
}
static void fast_sum_small(const unsigned *, const unsigned *, unsigned, void **a) {
    auto count = *static_cast<size_t *>(a[0]), part = *static_cast<size_t *>(a[1]), dims = *static_cast<size_t *>(a[2]);
    auto *info = *static_cast<size_t **>(a[3]);
    auto *from = *static_cast<float **>(a[4]), *to = *static_cast<float **>(a[5]);
    for (size_t block = 0; block < count; block++) {
        double sum = 0;
        for (size_t i = block * part; i < (block + 1) * part; i++) sum += from[place(i, dims, info)];
        to[block] = float(sum);
    }
}
template <class T> static void copy2d(const unsigned *, const unsigned *, unsigned, void **a) {
    auto *from = *static_cast<T **>(a[0]), *to = *static_cast<T **>(a[1]);
    uint32_t rows = *static_cast<uint32_t *>(a[2]), columns = *static_cast<uint32_t *>(a[3]);
    uint32_t from_row = *static_cast<uint32_t *>(a[4]), to_row = *static_cast<uint32_t *>(a[5]);
    for (uint32_t row = 0; row < rows; row++) std::memmove(to + size_t(row) * to_row, from + size_t(row) * from_row, columns * sizeof(T));
}
static float plus_of(float a, float b) { return a + b; }
static float minus_of(float a, float b) { return a - b; }
static float times_of(float a, float b) { return a * b; }
static float over_of(float a, float b) { return a / b; }
static float larger_of(float a, float b) { return std::fmax(a, b); }
static float smaller_of(float a, float b) { return std::fmin(a, b); }
static float exp_of(float a) { return std::exp(a); }
static float square_of(float a) { return a * a; }
static float negative_of(float a) { return -a; }
static float root_of(float a) { return std::sqrt(a); }
static float sine_of(float a) { return std::sin(a); }
static float log_of(float a) { return std::log(a); }
static const std::map<std::string, Entry> CANDLE = {
    {"affine_f32", affine}, {"badd_f32", binary<plus_of>}, {"bsub_f32", binary<minus_of>}, {"bmul_f32", binary<times_of>}, {"bdiv_f32", binary<over_of>},
    {"bmaximum_f32", binary<larger_of>}, {"bminimum_f32", binary<smaller_of>}, {"eq_f32", equal}, {"cast_u8_f32", cast_u8_f32},
    {"uexp_f32", unary<exp_of>}, {"usqr_f32", unary<square_of>}, {"uneg_f32", unary<negative_of>}, {"usqrt_f32", unary<root_of>}, {"usin_f32", unary<sine_of>}, {"ulog_f32", unary<log_of>},
    {"fast_sum_f32", fast_sum}, {"fast_sum_small_f32", fast_sum_small}, {"copy2d_f32", copy2d<float>}, {"copy2d_u8", copy2d<uint8_t>}, {"copy2d_bf16", copy2d<uint16_t>},
    {"ucopy_f32", ucopy<float>}, {"ucopy_f64", ucopy<double>}, {"ucopy_u8", ucopy<uint8_t>}, {"ucopy_u32", ucopy<uint32_t>}, {"ucopy_bf16", ucopy<uint16_t>},
    {"const_set_f32", const_set<float>}, {"const_set_f64", const_set<double>}, {"const_set_u8", const_set<uint8_t>},
};

API int cuModuleGetFunction(void **function, Module *module, const char *name) {
    void *entry = module->library ? dlsym(module->library, (std::string("host_") + name).c_str()) : nullptr;
    if (!module->library && CANDLE.count(name)) entry = reinterpret_cast<void *>(CANDLE.at(name));
    if (module->library && !entry) return 500;
    void *sizes = module->library ? dlsym(module->library, (std::string("sizes_") + name).c_str()) : nullptr;
    *function = new Function{name, reinterpret_cast<Entry>(entry), sizes ? reinterpret_cast<const size_t *(*)()>(sizes)() : nullptr};
    return 0;
}
API int cuLaunchKernel(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, Stream *stream, void **arguments, void **) {
    if (!f->entry) { std::fprintf(stderr, "cpu_cuda: kernel %s has no text here (a kernel of candle's?)\n", f->name.c_str()); return 500; }
    if (shared) { std::fprintf(stderr, "cpu_cuda: %s wants dynamic shared memory\n", f->name.c_str()); return 1; }
    static unsigned order = std::getenv("CPU_CUDA_ORDER") ? std::atoi(std::getenv("CPU_CUDA_ORDER")) : 0;
    static std::mutex one_at_a_time;  // a GPU's blocks of two launches may overlap; here they do not
    {
        std::lock_guard<std::mutex> held(one_at_a_time);
        launches++;
        SAY("%s <<<(%u,%u,%u), (%u,%u,%u)>>>\n", f->name.c_str(), gx, gy, gz, bx, by, bz);
    }
    auto launch = [=](void **arguments) {
        unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
        std::lock_guard<std::mutex> held(one_at_a_time);
        f->entry(grid, block, order, arguments);
    };
    if (!stream || stream->is_first || !f->sizes) return run(stream, SIZE_MAX, true), launch(arguments), 0;
    std::vector<std::string> kept;  // the caller's own are gone when a late launch is made
    for (const size_t *size = f->sizes; *size; size++) kept.emplace_back(static_cast<char *>(arguments[kept.size()]), *size);
    put(stream, [=]() mutable {
        std::vector<void *> own;
        for (auto &argument : kept) own.push_back(argument.data());
        return launch(own.data()), true;
    });
    return 0;
}

// ---- cuRAND and cuBLAS: handles, and products
API int curandCreateGenerator(void **g, int) { *g = (void *)8; return 0; }
API int curandDestroyGenerator(void *) { return 0; }
API int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return 0; }
API int curandSetStream(void *, void *) { return 0; }
API int cublasCreate_v2(void **handle) { *handle = (void *)8; return 0; }
API int cublasDestroy_v2(void *) { return 0; }
API int cublasSetStream_v2(void *, void *) { return 0; }
API int cublasSetMathMode(void *, int) { return 0; }

// Element types: cudaDataType_t and cudnnDataType_t.
static float get(const void *at, int type, size_t i) {
    if (type == 0) return static_cast<const float *>(at)[i];
    uint32_t bits = uint32_t(static_cast<const uint16_t *>(at)[i]) << 16;
    float x; std::memcpy(&x, &bits, 4); return x;
}
static void put(void *at, int type, size_t i, float x) {
    if (type == 0) { static_cast<float *>(at)[i] = x; return; }
    uint32_t bits; std::memcpy(&bits, &x, 4);
    bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
    static_cast<uint16_t *>(at)[i] = uint16_t(is_nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
// Column-major, as cuBLAS: C (m x n) = alpha op(A) op(B) + beta C.
API int cublasGemmStridedBatchedEx(void *, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int a_type, int lda, long long sa,
                                   const void *b, int b_type, int ldb, long long sb, const void *beta, void *c, int c_type, int ldc, long long sc, int count, int, int) {
    auto kind = [](int type) { return type == 0 ? 0 : type == 14 ? 9 : -1; };  // CUDA_R_32F, CUDA_R_16BF
    if (kind(a_type) < 0 || kind(b_type) < 0 || kind(c_type) < 0) return 15;
    float al = *static_cast<const float *>(alpha), be = *static_cast<const float *>(beta);
    // Factors in the order of the sum, then dot products.
    std::vector<double> left(size_t(m) * k), right(size_t(n) * k);
    for (int i = 0; i < count; i++) {
        for (int row = 0; row < m; row++) for (int j = 0; j < k; j++) left[size_t(row) * k + j] = get(a, kind(a_type), i * sa + (ta ? size_t(row) * lda + j : size_t(j) * lda + row));
        for (int col = 0; col < n; col++) for (int j = 0; j < k; j++) right[size_t(col) * k + j] = get(b, kind(b_type), i * sb + (tb ? size_t(j) * ldb + col : size_t(col) * ldb + j));
        for (int col = 0; col < n; col++) for (int row = 0; row < m; row++) {
            double sum = 0;
            for (int j = 0; j < k; j++) sum += left[size_t(row) * k + j] * right[size_t(col) * k + j];
            size_t at = i * sc + size_t(col) * ldc + row;
            put(c, kind(c_type), at, float(al * sum + (be != 0 ? be * get(c, kind(c_type), at) : 0)));
        }
    }
    return 0;
}

API int cublasGemmEx(void *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int a_type, int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc, int compute, int algorithm) {
    return cublasGemmStridedBatchedEx(h, ta, tb, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta, c, c_type, ldc, 0, 1, compute, algorithm);
}
API int cublasSgemmStridedBatched(void *h, int ta, int tb, int m, int n, int k, const float *alpha, const float *a, int lda, long long sa, const float *b, int ldb, long long sb, const float *beta, float *c, int ldc, long long sc, int count) {
    return cublasGemmStridedBatchedEx(h, ta, tb, m, n, k, alpha, a, 0, lda, sa, b, 0, ldb, sb, beta, c, 0, ldc, sc, count, 0, 0);
}

// ---- cuDNN: convolutions, any strides
struct Tensor4 { int type, n, c, h, w; long long sn, sc, sh, sw; };
struct Conv { int pad[2], stride[2], dilation[2], groups; };
static void packed(Tensor4 *t, int format, int type, int n, int c, int h, int w) {
    *t = {type, n, c, h, w, (long long)c * h * w, (long long)h * w, w, 1};
    if (format == 1) t->sc = 1, t->sw = c, t->sh = (long long)w * c;
}
API int cudnnCreate(void **handle) { *handle = (void *)8; return 0; }
API int cudnnDestroy(void *) { return 0; }
API int cudnnSetStream(void *, void *) { return 0; }
API size_t cudnnGetVersion() { return 92100; }
API const char *cudnnGetErrorString(int) { return "an error of the stand-in's cuDNN"; }
API int cudnnCreateTensorDescriptor(Tensor4 **t) { *t = new Tensor4{}; return 0; }
API int cudnnDestroyTensorDescriptor(Tensor4 *t) { delete t; return 0; }
API int cudnnSetTensor4dDescriptor(Tensor4 *t, int format, int type, int n, int c, int h, int w) { packed(t, format, type, n, c, h, w); return 0; }
API int cudnnSetTensor4dDescriptorEx(Tensor4 *t, int type, int n, int c, int h, int w, int sn, int sc, int sh, int sw) { *t = {type, n, c, h, w, sn, sc, sh, sw}; return 0; }
API int cudnnCreateFilterDescriptor(Tensor4 **t) { *t = new Tensor4{}; return 0; }
API int cudnnDestroyFilterDescriptor(Tensor4 *t) { delete t; return 0; }
API int cudnnSetFilter4dDescriptor(Tensor4 *t, int type, int format, int k, int c, int h, int w) { packed(t, format, type, k, c, h, w); return 0; }
API int cudnnCreateConvolutionDescriptor(Conv **c) { *c = new Conv{}; (*c)->groups = 1; return 0; }
API int cudnnDestroyConvolutionDescriptor(Conv *c) { delete c; return 0; }
API int cudnnSetConvolution2dDescriptor(Conv *c, int ph, int pw, int u, int v, int dh, int dw, int, int) { *c = {{ph, pw}, {u, v}, {dh, dw}, c->groups}; return 0; }
API int cudnnSetConvolutionMathType(Conv *, int) { return 0; }
API int cudnnSetConvolutionGroupCount(Conv *c, int groups) { c->groups = groups; return 0; }

// Visits every product of a convolution: f(x index, w index, y index).
template <class F> static int visit(const Tensor4 &x, const Tensor4 &w, const Conv &conv, const Tensor4 &y, F f) {
    int out_a_group = w.n / conv.groups;
    if (x.n != y.n || y.c != w.n || x.c != w.c * conv.groups) return 3;
    for (int axis = 0; axis < 2; axis++) {
        int in = axis ? x.w : x.h, kernel = axis ? w.w : w.h, out = axis ? y.w : y.h;
        if ((in + 2 * conv.pad[axis] - conv.dilation[axis] * (kernel - 1) - 1) / conv.stride[axis] + 1 != out) return 3;
    }
    for (int n = 0; n < y.n; n++) for (int oy = 0; oy < y.h; oy++) for (int ox = 0; ox < y.w; ox++)
        for (int r = 0; r < w.h; r++) for (int s = 0; s < w.w; s++) {
            int iy = oy * conv.stride[0] + r * conv.dilation[0] - conv.pad[0], ix = ox * conv.stride[1] + s * conv.dilation[1] - conv.pad[1];
            if (iy < 0 || iy >= x.h || ix < 0 || ix >= x.w) continue;
            for (int k = 0; k < w.n; k++) for (int c = 0; c < w.c; c++)
                f(n * x.sn + (k / out_a_group * w.c + c) * x.sc + iy * x.sh + ix * x.sw, k * w.sn + c * w.sc + r * w.sh + s * w.sw, n * y.sn + k * y.sc + oy * y.sh + ox * y.sw);
        }
    return 0;
}
static size_t extent(const Tensor4 &t) { return 1 + (t.n - 1) * t.sn + (t.c - 1) * t.sc + (t.h - 1) * t.sh + (t.w - 1) * t.sw; }
// Channels-last f32 maps without gaps: inner loops over neighbouring channels. f(x, w, y, group's inputs, dot or axpy).
static bool is_packed(const Tensor4 &t) { return t.sc == 1 && t.sw == t.c && t.sh == (long long)t.w * t.c && t.sn == (long long)t.h * t.sh; }
template <class F> static int visit_rows(const Tensor4 &x, const Tensor4 &w, const Conv &conv, const Tensor4 &y, F f) {
    int out_a_group = w.n / conv.groups;
    for (int n = 0; n < y.n; n++) for (int oy = 0; oy < y.h; oy++) for (int ox = 0; ox < y.w; ox++)
        for (int r = 0; r < w.h; r++) for (int s = 0; s < w.w; s++) {
            int iy = oy * conv.stride[0] + r * conv.dilation[0] - conv.pad[0], ix = ox * conv.stride[1] + s * conv.dilation[1] - conv.pad[1];
            if (iy < 0 || iy >= x.h || ix < 0 || ix >= x.w) continue;
            long long xi = n * x.sn + iy * x.sh + ix * x.sw, wi = r * w.sh + s * w.sw, yi = n * y.sn + oy * y.sh + ox * y.sw;
            for (int k = 0; k < w.n; k++) f(xi + k / out_a_group * w.c, wi + k * w.sn, yi + k, w.c);
        }
    return 0;
}
template <class F> static int accumulate(const Tensor4 &out, void *to, float alpha, float beta, F fill) {
    std::vector<double> sums(extent(out), 0.0);
    int status = fill(sums);
    if (status) return status;
    for (int n = 0; n < out.n; n++) for (int c = 0; c < out.c; c++) for (int h = 0; h < out.h; h++) for (int w = 0; w < out.w; w++) {
        size_t at = n * out.sn + c * out.sc + h * out.sh + w * out.sw;
        put(to, out.type, at, float(alpha * sums[at] + (beta != 0 ? beta * get(to, out.type, at) : 0)));
    }
    return 0;
}
// A packed bf16 tensor as f32, so that its convolutions take the quick way too.
static const float *floats(const Tensor4 &t, const void *from, std::vector<float> &room, Tensor4 &as) {
    as = t;
    if (t.type == 0) return static_cast<const float *>(from);
    as.type = 0, room.resize(extent(t));
    for (size_t i = 0; i < room.size(); i++) room[i] = get(from, t.type, i);
    return room.data();
}
static bool is_plain(const Tensor4 &t) { return t.type == 0 && is_packed(t); }
// It has no depthwise convolution of bf16.
static bool refuses(const Conv &conv, const Tensor4 &x) { return x.type == 9 && conv.groups > 1 && conv.groups == x.c; }
static float one(const void *scalar) { return *static_cast<const float *>(scalar); }
API int cudnnConvolutionForward(void *, const void *alpha, const Tensor4 *xd, const void *x, const Tensor4 *wd, const void *w, const Conv *conv, int, void *, size_t, const void *beta, const Tensor4 *yd, void *y) {
    if (refuses(*conv, *xd)) return 3000;
    std::vector<float> x_room, w_room;
    Tensor4 of_x, of_w;
    x = floats(*xd, x, x_room, of_x), xd = &of_x, w = floats(*wd, w, w_room, of_w), wd = &of_w;
    if (is_plain(*xd) && is_plain(*wd) && is_packed(*yd))
        return accumulate(*yd, y, one(alpha), one(beta), [&](std::vector<double> &sums) {
            auto *xs = static_cast<const float *>(x), *ws = static_cast<const float *>(w);
            return visit_rows(*xd, *wd, *conv, *yd, [&](long long i, long long j, long long o, int c) {
                double sum = 0;
                for (int at = 0; at < c; at++) sum += double(xs[i + at]) * ws[j + at];
                sums[o] += sum;
            });
        });
    return accumulate(*yd, y, one(alpha), one(beta), [&](std::vector<double> &sums) { return visit(*xd, *wd, *conv, *yd, [&](size_t i, size_t j, size_t o) { sums[o] += double(get(x, xd->type, i)) * get(w, wd->type, j); }); });
}
// Forward, and activation(y + z + bias) of its result. It refuses groups, and without an activation all algorithms but one.
struct Activation { int mode; };
API int cudnnCreateActivationDescriptor(Activation **a) { *a = new Activation{}; return 0; }
API int cudnnSetActivationDescriptor(Activation *a, int mode, int, double) { a->mode = mode; return 0; }
API int cudnnDestroyActivationDescriptor(Activation *a) { delete a; return 0; }
API int cudnnConvolutionBiasActivationForward(void *handle, const void *alpha, const Tensor4 *xd, const void *x, const Tensor4 *wd, const void *w, const Conv *conv, int algorithm, void *room, size_t bytes, const void *alpha2, const Tensor4 *zd, const void *z, const Tensor4 *bd, const void *bias, const Activation *act, const Tensor4 *yd, void *y) {
    if (bd->n != 1 || bd->c != yd->c || bd->h != 1 || bd->w != 1 || zd->n != yd->n || zd->c != yd->c || zd->h != yd->h || zd->w != yd->w) return 2000;
    if (conv->groups != 1 || (act->mode != 1 && !(act->mode == 5 && algorithm == 1))) return 3000;
    float zero = 0;
    if (int status = cudnnConvolutionForward(handle, alpha, xd, x, wd, w, conv, algorithm, room, bytes, &zero, yd, y)) return status;
    for (int n = 0; n < yd->n; n++) for (int c = 0; c < yd->c; c++) for (int h = 0; h < yd->h; h++) for (int k = 0; k < yd->w; k++) {
        size_t at = n * yd->sn + c * yd->sc + h * yd->sh + k * yd->sw;
        float value = get(y, yd->type, at) + get(bias, bd->type, c * bd->sc);
        if (one(alpha2) != 0) value += one(alpha2) * get(z, zd->type, n * zd->sn + c * zd->sc + h * zd->sh + k * zd->sw);
        put(y, yd->type, at, act->mode == 1 && value < 0 ? 0 : value);
    }
    return 0;
}
API int cudnnConvolutionBackwardData(void *, const void *alpha, const Tensor4 *wd, const void *w, const Tensor4 *dyd, const void *dy, const Conv *conv, int, void *, size_t, const void *beta, const Tensor4 *dxd, void *dx) {
    if (refuses(*conv, *dxd)) return 3000;
    std::vector<float> g_room, w_room;
    Tensor4 of_g, of_w;
    dy = floats(*dyd, dy, g_room, of_g), dyd = &of_g, w = floats(*wd, w, w_room, of_w), wd = &of_w;
    if (is_packed(*dxd) && is_plain(*wd) && is_plain(*dyd))
        return accumulate(*dxd, dx, one(alpha), one(beta), [&](std::vector<double> &sums) {
            auto *gs = static_cast<const float *>(dy), *ws = static_cast<const float *>(w);
            return visit_rows(*dxd, *wd, *conv, *dyd, [&](long long i, long long j, long long o, int c) {
                double g = gs[o];
                for (int at = 0; at < c; at++) sums[i + at] += g * ws[j + at];
            });
        });
    return accumulate(*dxd, dx, one(alpha), one(beta), [&](std::vector<double> &sums) { return visit(*dxd, *wd, *conv, *dyd, [&](size_t i, size_t j, size_t o) { sums[i] += double(get(dy, dyd->type, o)) * get(w, wd->type, j); }); });
}
API int cudnnConvolutionBackwardFilter(void *, const void *alpha, const Tensor4 *xd, const void *x, const Tensor4 *dyd, const void *dy, const Conv *conv, int, void *, size_t, const void *beta, const Tensor4 *dwd, void *dw) {
    if (refuses(*conv, *xd)) return 3000;
    std::vector<float> x_room, g_room;
    Tensor4 of_x, of_g;
    x = floats(*xd, x, x_room, of_x), xd = &of_x, dy = floats(*dyd, dy, g_room, of_g), dyd = &of_g;
    if (is_plain(*xd) && is_packed(*dwd) && is_plain(*dyd))
        return accumulate(*dwd, dw, one(alpha), one(beta), [&](std::vector<double> &sums) {
            auto *gs = static_cast<const float *>(dy), *xs = static_cast<const float *>(x);
            return visit_rows(*xd, *dwd, *conv, *dyd, [&](long long i, long long j, long long o, int c) {
                double g = gs[o];
                for (int at = 0; at < c; at++) sums[j + at] += g * xs[i + at];
            });
        });
    return accumulate(*dwd, dw, one(alpha), one(beta), [&](std::vector<double> &sums) { return visit(*xd, *dwd, *conv, *dyd, [&](size_t i, size_t j, size_t o) { sums[j] += double(get(x, xd->type, i)) * get(dy, dyd->type, o); }); });
}
struct Perf { int algo, status; float time; size_t memory; int determinism, math, reserved[3]; };
static int choice(int wanted, int *returned, Perf *perf) { if (wanted < 1) return 3; *returned = 1; *perf = {1, 0, 1.0f, 0, 1, 0, {}}; return 0; }
API int cudnnGetConvolutionForwardAlgorithm_v7(void *, const void *, const void *, const void *, const void *, int wanted, int *returned, Perf *perf) { return choice(wanted, returned, perf); }
API int cudnnGetConvolutionBackwardDataAlgorithm_v7(void *, const void *, const void *, const void *, const void *, int wanted, int *returned, Perf *perf) { return choice(wanted, returned, perf); }
API int cudnnGetConvolutionBackwardFilterAlgorithm_v7(void *, const void *, const void *, const void *, const void *, int wanted, int *returned, Perf *perf) { return choice(wanted, returned, perf); }
// Some algorithms compute no shape, as on a GPU (3000: not supported), and one asks for more memory than there is.
static int room(int algorithm, size_t *size) { *size = algorithm == 2 ? size_t(1) << 40 : algorithm * 64; return algorithm > 3 ? 3000 : 0; }
API int cudnnGetConvolutionForwardWorkspaceSize(void *, const void *, const void *, const void *, const void *, int algorithm, size_t *size) { return room(algorithm, size); }
API int cudnnGetConvolutionBackwardDataWorkspaceSize(void *, const void *, const void *, const void *, const void *, int algorithm, size_t *size) { return room(algorithm, size); }
API int cudnnGetConvolutionBackwardFilterWorkspaceSize(void *, const void *, const void *, const void *, const void *, int algorithm, size_t *size) { return room(algorithm, size); }
