// Kernels that rank numbers, by the keys of selection.cuh.
struct OfValues {
    const float *values;
    float floor;
    unsigned first;
    __device__ __forceinline__ Key operator()(int i) const {
        float value = values[i];
        return value >= floor ? Key(descending(value)) << 32 | (first + unsigned(i)) : NO_KEY;
    }
};

struct OfKeys {
    const long long *keys;
    __device__ __forceinline__ Key operator()(int i) const { return Key(keys[i]); }
};

// Numbers [start, start + count) of all; the first has place `place` in its segment.
struct Chunk {
    long long start;
    int place, count;
};

// A block (1024) selects from a chunk of numbers: `most` keys each.
extern "C" __global__ void __launch_bounds__(1024)
best_of_chunks(const float *values, const Chunk *chunks, int most, float floor, long long *keys) {
    Chunk chunk = chunks[blockIdx.x];
    OfValues of = {values + chunk.start, floor, unsigned(chunk.place)};
    select(of, chunk.count, most, keys + blockIdx.x * (long long)most);
}

// Chunks [first, first + count) of a segment, whose first row is `row`.
struct Segment {
    long long row;
    int first, count;
};

// A block (1024) selects from the keys of a segment's chunks, `most` again.
extern "C" __global__ void __launch_bounds__(1024)
best_of_segments(const long long *keys, const Segment *segments, int most, long long *out) {
    Segment segment = segments[blockIdx.x];
    OfKeys of = {keys + segment.first * (long long)most};
    select(of, segment.count * most, most, out + blockIdx.x * (long long)most);
}

// For each chosen number: its place (as bits; -1 where none was left), itself, and its row's numbers of the companion.
// A block row (32) of grid (slots / 8, segments).
extern "C" __global__ void chosen(const long long *keys, const Segment *segments, const float *values, const float *companion,
                                  int columns, int width, int most, float *out) {
    int slot = blockIdx.x * blockDim.y + threadIdx.y;
    if (slot >= most) return;
    long long at = blockIdx.y * (long long)most + slot, row = segments[blockIdx.y].row;
    Key key = Key(keys[at]);
    unsigned place = key == NO_KEY ? ~0u : unsigned(key);
    float *to = out + at * (2 + width);
    if (threadIdx.x == 0) {
        to[0] = __uint_as_float(place);
        to[1] = place == ~0u ? 0.0f : values[row * columns + place];
    }
    const float *from = companion + (row + place / unsigned(columns)) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) to[2 + i] = place == ~0u ? 0.0f : from[i];
}

// The largest number of each row; minus infinity of NaN alone.
extern "C" __global__ void row_maxima(const float *x, float *out, long long rows, int columns) {
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    float largest = __uint_as_float(0xff800000u);
    for (int i = threadIdx.x; i < columns; i += 32) {
        float value = x[row * columns + i];
        largest = value > largest ? value : largest;
    }
    for (int bits = 16; bits > 0; bits /= 2) {
        float other = __shfl_xor_sync(0xffffffffu, largest, bits);
        largest = other > largest ? other : largest;
    }
    if (threadIdx.x == 0) out[row] = largest;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The root of sigmoid(class) sigmoid(place), place by place of `columns` classes; 0 of classes below `floor`, and of NaN.
extern "C" __global__ void joint_scores(const float *classes, const float *places, float *out, long long count, int columns,
                                        float floor) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    float logit = classes[i];
    out[i] = logit >= floor ? sqrtf(sigmoid(logit) * sigmoid(places[i / columns])) : 0.0f;
}
