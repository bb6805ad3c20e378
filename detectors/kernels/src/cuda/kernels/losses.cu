// Losses: the loss of each row over the divisor of its part, in double, and the derivatives; sums in a fixed order.

// Rows before `end`, behind those of the part before.
struct Part { long long end; double divisor; };

__device__ __forceinline__ double divisor_of(const Part *parts, int count, long long row) {
    int low = 0, high = count - 1;
    while (low < high) {
        int middle = (low + high) / 2;
        if (row < parts[middle].end) high = middle;
        else low = middle + 1;
    }
    return parts[low].divisor;
}

// A thread a logit.
extern "C" __global__ void bce(const float *x, const Part *parts, int part_count, float *gradient, double *losses,
                               long long rows, const float *targets) {
    long long row = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (row >= rows) return;
    double divisor = divisor_of(parts, part_count, row), at = x[row], target = targets[row];
    double e = exp(-fabs(at));  // <= 1: nothing overflows on either side
    double p = at >= 0.0 ? 1.0 / (1.0 + e) : e / (1.0 + e);
    gradient[row] = float(p - target) * float(1.0 / divisor);
    losses[row] = (fmax(at, 0.0) - at * target + log1p(e) + double(0.0f * x[row])) / divisor;
}

// A thread a box.
extern "C" __global__ void smooth_l1(const float *x, const Part *parts, int part_count, float *gradient, double *losses,
                                     long long rows, const float *targets, double beta) {
    long long row = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (row >= rows) return;
    double divisor = divisor_of(parts, part_count, row), sum = 0.0;
    float scale = float(1.0 / divisor);
    for (int i = 0; i < 4; i++) {
        float pred = x[4 * row + i];
        double d = double(pred) - double(targets[4 * row + i]);
        double value = fabs(d) - 0.5 * beta, derivative = d > 0.0 ? 1.0 : d < 0.0 ? -1.0 : d;
        if (fabs(d) < beta) {
            value = 0.5 * d * d / beta;
            derivative = d / beta;
        } else if (d == 0.0) {
            value = 0.0;
        }
        sum += value + double(0.0f * pred);
        gradient[4 * row + i] = float(derivative) * scale;
    }
    losses[row] = sum / divisor;
}

// The derivative of max(a, b) with respect to a.
__device__ __forceinline__ double share_of_maximum(double a, double b) { return a > b ? 1.0 : a < b ? 0.0 : 0.5; }

// A thread a box.
extern "C" __global__ void giou(const float *x, const Part *parts, int part_count, float *gradient, double *losses,
                                long long rows, const float *targets) {
    const double EPS = 1e-7;
    long long row = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (row >= rows) return;
    double divisor = divisor_of(parts, part_count, row), p[4], t[4];
    float poison = 0.0f;
    for (int i = 0; i < 4; i++) {
        p[i] = x[4 * row + i];
        t[i] = targets[4 * row + i];
        poison += 0.0f * x[4 * row + i] + 0.0f * targets[4 * row + i];
    }
    double width = p[2] - p[0], height = p[3] - p[1];
    double inner_width = fmin(p[2], t[2]) - fmax(p[0], t[0]), inner_height = fmin(p[3], t[3]) - fmax(p[1], t[1]);
    bool overlap = inner_width > 0.0 && inner_height > 0.0;
    double intersection = overlap ? inner_width * inner_height : 0.0;
    double area = width * height + (t[2] - t[0]) * (t[3] - t[1]) - intersection;
    double outer_width = fmax(p[2], t[2]) - fmin(p[0], t[0]), outer_height = fmax(p[3], t[3]) - fmin(p[1], t[1]);
    double hull = outer_width * outer_height;
    double iou = intersection / (area + EPS), empty = (hull - area) / (hull + EPS);
    double by_intersection = -1.0 / (area + EPS);
    double by_area = intersection / ((area + EPS) * (area + EPS)) - 1.0 / (hull + EPS);
    double by_hull = (area + EPS) / ((hull + EPS) * (hull + EPS));
    float scale = float(1.0 / divisor);
#pragma unroll
    for (int edge = 0; edge < 4; edge++) {
        bool upper = edge >= 2, vertical = edge & 1;
        double sign = upper ? 1.0 : -1.0, beyond = share_of_maximum(p[edge], t[edge]);
        double inner_share = upper ? 1.0 - beyond : beyond, outer_share = 1.0 - inner_share;
        double d_intersection = overlap ? sign * inner_share * (vertical ? inner_width : inner_height) : 0.0;
        double d_area = sign * (vertical ? width : height) - d_intersection;
        double d_hull = sign * outer_share * (vertical ? outer_width : outer_height);
        gradient[4 * row + edge] = float(by_intersection * d_intersection + by_area * d_area + by_hull * d_hull) * scale;
    }
    losses[row] = (1.0 - iou + empty + double(poison)) / divisor;
}

