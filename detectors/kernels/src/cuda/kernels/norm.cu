// Norms over channels-last maps: `sections` times `rows` rows of c channels; tables have an entry a section and
// channel. Sums: a block adds 32 channels of one chunk of rows with 8 warps, in a fixed order; `finish_*` adds the
// chunks in order.

// Adds the 8 partial sums of each channel, in a fixed order; row 0 has the result.
__device__ __forceinline__ void fold(double (*sums)[33]) {
    __syncthreads();
    for (int half = 4; half > 0; half /= 2) {
        if (int(threadIdx.y) < half) sums[threadIdx.y][threadIdx.x] += sums[threadIdx.y + half][threadIdx.x];
        __syncthreads();
    }
}

// Σ x and Σ x² of a chunk of rows. Grid: (channels / 32, chunks, sections). Values are taken relative to the first
// row's, so that a large mean costs no digits.
extern "C" __global__ void __launch_bounds__(256)
value_sums(const element *x, double *sums, double *squares, int rows, int c, int chunk) {
    __shared__ double first_sums[8][33];
    __shared__ double second_sums[8][33];
    int channel = blockIdx.x * 32 + threadIdx.x;
    const element *section = x + (long long)blockIdx.z * rows * c;
    int first = blockIdx.y * chunk, last = min(rows, first + chunk);
    float sum = 0.0f, square = 0.0f;
    if (channel < c) {
        float shift = section[channel];
        for (int row = first + threadIdx.y; row < last; row += 8) {
            float value = section[(long long)row * c + channel] - shift;
            sum += value;
            square += value * value;
        }
    }
    first_sums[threadIdx.y][threadIdx.x] = sum;
    second_sums[threadIdx.y][threadIdx.x] = square;
    fold(first_sums);
    fold(second_sums);
    if (threadIdx.y == 0 && channel < c) {
        long long at = ((long long)blockIdx.z * gridDim.y + blockIdx.y) * c + channel;
        sums[at] = first_sums[0][threadIdx.x];
        squares[at] = second_sums[0][threadIdx.x];
    }
}

// Moments of each group of `group` channels of a section: means, then biased variances, an entry a channel.
extern "C" __global__ void finish_moments(const element *x, const double *sums, const double *squares, double *moments,
                                          int rows, int c, int chunks, int sections, int group) {
    int at = blockIdx.x * blockDim.x + threadIdx.x, groups = c / group;
    if (at >= sections * groups) return;
    int section = at / groups, first = at % groups * group;
    const element *shifts = x + (long long)section * rows * c;
    double values = double(rows) * group;
    // Sums of each channel around its own shift, combined around the mean of all.
    double total = 0.0;
    for (int i = 0; i < group; i++) {
        double sum = 0.0;
        for (int k = 0; k < chunks; k++) sum += sums[((long long)section * chunks + k) * c + first + i];
        total += sum + double(rows) * shifts[first + i];
    }
    double mean = total / values, variance = 0.0;
    for (int i = 0; i < group; i++) {
        double sum = 0.0, square = 0.0;
        for (int k = 0; k < chunks; k++) {
            long long from = ((long long)section * chunks + k) * c + first + i;
            sum += sums[from];
            square += squares[from];
        }
        double offset = mean - shifts[first + i];
        variance += square - 2.0 * offset * sum + double(rows) * offset * offset;
    }
    variance /= values;
    variance = variance < 0.0 ? 0.0 : variance;
    for (int i = 0; i < group; i++) {
        moments[section * c + first + i] = mean;
        moments[(long long)sections * c + section * c + first + i] = variance;
    }
}

// mean, 1 / std and factor = weight / std of each section and channel.
extern "C" __global__ void line_of_moments(const double *moments, const float *weight, float *mean, double *inverse_std, float *factor,
                                           double eps, int count, int c) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    double inverse = 1.0 / sqrt(moments[count + at] + eps);
    mean[at] = float(moments[at]);
    inverse_std[at] = inverse;
    factor[at] = float(inverse * weight[at % c]);
}

// The same of constant tables: mean and variance (c) of a frozen norm.
extern "C" __global__ void line_of_tables(const float *var, const float *weight, double *inverse_std, float *factor, double eps, int c) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= c) return;
    double inverse = 1.0 / sqrt(var[at] + eps);
    inverse_std[at] = inverse;
    factor[at] = float(weight[at] * inverse);
}

// y = activation((x - mean) factor + bias + residual).
extern "C" __global__ void on_line(const element *x, const float *mean, const float *factor, const float *bias, const element *residual,
                                   element *y, long long count, int rows, int c, int activation) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = int(i % c);
    long long at = i / c / rows * c + channel;
    float value = (x[i] - mean[at]) * factor[at] + bias[channel];
    if (residual) value += residual[i];
    y[i] = activate(value, activation);
}

