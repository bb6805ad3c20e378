// Pooling over maps (N, H, W, C). Gradients are gathered: a thread owns a number and asks the windows over it.

// A NaN wins; of equal values the first in row order.
extern "C" __global__ void max_pool(const element *x, element *y, u8 *winners, long long count, int h, int w, int c, int oh, int ow,
                                    int kernel, int stride, int padding) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = int(i % c), ox = int(i / c % ow), oy = int(i / c / ow % oh), image = int(i / c / ow / oh);
    int at = -1;
    float best = 0.0f;
    for (int ky = 0; ky < kernel; ky++)
        for (int kx = 0; kx < kernel; kx++) {
            int py = oy * stride + ky - padding, px = ox * stride + kx - padding;
            if (py < 0 || py >= h || px < 0 || px >= w) continue;
            float value = x[(((long long)image * h + py) * w + px) * c + channel];
            if (at < 0 || value > best || value != value) best = value, at = ky * kernel + kx;
        }
    y[i] = best;
    if (winners) winners[i] = u8(at);
}

// The number of each window at the position that is named for it.
extern "C" __global__ void max_pool_taken(const element *x, const u8 *winners, element *y, long long count, int h, int w, int c, int oh, int ow,
                                          int kernel, int stride, int padding) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = int(i % c), ox = int(i / c % ow), oy = int(i / c / ow % oh), image = int(i / c / ow / oh);
    int py = oy * stride + winners[i] / kernel - padding, px = ox * stride + winners[i] % kernel - padding;
    y[i] = x[(((long long)image * h + py) * w + px) * c + channel];
}

extern "C" __global__ void max_pool_gradient(const element *g, const u8 *winners, element *dx, long long count, int h, int w, int c, int oh, int ow,
                                             int kernel, int stride, int padding) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = int(i % c), px = int(i / c % w), py = int(i / c / w % h), image = int(i / c / w / h);
    int first_y = max(0, (py + padding - kernel + stride) / stride), last_y = min(oh - 1, (py + padding) / stride);
    int first_x = max(0, (px + padding - kernel + stride) / stride), last_x = min(ow - 1, (px + padding) / stride);
    float sum = 0.0f;
    for (int oy = first_y; oy <= last_y; oy++)
        for (int ox = first_x; ox <= last_x; ox++) {
            long long window = (((long long)image * oh + oy) * ow + ox) * c + channel;
            int ky = py + padding - oy * stride, kx = px + padding - ox * stride;
            if (ky < 0 || ky >= kernel || kx < 0 || kx >= kernel) continue;
            if (winners[window] == ky * kernel + kx) sum += g[window];
        }
    dx[i] = sum;
}

// Bin i of n over `input` pixels: first and end.
__device__ __forceinline__ int bin_start(int i, int input, int bins) { return int((long long)i * input / bins); }
__device__ __forceinline__ int bin_end(int i, int input, int bins) { return int(((long long)(i + 1) * input + bins - 1) / bins); }

// Means of small bins, a thread each.
extern "C" __global__ void average_pool_small(const element *x, element *y, long long count, int h, int w, int c, int oh, int ow) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = int(i % c), ox = int(i / c % ow), oy = int(i / c / ow % oh), image = int(i / c / ow / oh);
    int top = bin_start(oy, h, oh), bottom = bin_end(oy, h, oh), left = bin_start(ox, w, ow), right = bin_end(ox, w, ow);
    double sum = 0.0;
    for (int py = top; py < bottom; py++)
        for (int px = left; px < right; px++) sum += x[(((long long)image * h + py) * w + px) * c + channel];
    y[i] = float(sum * (1.0 / ((bottom - top) * (right - left))));
}

// Means of large bins, 32 channels a block; 8 warps share the pixels of a bin. Grid: (bins of all images, channels / 32).
extern "C" __global__ void __launch_bounds__(256)
average_pool(const element *x, element *y, int h, int w, int c, int oh, int ow) {
    __shared__ double sums[8][33];
    int channel = blockIdx.y * 32 + threadIdx.x;
    int ox = blockIdx.x % ow, oy = blockIdx.x / ow % oh, image = blockIdx.x / ow / oh;
    int top = bin_start(oy, h, oh), bottom = bin_end(oy, h, oh), left = bin_start(ox, w, ow), right = bin_end(ox, w, ow);
    int width = right - left, pixels = (bottom - top) * width;
    double sum = 0.0;
    if (channel < c)
        for (int i = threadIdx.y; i < pixels; i += 8)
            sum += x[(((long long)image * h + top + i / width) * w + left + i % width) * c + channel];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    for (int half = 4; half > 0; half /= 2) {
        if (int(threadIdx.y) < half) sums[threadIdx.y][threadIdx.x] += sums[threadIdx.y + half][threadIdx.x];
        __syncthreads();
    }
    if (threadIdx.y == 0 && channel < c) y[(long long)blockIdx.x * c + channel] = float(sums[0][threadIdx.x] * (1.0 / pixels));
}

extern "C" __global__ void average_pool_gradient(const element *g, element *dx, long long count, int h, int w, int c, int oh, int ow) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = int(i % c), px = int(i / c % w), py = int(i / c / w % h), image = int(i / c / w / h);
    float sum = 0.0f;
    // A pixel lies in the bins around its share of the axis.
    int first_y = max(0, int((long long)py * oh / h) - 1), last_y = min(oh - 1, int(((long long)py + 1) * oh / h) + 1);
    int first_x = max(0, int((long long)px * ow / w) - 1), last_x = min(ow - 1, int(((long long)px + 1) * ow / w) + 1);
    for (int oy = first_y; oy <= last_y; oy++) {
        int top = bin_start(oy, h, oh), bottom = bin_end(oy, h, oh);
        if (py < top || py >= bottom) continue;
        for (int ox = first_x; ox <= last_x; ox++) {
            int left = bin_start(ox, w, ow), right = bin_end(ox, w, ow);
            if (px < left || px >= right) continue;
            float share = float(1.0 / double((bottom - top) * (right - left)));
            sum += g[(((long long)image * oh + oy) * ow + ox) * c + channel] * share;
        }
    }
    dx[i] = sum;
}
