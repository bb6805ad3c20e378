// What surrounds cuDNN's products: epilogues, scaled and rounded weights.

// y = activation(y + shift + residual) over rows of c channels, in place.
extern "C" __global__ void epilogue(float *y, const float *shift, const float *residual, long long count, int c, int activation) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = int(i % c);
    float value = y[i];
    if (shift) value += shift[channel];
    if (residual) value += residual[i];
    y[i] = activate(value, activation);
}

// Rows of `width` numbers, each times its factor (or 1); rounded to bfloat16's 8 bits if asked.
extern "C" __global__ void scaled_rows(const float *x, const float *scale, float *y, long long count, int width, int round) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    float value = x[i];
    if (scale) value *= scale[i / width];
    y[i] = round ? from_bf16(to_bf16(value)) : value;
}
