// Rows of numbers: unit vectors, log-probabilities, sums of columns. A warp (32, rows) or, of long rows, a block
// (1024, 1) computes a row; sums are in double and in a fixed order.

// x / max(|x|, eps).
extern "C" __global__ void __launch_bounds__(1024)
unit_rows(const float *x, float *out, long long rows, int d, double eps) {
    __shared__ double parts[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const float *from = x + row * d;
    double squares = 0.0;
    for (int i = threadIdx.x; i < d; i += blockDim.x) squares += double(from[i]) * double(from[i]);
    double scale = 1.0 / fmax(sqrt(row_sum(squares, parts)), eps);
    for (int i = threadIdx.x; i < d; i += blockDim.x) out[row * d + i] = float(double(from[i]) * scale);
}

// The gradient of unit rows: 0 at a row of zeros.
extern "C" __global__ void __launch_bounds__(1024)
unit_rows_gradient(const float *g, const float *x, float *out, long long rows, int d, double eps) {
    __shared__ double parts[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const float *from = x + row * d, *given = g + row * d;
    double squares = 0.0, products = 0.0;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        squares += double(from[i]) * double(from[i]);
        products += double(from[i]) * double(given[i]);
    }
    double norm = sqrt(row_sum(squares, parts));
    products = row_sum(products, parts);
    double scale = norm == 0.0 ? 0.0 : 1.0 / fmax(norm, eps);
    double along = norm > eps ? products / (norm * norm) : 0.0;
    for (int i = threadIdx.x; i < d; i += blockDim.x)
        out[row * d + i] = float((double(given[i]) - along * double(from[i])) * scale);
}

// x - logsumexp(x).
extern "C" __global__ void __launch_bounds__(1024) log_softmax(const float *x, float *out, long long rows, int k) {
    __shared__ double parts[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const float *from = x + row * k;
    float highest = __uint_as_float(0xff800000u);
    for (int i = threadIdx.x; i < k; i += blockDim.x) highest = from[i] > highest ? from[i] : highest;
    highest = row_largest(highest, parts);
    double total = 0.0;
    for (int i = threadIdx.x; i < k; i += blockDim.x) total += exp_of_negative(highest - from[i]);
    double by = double(highest) + log(row_sum(total, parts));
    for (int i = threadIdx.x; i < k; i += blockDim.x) out[row * k + i] = float(double(from[i]) - by);
}

// g - exp(y) Σ g, y log-probabilities.
extern "C" __global__ void __launch_bounds__(1024)
log_softmax_gradient(const float *g, const float *y, float *out, long long rows, int k) {
    __shared__ double parts[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    double sum = 0.0;
    for (int i = threadIdx.x; i < k; i += blockDim.x) sum += g[row * k + i];
    float total = float(row_sum(sum, parts));
    for (int i = threadIdx.x; i < k; i += blockDim.x)
        out[row * k + i] = g[row * k + i] - exp_of_negative(-y[row * k + i]) * total;
}

// Sums of 32 columns over a chunk of rows: a block (32, 8), grid (columns / 32, chunks).
extern "C" __global__ void __launch_bounds__(256)
column_sums(const float *x, double *partial, long long rows, int columns, long long chunk) {
    __shared__ double sums[8][33];
    int column = blockIdx.x * 32 + threadIdx.x;
    long long first = blockIdx.y * chunk, last = first + chunk < rows ? first + chunk : rows;
    double sum = 0.0;
    if (column < columns)
        for (long long row = first + threadIdx.y; row < last; row += 8) sum += x[row * columns + column];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || column >= columns) return;
    for (int i = 1; i < 8; i++) sum += sums[i][threadIdx.x];
    partial[(long long)blockIdx.y * columns + column] = sum;
}

extern "C" __global__ void finish_column_sums(const double *partial, float *out, int columns, int chunks) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    double sum = 0.0;
    for (int i = 0; i < chunks; i++) sum += partial[(long long)i * columns + column];
    out[column] = float(sum);
}
