// Relations of rows: correlations, distances, angles, mixtures. A warp (32, rows) or, of long rows, a block (1024, 1) computes
// a row where none other is named; sums are in double and in a fixed order.

// softmax(x / T), or the sigmoid of each x / T, which is NaN of an infinite x: a diverged network must show.
extern "C" __global__ void __launch_bounds__(1024)
probabilities(const float *x, double *out, long long rows, int k, double temperature, int are_sigmoids) {
    __shared__ double parts[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    x += row * k, out += row * k;
    if (are_sigmoids) {
        for (int i = threadIdx.x; i < k; i += blockDim.x)
            out[i] = 1.0 / (1.0 + exp(-double(x[i]) / temperature)) + 0.0 * double(x[i]);
        return;
    }
    Soft soft = softened(x, k, -1, temperature, parts);
    for (int i = threadIdx.x; i < k; i += blockDim.x)
        out[i] = exp((double(x[i]) - soft.top) / temperature - soft.log_total);
}

// factor (1 - r) of lines of probabilities, and its derivatives by s: r is x·y / (|x| |y| + eps) of x and y, t and s without
// their means. Line i begins at i * start; its numbers are `step` apart.
extern "C" __global__ void __launch_bounds__(1024)
correlations(const double *t, const double *s, double *by, double *losses, long long lines, int len, int start, int step,
             double factor, double eps) {
    __shared__ double parts[32];
    long long line = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (line >= lines) return;
    t += line * start, s += line * start, by += line * start;
    double of_t = 0.0, of_s = 0.0;
    for (int i = threadIdx.x; i < len; i += blockDim.x) of_t += t[i * (long long)step], of_s += s[i * (long long)step];
    of_t = row_sum(of_t, parts) / len, of_s = row_sum(of_s, parts) / len;
    double xx = 0.0, yy = 0.0, xy = 0.0;
    for (int i = threadIdx.x; i < len; i += blockDim.x) {
        double x = t[i * (long long)step] - of_t, y = s[i * (long long)step] - of_s;
        xx += x * x, yy += y * y, xy += x * y;
    }
    xx = sqrt(row_sum(xx, parts)), yy = sqrt(row_sum(yy, parts)), xy = row_sum(xy, parts);
    double size = xx * yy + eps, r = xy / size, by_length = yy > 0.0 ? r * xx / (size * yy) : 0.0;
    for (int i = threadIdx.x; i < len; i += blockDim.x) {
        double x = t[i * (long long)step] - of_t, y = s[i * (long long)step] - of_s;
        by[i * (long long)step] = -factor * (x / size - by_length * y);
    }
    if (threadIdx.x == 0) losses[line] = factor * (1.0 - r);
}

// Derivatives by logits of derivatives by probabilities p.
extern "C" __global__ void __launch_bounds__(1024)
through_probabilities(const double *by, const double *p, float *out, long long rows, int k, double temperature,
                      int are_sigmoids) {
    __shared__ double parts[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    by += row * k, p += row * k, out += row * k;
    double along = 0.0;
    for (int i = threadIdx.x; i < k; i += blockDim.x) along += by[i] * p[i];
    along = row_sum(along, parts);
    for (int i = threadIdx.x; i < k; i += blockDim.x)
        out[i] = float((are_sigmoids ? p[i] * (1.0 - p[i]) * by[i] : p[i] * (by[i] - along)) / temperature);
}

// KL(softmax(a) || softmax(c)), and its derivatives by both.
extern "C" __global__ void __launch_bounds__(1024)
mutual_divergence(const float *a, const float *c, float *losses, float *by_a, float *by_c, long long rows, int k) {
    __shared__ double parts[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    a += row * k, c += row * k, by_a += row * k, by_c += row * k;
    Soft of_a = softened(a, k, -1, 1.0, parts), of_c = softened(c, k, -1, 1.0, parts);
    double loss = 0.0;
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        double log_p = double(a[i]) - of_a.top - of_a.log_total, log_q = double(c[i]) - of_c.top - of_c.log_total;
        double p = exp(log_p);
        loss += p * (log_p - log_q);
        by_c[i] = float(exp(log_q) - p);
    }
    loss = row_sum(loss, parts);
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        double log_p = double(a[i]) - of_a.top - of_a.log_total, log_q = double(c[i]) - of_c.top - of_c.log_total;
        by_a[i] = float(exp(log_p) * (log_p - log_q - loss));
    }
    if (threadIdx.x == 0) losses[row] = float(loss);
}

// min(exp(exponent), largest); NaN stays NaN.
__device__ __forceinline__ double power(const float *exponent, double largest) {
    double asked = exp(double(exponent[0]));
    return asked > largest ? largest : asked;
}

extern "C" __global__ void times_exponential(const float *x, const float *exponent, float *out, long long count, double largest) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < count) out[i] = float(power(exponent, largest) * double(x[i]));
}

