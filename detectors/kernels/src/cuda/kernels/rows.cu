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

// A row's mean, divisor and the factor of its deviations in the gradient; a negative eps stands for the divisor 1.
struct Moved { double mean, divisor, slope; };
__device__ __forceinline__ Moved moved_row(const float *x, int d, double eps, double floor, double *parts) {
    double total = 0.0, squares = 0.0;
    for (int i = threadIdx.x; i < d; i += blockDim.x) total += double(x[i]);
    double mean = row_sum(total, parts) / d;
    if (eps < 0.0) return {mean, 1.0, 0.0};
    for (int i = threadIdx.x; i < d; i += blockDim.x) squares += (double(x[i]) - mean) * (double(x[i]) - mean);
    double degrees = d > 1 ? d - 1 : 1, deviation = sqrt(row_sum(squares, parts) / degrees);
    double divisor = eps + (deviation < floor ? floor : deviation);
    bool moves = deviation > floor && deviation > 0.0;
    return {mean, divisor, moves ? 1.0 / (divisor * divisor * degrees * deviation) : 0.0};
}

// (x - mean) / divisor.
extern "C" __global__ void __launch_bounds__(1024)
standardized_rows(const float *x, float *out, long long rows, int d, double eps, double floor) {
    __shared__ double parts[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    Moved by = moved_row(x + row * d, d, eps, floor, parts);
    double factor = 1.0 / by.divisor;
    for (int i = threadIdx.x; i < d; i += blockDim.x) out[row * d + i] = float((double(x[row * d + i]) - by.mean) * factor);
}

// The gradient of standardised rows.
extern "C" __global__ void __launch_bounds__(1024)
standardized_rows_gradient(const float *g, const float *x, float *out, long long rows, int d, double eps, double floor) {
    __shared__ double parts[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const float *from = x + row * d, *given = g + row * d;
    Moved by = moved_row(from, d, eps, floor, parts);
    double total = 0.0, products = 0.0;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        total += double(given[i]);
        products += double(from[i]) * double(given[i]);
    }
    double mean = row_sum(total, parts) / d;
    double along = (row_sum(products, parts) - by.mean * mean * d) * by.slope, factor = 1.0 / by.divisor;
    for (int i = threadIdx.x; i < d; i += blockDim.x)
        out[row * d + i] = float((double(given[i]) - mean) * factor - along * (double(from[i]) - by.mean));
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
column_sums(const element *x, double *partial, long long rows, int columns, long long chunk) {
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

// Inner products of the rows of a and b.
extern "C" __global__ void __launch_bounds__(1024)
row_products(const float *a, const float *b, float *out, long long rows, int d) {
    __shared__ double parts[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    double sum = 0.0;
    for (int i = threadIdx.x; i < d; i += blockDim.x) sum += double(a[row * d + i]) * double(b[row * d + i]);
    sum = row_sum(sum, parts);
    if (threadIdx.x == 0) out[row] = float(sum);
}

// Rows of d numbers times a factor each; `out` may be x.
extern "C" __global__ void times_rows(const float *x, const float *factors, float *out, long long count, int d) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < count) out[i] = x[i] * factors[i / d];
}

// A matrix of `rows` rows and columns with another diagonal, or with zeros there.
extern "C" __global__ void with_diagonal(const float *x, const float *diagonal, float *out, long long count, int rows) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    bool on = i / rows == i % rows;
    out[i] = !on ? x[i] : diagonal ? diagonal[i / rows] : 0.0f;
}

extern "C" __global__ void diagonal(const float *x, float *out, int rows) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < rows) out[i] = x[i * (rows + 1ll)];
}

// Inner products of the rows of x with rows of a bank, `columns` for each; a warp a product.
extern "C" __global__ void drawn_products(const float *x, const float *bank, const int *drawn, float *out, long long count,
                                          int columns, int d, double factor) {
    long long at = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (at >= count) return;
    const float *row = x + at / columns * d, *other = bank + drawn[at] * (long long)d;
    double sum = 0.0;
    for (int i = threadIdx.x; i < d; i += 32) sum += double(row[i]) * double(other[i]);
    sum = sum_of_warp(sum);
    if (threadIdx.x == 0) out[at] = float(sum * factor);
}

// The gradient by x of these products; a thread a number.
extern "C" __global__ void drawn_products_gradient(const float *g, const float *bank, const int *drawn, float *out,
                                                   long long count, int columns, int d, double factor) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    long long first = i / d * columns;
    int column = int(i % d);
    double sum = 0.0;
    for (int k = 0; k < columns; k++)
        sum += double(g[first + k]) * factor * double(bank[drawn[first + k] * (long long)d + column]);
    out[i] = float(sum);
}

// Rows of a bank become unit(momentum old + (1 - momentum) new) for each of their new rows, which `order` names from
// starts[row] on, one after another; a warp a row.
extern "C" __global__ void remember(float *bank, const float *fresh, const int *rows, const int *starts, const int *order,
                                    int count, int d, double momentum) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= count) return;
    float *old = bank + rows[row] * (long long)d;
    for (int at = starts[row]; at < starts[row + 1]; at++) {
        const float *given = fresh + order[at] * (long long)d;
        double squares = 0.0;
        for (int i = threadIdx.x; i < d; i += 32) {
            double mixed = momentum * double(old[i]) + (1.0 - momentum) * double(given[i]);
            squares += mixed * mixed;
        }
        double length = sqrt(sum_of_warp(squares)), scale = length == 0.0 ? 0.0 : 1.0 / length;
        for (int i = threadIdx.x; i < d; i += 32)
            old[i] = float((momentum * double(old[i]) + (1.0 - momentum) * double(given[i])) * scale);
    }
}

// The constant that was kept unless it is 0, and then n times the mean of exp(x); a block.
extern "C" __global__ void __launch_bounds__(1024)
partition(const float *x, const float *kept, float *out, long long count, double n) {
    __shared__ double parts[32];
    double sum = 0.0;
    for (long long i = threadIdx.x; i < count; i += blockDim.x) sum += exp(double(x[i]));
    sum = row_sum(sum, parts);
    if (threadIdx.x == 0) out[0] = kept[0] == 0.0f ? float(sum / double(count) * n) : kept[0];
}
