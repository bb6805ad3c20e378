// What surrounds cuDNN's products: epilogues, scaled weights, maps of another type.

// y = activation(y + shift + residual) over rows of c channels, in place.
extern "C" __global__ void epilogue(element *y, const float *shift, const element *residual, long long count, int c, int activation) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = int(i % c);
    float value = y[i];
    if (shift) value += shift[channel];
    if (residual) value += residual[i];
    y[i] = activate(value, activation);
}

// Rows of `width` numbers, each times its factor (or 1), as elements.
extern "C" __global__ void to_elements(const float *x, const float *scale, element *y, long long count, int width) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < count) y[i] = scale ? x[i] * scale[i / width] : x[i];
}

// Elements in rows of `width`, each row times its factor (or 1), as floats.
extern "C" __global__ void to_floats(const element *x, const float *scale, float *y, long long count, int width) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < count) y[i] = scale ? x[i] * scale[i / width] : float(x[i]);
}
