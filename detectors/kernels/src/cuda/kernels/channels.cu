// Channels of maps (pixels, C) in another order, times a factor, between zeros.

extern "C" __global__ void pick(const element *x, const int *order, element *y, long long count, int c, int picked) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < count) y[i] = x[i / picked * c + order[i % picked]];
}

// To channel j, the picked channels order[starts[j]..starts[j + 1]], in their order.
extern "C" __global__ void pick_gradient(const element *g, const int *starts, const int *order, element *dx, long long count, int c, int picked) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = int(i % c);
    float sum = 0.0f;
    for (int at = starts[channel]; at < starts[channel + 1]; at++) sum += g[i / c * picked + order[at]];
    dx[i] = sum;
}

// x (N, pixels, C) times factors (N, C).
extern "C" __global__ void scale_channels(const element *x, const element *factors, element *y, long long count, long long pixels, int c) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < count) y[i] = x[i] * factors[i / c / pixels * c + i % c];
}

// Σ g x over the pixels of an image and channel: 32 channels a block, 8 warps share the pixels in a fixed way.
extern "C" __global__ void __launch_bounds__(256)
channel_products(const element *g, const element *x, element *out, long long pixels, int c) {
    __shared__ double sums[8][33];
    int channel = blockIdx.x * 32 + threadIdx.x;
    long long image = blockIdx.y;
    double sum = 0.0;
    if (channel < c)
        for (long long i = threadIdx.y; i < pixels; i += 8) {
            long long at = (image * pixels + i) * c + channel;
            sum += double(g[at]) * x[at];
        }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    for (int half = 4; half > 0; half /= 2) {
        if (int(threadIdx.y) < half) sums[threadIdx.y][threadIdx.x] += sums[threadIdx.y + half][threadIdx.x];
        __syncthreads();
    }
    if (threadIdx.y == 0 && channel < c) out[image * c + channel] = float(sums[0][threadIdx.x]);
}

// Every second pixel of every second row, between channels of zeros.
extern "C" __global__ void halve(const element *x, element *y, long long count, int h, int w, int c, int channels, int before) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int ow = (w + 1) / 2, oh = (h + 1) / 2;
    int channel = int(i % channels) - before, ox = int(i / channels % ow), oy = int(i / channels / ow % oh), image = int(i / channels / ow / oh);
    y[i] = channel >= 0 && channel < c ? x[(((long long)image * h + 2 * oy) * w + 2 * ox) * c + channel] : 0.0f;
}

extern "C" __global__ void halve_gradient(const element *g, element *dx, long long count, int h, int w, int c, int channels, int before) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int ow = (w + 1) / 2, oh = (h + 1) / 2;
    int channel = int(i % c), x = int(i / c % w), y = int(i / c / w % h), image = int(i / c / w / h);
    bool taken = x % 2 == 0 && y % 2 == 0;
    dx[i] = taken ? g[(((long long)image * oh + y / 2) * ow + x / 2) * channels + before + channel] : 0.0f;
}