// The derivative by the exponent; a block.
extern "C" __global__ void __launch_bounds__(1024)
by_exponent(const float *g, const float *x, const float *exponent, float *out, long long count, double largest) {
    __shared__ double parts[32];
    double sum = 0.0;
    for (long long i = threadIdx.x; i < count; i += blockDim.x) sum += double(g[i]) * double(x[i]);
    sum = row_sum(sum, parts);
    if (threadIdx.x == 0) out[0] = exp(double(exponent[0])) > largest ? 0.0f : float(power(exponent, largest) * sum);
}

// The largest of a few logits and the sum of the exponentials of what the others are less.
struct Few {
    double top, total;
    __device__ __forceinline__ Few(const float *x, int count) : top(x[0]), total(0.0) {
        for (int i = 1; i < count; i++) top = double(x[i]) > top ? double(x[i]) : top;
        for (int i = 0; i < count; i++) total += exp(double(x[i]) - top);
    }
    __device__ __forceinline__ double share(float x) const { return exp(double(x) - top) / total; }
};

// Rows of matrices, whose addresses are `parts`, by the softmax of a row of `count` logits each. A thread a number.
extern "C" __global__ void mixture(const long long *parts, const float *logits, float *out, long long numbers, int columns,
                                   int count) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= numbers) return;
    logits += i / columns * count;
    Few few(logits, count);
    double sum = 0.0;
    for (int l = 0; l < count; l++) sum += few.share(logits[l]) * double(((const float *)parts[l])[i]);
    out[i] = float(sum);
}

