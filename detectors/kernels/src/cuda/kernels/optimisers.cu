// Updates of parameters, in place, in the order of their memory.

extern "C" __global__ void sgd(float *param, float *velocity, const float *gradient, long long count,
                               float lr, float momentum, float decay, float scale, int nesterov) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    float g = gradient[i] * scale + decay * param[i];
    float v = momentum * velocity[i] + g;
    velocity[i] = v;
    param[i] -= lr * (nesterov ? g + momentum * v : v);
}

extern "C" __global__ void adamw(float *param, float *first, float *second, const float *gradient, long long count,
                                 float scale, float kept, float share, float second_kept, float second_share, float rate, float root, float eps) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    float g = gradient[i] * scale;
    float m = first[i] + share * (g - first[i]);
    float v = second_kept * second[i] + second_share * g * g;
    first[i] = m;
    second[i] = v;
    param[i] = kept * param[i] - rate * (m / (sqrtf(v) / root + eps));
}

extern "C" __global__ void ema(float *average, const float *weights, double decay, long long count) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < count) average[i] = float(decay * average[i] + (1.0 - decay) * weights[i]);
}

// Σ x² of a chunk of numbers, in a fixed order: a sum for each block.
extern "C" __global__ void __launch_bounds__(256)
squares(const float *x, double *sums, long long count, long long chunk) {
    __shared__ double shared[256];
    long long first = blockIdx.x * chunk, last = min(count, first + chunk);
    double sum = 0.0;
    for (long long i = first + threadIdx.x; i < last; i += 256) sum += double(x[i]) * x[i];
    shared[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if (int(threadIdx.x) < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = shared[0];
}

// The sum of `count` numbers, in order.
extern "C" __global__ void add_up(const double *sums, double *total, int count) {
    double sum = 0.0;
    for (int i = 0; i < count; i++) sum += sums[i];
    total[0] = sum;
}
