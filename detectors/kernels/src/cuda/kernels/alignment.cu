// Kernel alignment of many pairs of matrices (batch, n, width), row-major. Sums are in double and in a fixed order.

// Each column of each matrix without its mean.
extern "C" __global__ void center_columns(const float *x, float *out, long long columns, int n, int width) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= columns) return;
    long long first = i / width * n * width + i % width;
    double sum = 0.0;
    for (int row = 0; row < n; row++) sum += x[first + (long long)row * width];
    double mean = sum / n;
    for (int row = 0; row < n; row++) out[first + (long long)row * width] = float(x[first + (long long)row * width] - mean);
}

// For each pair of kernels K, L of `size` numbers: ka, and the factors of K and L in its derivative by L. A block a pair.
extern "C" __global__ void __launch_bounds__(256) alignments(const float *k, const float *l, double *out, long long size) {
    __shared__ double parts[32];
    k += blockIdx.x * size, l += blockIdx.x * size;
    double cross = 0.0, own_k = 0.0, own_l = 0.0;
    for (long long i = threadIdx.x; i < size; i += 256) {
        double a = k[i], b = l[i];
        cross += a * b, own_k += a * a, own_l += b * b;
    }
    cross = row_sum(cross, parts), own_k = row_sum(own_k, parts), own_l = row_sum(own_l, parts);
    if (threadIdx.x > 0) return;
    double length = sqrt(own_k * own_l + 1e-12), value = cross / length;
    out[3 * blockIdx.x] = value;
    out[3 * blockIdx.x + 1] = 1.0 / length;
    out[3 * blockIdx.x + 2] = -value * (own_k / length) / length;
}

// offset + sign * mean of `count` alignments. One block.
extern "C" __global__ void __launch_bounds__(256)
mean_alignment(const double *alignments, float *out, int count, double offset, double sign) {
    __shared__ double parts[32];
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += 256) sum += alignments[3 * i];
    sum = row_sum(sum, parts);
    if (threadIdx.x == 0) out[0] = float(offset + sign * (sum / count));
}

// K becomes `factor` times the derivative by L.
extern "C" __global__ void derivative_of_kernels(float *k, const float *l, const double *alignments, long long count, long long size, double factor) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    const double *own = alignments + 3 * (i / size);
    k[i] = float(factor * (own[1] * k[i] + own[2] * l[i]));
}