// Its gradients by the matrices, to the addresses `by_parts`, and by the logits.
extern "C" __global__ void __launch_bounds__(1024)
mixture_gradient(const float *g, const long long *parts, const float *logits, const long long *by_parts, float *by_logits,
                 long long rows, int columns, int count) {
    __shared__ double parts_of_sum[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    g += row * columns, logits += row * count, by_logits += row * count;
    Few few(logits, count);
    double along = 0.0;
    for (int l = 0; l < count; l++) {
        const float *part = (const float *)parts[l] + row * columns;
        float *by = (float *)by_parts[l] + row * columns;
        double share = few.share(logits[l]);
        for (int i = threadIdx.x; i < columns; i += blockDim.x) {
            along += share * double(g[i]) * double(part[i]);
            by[i] = float(share * double(g[i]));
        }
    }
    along = row_sum(along, parts_of_sum);
    for (int l = 0; l < count; l++) {
        const float *part = (const float *)parts[l] + row * columns;
        double own = 0.0;
        for (int i = threadIdx.x; i < columns; i += blockDim.x) own += double(g[i]) * double(part[i]);
        own = row_sum(own, parts_of_sum);
        if (threadIdx.x == 0) by_logits[l] = float(few.share(logits[l]) * (own - along));
    }
}

struct Huber {
    double value, derivative;
    __device__ __forceinline__ Huber(double x) {
        double size = fabs(x);
        value = size < 1.0 ? 0.5 * x * x : size - 0.5;
        derivative = size < 1.0 ? x : x > 0.0 ? 1.0 : x < 0.0 ? -1.0 : x;
    }
};

// Distances of all pairs of b rows, no smaller than sqrt(eps); a warp a pair.
extern "C" __global__ void distances(const float *x, double *out, long long pairs, int b, int d, double eps) {
    long long at = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (at >= pairs) return;
    const float *a = x + at / b * d, *c = x + at % b * d;
    double sum = 0.0;
    for (int i = threadIdx.x; i < d; i += 32) {
        double difference = double(a[i]) - double(c[i]);
        sum += difference * difference;
    }
    sum = sum_of_warp(sum);
    if (threadIdx.x == 0) out[at] = at / b == at % b ? 0.0 : sqrt(sum < eps ? eps : sum);
}

// The mean of Huber's function of the distances over their means, and its derivatives by these quotients. `means` becomes the
// mean of s, and what every derivative by a distance is less for that mean. A block.
extern "C" __global__ void __launch_bounds__(1024)
compare_distances(const double *t, const double *s, double *by, double *means, float *loss, int b) {
    __shared__ double parts[32];
    long long pairs = (long long)b * b, positive = pairs - b;
    double of_t = 0.0, of_s = 0.0;
    for (long long i = threadIdx.x; i < pairs; i += blockDim.x) of_t += t[i], of_s += s[i];
    of_t = row_sum(of_t, parts), of_s = row_sum(of_s, parts);
    double mean_t = positive ? of_t / positive : 1.0, mean_s = positive ? of_s / positive : 1.0;
    double sum = 0.0, along = 0.0;
    for (long long i = threadIdx.x; i < pairs; i += blockDim.x) {
        Huber huber(i / b == i % b ? 0.0 : s[i] / mean_s - t[i] / mean_t);
        sum += huber.value, along += huber.derivative * s[i];
        by[i] = huber.derivative / pairs;
    }
    sum = row_sum(sum, parts), along = row_sum(along, parts);
    if (threadIdx.x > 0) return;
    loss[0] = float(sum / pairs);
    means[0] = mean_s, means[1] = along / pairs / (mean_s * mean_s * (positive ? positive : 1));
}

// Its derivatives by the b rows x; a thread a number.
extern "C" __global__ void distances_gradient(const float *x, const double *s, const double *by, const double *means, float *out,
                                              int b, int d, double eps) {
    long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= (long long)b * d) return;
    long long i = at / d, k = at % d;
    double sum = 0.0;
    for (long long j = 0; j < b; j++) {
        double distance = s[i * b + j];
        if (j == i || distance * distance <= eps) continue;
        double both = (by[i * b + j] + by[j * b + i]) / means[0] - 2.0 * means[1];
        sum += both / distance * (double(x[at]) - double(x[j * d + k]));
    }
    out[at] = float(sum);
}

// x_j - x_i of all pairs of b rows (b, b, d).
extern "C" __global__ void differences(const float *x, float *out, long long count, int b, int d) {
    long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= count) return;
    long long k = at % d, j = at / d % b, i = at / d / b;
    out[at] = x[j * d + k] - x[i * d + k];
}

// Sums of Huber's function of s - t over 4096 numbers a block (256); s becomes twice its derivatives. Both times `share`.
extern "C" __global__ void __launch_bounds__(256)
compare_angles(const float *t, float *s, double *losses, long long count, double share) {
    __shared__ double parts[32];
    double sum = 0.0;
    for (int i = threadIdx.x; i < 4096; i += blockDim.x) {
        long long at = blockIdx.x * 4096ll + i;
        if (at >= count) break;
        Huber huber(double(s[at]) - double(t[at]));
        sum += huber.value;
        s[at] = float(2.0 * share * huber.derivative);
    }
    sum = row_sum(sum, parts);
    if (threadIdx.x == 0) losses[blockIdx.x] = share * sum;
}

// Derivatives by b rows of those by all their differences (b, b, d); a thread a number.
extern "C" __global__ void differences_gradient(const float *by, float *out, int b, int d) {
    long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= (long long)b * d) return;
    long long row = at / d, k = at % d;
    double sum = 0.0;
    for (long long i = 0; i < b; i++)
        if (i != row) sum += double(by[(i * b + row) * d + k]) - double(by[(row * b + i) * d + k]);
    out[at] = float(sum);
}
