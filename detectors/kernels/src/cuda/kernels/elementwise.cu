// Functions of elements, copies of rows, fills.

__device__ __forceinline__ float hard_sigmoid_of(float x) {
    float y = x + 3.0f;
    y = y < 0.0f ? 0.0f : y;
    y = y > 6.0f ? 6.0f : y;
    return y / 6.0f;
}

__device__ __forceinline__ float hard_swish_of(float x) {
    if (x <= -3.0f) return 0.0f;
    float y = x + 3.0f;
    return x * (y > 6.0f ? 6.0f : y) / 6.0f;
}

// y = f(x): 0 times the factor, 1 ReLU, 2 ReLU6, 3 hard sigmoid, 4 hard swish, 5 sigmoid.
extern "C" __global__ void map(const element *x, element *y, long long count, int code, float factor) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    float value = x[i];
    switch (code) {
    case 0: value = value * factor; break;
    case 1: value = activate(value, 1); break;
    case 2: value = activate(value, 2); break;
    case 3: value = hard_sigmoid_of(value); break;
    case 4: value = hard_swish_of(value); break;
    default: value = float(1.0 / (1.0 + exp(-double(value))));
    }
    y[i] = value;
}

// f(a, b): 0 the sum; the gradient a through 1 ReLU, 2 ReLU6 with the result b, 3 hard sigmoid, 4 hard swish of b, 5 sigmoid with the result b.
extern "C" __global__ void zip(const element *a, const element *b, element *y, long long count, int code) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    float g = a[i], x = b[i], value;
    switch (code) {
    case 0: value = g + x; break;
    case 1: value = passes(x, 1) ? g : 0.0f; break;
    case 2: value = passes(x, 2) ? g : 0.0f; break;
    case 3: value = (x <= -3.0f || x >= 3.0f) ? 0.0f : g / 6.0f; break;
    case 4: value = x <= -3.0f ? 0.0f : x >= 3.0f ? g : g * (x / 3.0f + 0.5f); break;
    default: value = g * x * (1.0f - x);
    }
    y[i] = value;
}

// The piece of a piecewise function that each number lies on: 0 up to `low`, 2 from `high` on, 1 between.
extern "C" __global__ void pieces(const element *x, u8 *pieces, long long count, float low, float high) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < count) pieces[i] = u8(int(!(x[i] <= low)) + int(x[i] >= high));
}

// The given piece at x of 0 ReLU, 1 ReLU6, 2 hard sigmoid, 3 hard swish.
extern "C" __global__ void on_pieces(const element *x, const u8 *pieces, element *y, long long count, int code) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    float value = x[i];
    if (pieces[i] == 0) value = 0.0f;
    else if (pieces[i] == 1) value = code < 2 ? value : code == 2 ? (value + 3.0f) / 6.0f : value * (value + 3.0f) / 6.0f;
    else value = code == 1 ? 6.0f : code == 2 ? 1.0f : value;
    y[i] = value;
}

// The gradient g through that piece at x.
extern "C" __global__ void through_pieces(const element *g, const element *x, const u8 *pieces, element *dx, long long count, int code) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    float value = g[i];
    if (pieces[i] == 0) value = 0.0f;
    else if (pieces[i] == 1) value = code < 2 ? value : code == 2 ? value / 6.0f : value * (x[i] / 3.0f + 0.5f);
    else value = code == 1 || code == 2 ? 0.0f : value;
    dx[i] = value;
}

extern "C" __global__ void add_in_place(element *to, const element *from, long long count) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < count) to[i] = to[i] + from[i];
}

extern "C" __global__ void copy(float *to, const float *from, long long count) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < count) to[i] = from[i];
}

// x times the only number of factor, in place; a factor of 1 costs no pass over x.
extern "C" __global__ void times_scalar(element *x, const float *factor, long long count) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    float by = factor[0];
    if (i < count && by != 1.0f) x[i] = x[i] * by;
}

// Row `indices[r]` of a (m, d) as row r.
extern "C" __global__ void gather_rows(const element *a, const int *indices, element *out, int rows, int d) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= (long long)rows * d) return;
    out[i] = a[(long long)indices[i / d] * d + i % d];
}

// To row m of to (m, d), the rows of `from` that `order` names from starts[m] on: in their order.
extern "C" __global__ void add_rows(const element *from, const int *starts, const int *order, element *to, int m, int d) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= (long long)m * d) return;
    int row = int(i / d), column = int(i % d);
    if (starts[row] == starts[row + 1]) return;
    float sum = to[i];
    for (int at = starts[row]; at < starts[row + 1]; at++) sum += from[(long long)order[at] * d + column];
    to[i] = sum;
}

// A part of a concatenation: `outer` runs of `run` numbers, to rows of `row` numbers from `offset` on.
extern "C" __global__ void put_runs(const element *part, element *out, long long outer, long long run, long long row, long long offset) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= outer * run) return;
    out[i / run * row + offset + i % run] = part[i];
}

// running = (1 - momentum) running + momentum batch, in double.
extern "C" __global__ void move_towards(float *running, const float *batch, double momentum, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) running[i] = float((1.0 - momentum) * running[i] + momentum * batch[i]);
}

// The vectors of `width` numbers that lie one after the other in `vectors` are added into the first, as a tree over their order.
extern "C" __global__ void tree_sum(float *vectors, int count, long long width) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= width) return;
    for (int step = 1; step < count; step *= 2)
        for (int first = 0; first + step < count; first += 2 * step)
            vectors[first * width + i] += vectors[(first + step) * width + i];
}