// A warp a row of k logits.
extern "C" __global__ void cross_entropy(const float *x, const Part *parts, int part_count, float *gradient, double *losses,
                                         long long rows, const int *labels, int k) {
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const float *logits = x + row * k;
    float highest = __uint_as_float(0xff800000u), poison = 0.0f;
    for (int i = threadIdx.x; i < k; i += 32) {
        float value = logits[i];
        highest = value > highest ? value : highest;  // NaN is left out
        poison += 0.0f * value;
    }
    for (int bits = 16; bits > 0; bits /= 2) {
        float other = __shfl_xor_sync(0xffffffffu, highest, bits);
        highest = other > highest ? other : highest;
    }
    double total = 0.0;
    for (int i = threadIdx.x; i < k; i += 32) total += exp_of_negative(highest - logits[i]);
    total = sum_of_warp(total);
    double poisons = sum_of_warp(poison);
    double divisor = divisor_of(parts, part_count, row);
    float share = float(1.0 / total), scale = float(1.0 / divisor);
    int label = labels[row];
    for (int i = threadIdx.x; i < k; i += 32) {
        float p = exp_of_negative(highest - logits[i]) * share;
        gradient[row * k + i] = (i == label ? p - 1.0f : p) * scale;
    }
    if (threadIdx.x == 0)
        losses[row] = (log(total) - (double(logits[label]) - double(highest)) + poisons) / divisor;
}

// log(1 + e) for e in [0, 1], relatively exact to 2 ulp: 2 artanh(s) with s = e / (2 + e) <= 1/3.
__device__ __forceinline__ float log_of_one_plus(float e) {
    float s = e / (2.0f + e), square = s * s;
    float series = 1.0f / 15.0f;
    series = series * square + 1.0f / 13.0f;
    series = series * square + 1.0f / 11.0f;
    series = series * square + 1.0f / 9.0f;
    series = series * square + 1.0f / 7.0f;
    series = series * square + 1.0f / 5.0f;
    series = series * square + 1.0f / 3.0f;
    series = series * square + 1.0f;
    return 2.0f * s * series;
}

struct Term { float value, derivative; };

// weight times the focal loss of target 0, or with sign -1 of target 1: p^gamma softplus(x), p = sigmoid(x).
__device__ __forceinline__ Term focal_term(float x, float weight, float sign, float gamma) {
    x *= sign;
    float e = exp_of_negative(fabsf(x));
    float large = 1.0f / (1.0f + e), small = e * large;
    float p = x >= 0.0f ? large : small, rest = x >= 0.0f ? small : large;
    float softplus = fmaxf(x, 0.0f) + log_of_one_plus(e);
    float focus = gamma == 2.0f ? p * p : powf(p, gamma);
    // 0 x is 0, or NaN where x is not finite.
    return {weight * (focus * softplus + 0.0f * x), sign * weight * (focus * (gamma * rest * softplus + p))};
}

// A target strictly between 0 and 1: rare, so in double.
__device__ __forceinline__ Term focal_between(double x, double t, double of_class, double background, double gamma) {
    double e = exp(-fabs(x));
    double p = x >= 0.0 ? 1.0 / (1.0 + e) : e / (1.0 + e), q = x >= 0.0 ? e / (1.0 + e) : 1.0 / (1.0 + e);
    double entropy = fmax(x, 0.0) - x * t + log1p(e);
    double miss = p * (1.0 - t) + q * t;
    double power = pow(miss, gamma), by_miss = gamma > 0.0 ? gamma * pow(miss, gamma - 1.0) : 0.0;
    double weight = of_class * t + background * (1.0 - t);
    double derivative = (p - t) * power + entropy * by_miss * p * q * (1.0 - 2.0 * t);
    return {float(weight * entropy * power), float(weight * derivative)};
}

// The class of a row's target; -1 is background, -2 is ignored.
__device__ __forceinline__ int class_of(int target) { return target; }
__device__ __forceinline__ int class_of(u8 target) { return target < 254 ? target : target - 256; }

// A warp a row of k logits, whose target is a class, background, or nothing.
template <class T>
__device__ __forceinline__ void focal_of_row(const float *x, const Part *parts, int part_count, float *gradient, double *losses,
                                             long long rows, const T *targets, int k, float of_class, float background, float gamma) {
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    int target = class_of(targets[row]);
    double divisor = divisor_of(parts, part_count, row), sum = 0.0;
    float scale = float(1.0 / divisor);
    for (int i = threadIdx.x; i < k; i += 32) {
        Term term = {0.0f, 0.0f};
        if (target != -2)
            term = focal_term(x[row * k + i], i == target ? of_class : background, i == target ? -1.0f : 1.0f, gamma);
        sum += term.value;
        if (gradient) gradient[row * k + i] = term.derivative * scale;
    }
    sum = sum_of_warp(sum);
    if (threadIdx.x == 0) losses[row] = sum / divisor;
}