// Σ g and Σ g (x - mean) of a chunk of rows, g behind the activation whose result was y.
extern "C" __global__ void __launch_bounds__(256)
gradient_sums(const element *g, const element *x, const element *y, const float *mean, double *sums, double *products,
              int rows, int c, int chunk, int activation) {
    __shared__ double first_sums[8][33];
    __shared__ double second_sums[8][33];
    int channel = blockIdx.x * 32 + threadIdx.x;
    long long start = (long long)blockIdx.z * rows * c;
    int first = blockIdx.y * chunk, last = min(rows, first + chunk);
    float sum = 0.0f, product = 0.0f;
    if (channel < c) {
        float middle = mean[blockIdx.z * c + channel];
        for (int row = first + threadIdx.y; row < last; row += 8) {
            long long i = start + (long long)row * c + channel;
            float value = !y || passes(y[i], activation) ? g[i] : 0.0f;
            sum += value;
            if (x) product += value * (x[i] - middle);
        }
    }
    first_sums[threadIdx.y][threadIdx.x] = sum;
    second_sums[threadIdx.y][threadIdx.x] = product;
    fold(first_sums);
    fold(second_sums);
    if (threadIdx.y == 0 && channel < c) {
        long long at = ((long long)blockIdx.z * gridDim.y + blockIdx.y) * c + channel;
        sums[at] = first_sums[0][threadIdx.x];
        products[at] = second_sums[0][threadIdx.x];
    }
}

// Adds the chunks of both sums in order: (sections, c) each.
extern "C" __global__ void finish_sums(const double *sums, const double *products, double *of_gradients, double *of_products,
                                       int chunks, int count, int c) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    int section = at / c, channel = at % c;
    double sum = 0.0, product = 0.0;
    for (int k = 0; k < chunks; k++) {
        long long from = ((long long)section * chunks + k) * c + channel;
        sum += sums[from];
        product += products[from];
    }
    of_gradients[at] = sum;
    of_products[at] = product;
}

// The tables b and d of dx = a g + b (x - mean) + d, of groups of `values` numbers, from dx = (w g - mean(w g) - x̂ mean(w g x̂)) / std.
extern "C" __global__ void backward_tables(const double *of_gradients, const double *of_products, const double *inverse_std,
                                           const float *factor, const float *weight, float *b, float *d, double values, int c, int sections, int group) {
    int at = blockIdx.x * blockDim.x + threadIdx.x, groups = c / group;
    if (at >= sections * groups) return;
    int first = at / groups * c + at % groups * group;
    double inverse = inverse_std[first], weighted = 0.0, products = 0.0;
    for (int i = first; i < first + group; i++) {
        // With one channel a group the factor itself, rounded, so that a lone value's terms cancel exactly.
        double gain = group == 1 ? double(factor[i]) : weight[i % c] * inverse;
        weighted += gain * of_gradients[i];
        products += gain * of_products[i];
    }
    for (int i = first; i < first + group; i++) {
        b[i] = float(-products * inverse * inverse / values);
        d[i] = float(-weighted / values);
    }
}

// dx = a g + b (x - mean) + d, or a g without x; g behind the activation, kept in `masked` if that is there.
extern "C" __global__ void back_on_line(const element *g, const element *x, const element *y, const float *a, const float *b, const float *d,
                                        const float *mean, element *dx, element *masked, long long count, int rows, int c, int activation) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    long long at = i / c / rows * c + i % c;
    float value = !y || passes(y[i], activation) ? g[i] : 0.0f;
    dx[i] = x ? a[at] * value + d[at] + b[at] * (x[i] - mean[at]) : a[at] * value;
    if (masked) masked[i] = value;
}

// Gradients of weight (Σ products / std) and bias (Σ gradients) over the sections.
extern "C" __global__ void table_gradients(const double *of_gradients, const double *of_products, const double *inverse_std,
                                           float *of_weight, float *of_bias, int c, int sections) {
    int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= c) return;
    double weight = 0.0, bias = 0.0;
    for (int section = 0; section < sections; section++) {
        int at = section * c + channel;
        weight += of_products[at] * inverse_std[at];
        bias += of_gradients[at];
    }
    if (of_weight) of_weight[channel] = float(weight);
    if (of_bias) of_bias[channel] = float(bias);
}

// The moments of a batch as running statistics take them: mean, and variance with n - 1.
extern "C" __global__ void statistics(const double *moments, float *mean, float *unbiased, double factor, int c) {
    int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= c) return;
    mean[channel] = float(moments[channel]);
    unbiased[channel] = float(moments[c + channel] * factor);
}
