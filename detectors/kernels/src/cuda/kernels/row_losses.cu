// Losses of rows, one each, and their derivatives. A warp (32, rows) or, of long rows, a block (1024, 1) computes a row;
// exponentials and sums are in double, and sums in a fixed order.

// T² KL(softmax(target / T) || softmax(x / T)) over all columns but one, and its derivatives by x.
__device__ __forceinline__ double divergence(const float *x, const float *target, float *derivatives, int k, int but,
                                             double temperature, double *parts) {
    Soft of_x = softened(x, k, but, temperature, parts), of_target = softened(target, k, but, temperature, parts);
    double sum = 0.0;
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        if (i == but) {
            derivatives[i] = 0.0f;
            continue;
        }
        double log_p = (double(target[i]) - of_target.top) / temperature - of_target.log_total;
        double log_q = (double(x[i]) - of_x.top) / temperature - of_x.log_total, p = exp(log_p);
        sum += p * (log_p - log_q);
        derivatives[i] = float(temperature * (exp(log_q) - p));
    }
    return temperature * temperature * row_sum(sum, parts);
}

extern "C" __global__ void __launch_bounds__(1024)
softened_divergence(const float *x, float *losses, float *derivatives, long long rows, int k, const float *target,
                    double temperature) {
    __shared__ double parts[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    double loss = divergence(x + row * k, target + row * k, derivatives + row * k, k, -1, temperature, parts);
    if (threadIdx.x == 0) losses[row] = float(loss);
}

extern "C" __global__ void __launch_bounds__(1024)
divergence_of_others(const float *x, float *losses, float *derivatives, long long rows, int k, const float *target,
                     const int *labels, double temperature) {
    __shared__ double parts[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    // No other class is left of one.
    double loss = 0.0;
    if (k > 1)
        loss = divergence(x + row * k, target + row * k, derivatives + row * k, k, labels[row], temperature, parts);
    else if (threadIdx.x == 0)
        derivatives[row * k] = 0.0f;
    if (threadIdx.x == 0) losses[row] = float(loss);
}

// Logarithms of the probabilities of a class and of all others together.
struct Split { double own, rest; };

__device__ __forceinline__ Split split(double own, Soft others, double temperature) {
    double a = own / temperature, b = others.top / temperature + others.log_total, top = fmax(a, b);
    double log_total = top + log(exp(a - top) + exp(b - top));
    return {a - log_total, b - log_total};
}

__device__ __forceinline__ double share_of(double p, double log_p, double log_q) {
    return p > 0.0 ? p * (log_p - log_q) : 0.0;
}

extern "C" __global__ void __launch_bounds__(1024)
divergence_of_class(const float *x, float *losses, float *derivatives, long long rows, int k, const float *target,
                    const int *labels, double temperature) {
    __shared__ double parts[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    int label = labels[row];
    x += row * k, target += row * k, derivatives += row * k;
    Soft of_x = softened(x, k, label, temperature, parts), of_target = softened(target, k, label, temperature, parts);
    Split own = split(x[label], of_x, temperature), wanted = split(target[label], of_target, temperature);
    double p = exp(wanted.own), q = exp(own.own), p_rest = exp(wanted.rest), q_rest = exp(own.rest);
    // q - p as the difference of the smaller probabilities: both sum to 1.
    double difference = q < 0.5 ? q - p : p_rest - q_rest;
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        double share = exp((double(x[i]) - of_x.top) / temperature - of_x.log_total);
        double by = i == label ? (k > 1 ? difference : 0.0) : -share * difference;
        derivatives[i] = float(temperature * by);
    }
    double loss = share_of(p, wanted.own, own.own) + share_of(p_rest, wanted.rest, own.rest);
    if (threadIdx.x == 0) losses[row] = float(temperature * temperature * loss);
}

// logsumexp(x) minus the mean of the positives: 0 the column of the row's number, 1 the first ones, 2 those with the row's
// label but itself, which is not seen, 3 those with the row's label.
extern "C" __global__ void __launch_bounds__(1024)
contrast(const float *x, float *losses, float *derivatives, long long rows, int k, const int *labels, int kind, int first) {
    __shared__ double parts[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    x += row * k, derivatives += row * k;
    int hidden = kind == 2 ? int(row) : -1, label = kind >= 2 ? labels[row] : 0;
    double positives = 0.0, count = 0.0;
    Soft of_x = softened(x, k, hidden, 1.0, parts);
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        bool positive = i != hidden && (kind == 0 ? i == row : kind == 1 ? i < first : labels[i] == label);
        if (!positive) continue;
        positives += double(x[i]) - of_x.top;
        count += 1.0;
    }
    positives = row_sum(positives, parts);
    count = row_sum(count, parts);
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        bool positive = i != hidden && (kind == 0 ? i == row : kind == 1 ? i < first : labels[i] == label);
        double by = exp(double(x[i]) - of_x.top - of_x.log_total) - (positive ? 1.0 / count : 0.0);
        derivatives[i] = i == hidden || count == 0.0 ? 0.0f : float(by);
    }
    if (threadIdx.x == 0) losses[row] = count == 0.0 ? 0.0f : float(of_x.log_total - positives / count);
}

// -log(o_0 / (o_0 + noise)) - Σ_k log(noise / (o_k + noise)), o = exp(x) / partition.
extern "C" __global__ void __launch_bounds__(1024)
noise_contrast(const float *x, float *losses, float *derivatives, long long rows, int k, const float *partition, double noise,
               double eps) {
    __shared__ double parts[32];
    long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    x += row * k, derivatives += row * k;
    double loss = 0.0;
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        double o = exp(double(x[i])) / double(partition[0]), total = o + noise + eps;
        loss -= log(i == 0 ? o / total : noise / total);
        derivatives[i] = float(i == 0 ? o / total - 1.0 : o / total);
    }
    loss = row_sum(loss, parts);
    if (threadIdx.x == 0) losses[row] = float(loss);
}

// 1 / count Σ w l, with weights of 1 where there are none; a block.
extern "C" __global__ void weighted_mean(const float *losses, const float *weights, float *out, int count) {
    __shared__ double parts[32];
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += (weights ? double(weights[i]) : 1.0) * double(losses[i]);
    sum = row_sum(sum, parts);
    if (threadIdx.x == 0) out[0] = float(sum / count);
}

// g / count times each value, or 1.
extern "C" __global__ void shares(const float *g, const float *values, float *out, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    double share = double(g[0]) / count;
    out[i] = float(values ? share * double(values[i]) : share);
}