extern "C" __global__ void focal_bytes(const float *x, const Part *parts, int part_count, float *gradient, double *losses,
                                       long long rows, const u8 *targets, int k, float of_class, float background, float gamma) {
    focal_of_row(x, parts, part_count, gradient, losses, rows, targets, k, of_class, background, gamma);
}

extern "C" __global__ void focal_ints(const float *x, const Part *parts, int part_count, float *gradient, double *losses,
                                      long long rows, const int *targets, int k, float of_class, float background, float gamma) {
    focal_of_row(x, parts, part_count, gradient, losses, rows, targets, k, of_class, background, gamma);
}

// A warp a row of k logits, each with a target in [0, 1].
extern "C" __global__ void focal_dense(const float *x, const Part *parts, int part_count, float *gradient, double *losses,
                                       long long rows, const float *targets, int k, float of_class, float background, float gamma) {
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    double divisor = divisor_of(parts, part_count, row), sum = 0.0;
    float scale = float(1.0 / divisor);
    for (int i = threadIdx.x; i < k; i += 32) {
        float logit = x[row * k + i], t = targets[row * k + i];
        Term term;
        if (t == 0.0f) term = focal_term(logit, background, 1.0f, gamma);
        else if (t == 1.0f) term = focal_term(logit, of_class, -1.0f, gamma);
        else term = focal_between(logit, t, of_class, background, gamma);
        sum += term.value;
        if (gradient) gradient[row * k + i] = term.derivative * scale;
    }
    sum = sum_of_warp(sum);
    if (threadIdx.x == 0) losses[row] = sum / divisor;
}

// A warp a row of k logits: |p - q|^beta BCE(x, q), p and q the sigmoids of logit and target.
extern "C" __global__ void quality_focal(const float *x, const Part *parts, int part_count, float *gradient, double *losses,
                                         long long rows, const float *targets, const u8 *counts, int k, float beta) {
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    double divisor = divisor_of(parts, part_count, row), sum = 0.0;
    float scale = float(1.0 / divisor);
    for (int i = threadIdx.x; i < k; i += 32) {
        float value = 0.0f, derivative = 0.0f;
        if (counts[row]) {
            float logit = x[row * k + i], t = targets[row * k + i];
            float e = exp_of_negative(fabsf(logit)), large = 1.0f / (1.0f + e), small = e * large;
            float p = logit >= 0.0f ? large : small, rest = logit >= 0.0f ? small : large;
            float et = exp_of_negative(fabsf(t)), large_t = 1.0f / (1.0f + et);
            float q = t >= 0.0f ? large_t : et * large_t;
            float entropy = fmaxf(logit, 0.0f) - logit * q + log_of_one_plus(e) + 0.0f * logit + 0.0f * t;
            float d = p - q, sign = d > 0.0f ? 1.0f : d < 0.0f ? -1.0f : 0.0f;
            float focus = beta == 1.0f ? fabsf(d) : powf(fabsf(d), beta);
            float slope = beta == 1.0f ? sign : (d == 0.0f || beta == 0.0f) ? 0.0f : beta * powf(fabsf(d), beta - 1.0f) * sign;
            value = focus * entropy;
            derivative = focus * d + slope * p * rest * entropy;
        }
        sum += value;
        gradient[row * k + i] = derivative * scale;
    }
    sum = sum_of_warp(sum);
    if (threadIdx.x == 0) losses[row] = sum / divisor;
}

// Σ values[i], i below count, by one block of 256 threads, in a fixed order.
__device__ __forceinline__ double sum_of_block(const double *values, long long count, double *sums) {
    double sum = 0.0;
    for (long long i = threadIdx.x; i < count; i += 256) sum += values[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    return sums[0];
}

// The sum of each chunk of numbers.
extern "C" __global__ void __launch_bounds__(256)
sum_of_chunks(const double *values, double *partial, long long count, int chunk) {
    __shared__ double sums[256];
    long long first = blockIdx.x * (long long)chunk, rest = count - first;
    double sum = sum_of_block(values + first, rest < chunk ? rest : chunk, sums);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// The sum of all numbers, by one block.
extern "C" __global__ void __launch_bounds__(256) sum_of_all(const double *values, float *out, long long count) {
    __shared__ double sums[256];
    double sum = sum_of_block(values, count, sums);
    if (threadIdx.x == 0) out[0] = float(sum);
}
