// Maps (N, H, W, C) at another size, windows of maps, pixels of images.

// Row and column `rows[oy]`, `columns[ox]` of the source for each result, plus `side` if there is one.
extern "C" __global__ void nearest(const element *x, const element *side, const int *rows, const int *columns, element *y,
                                   long long count, int h, int w, int c, int oh, int ow) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = int(i % c), ox = int(i / c % ow), oy = int(i / c / ow % oh), image = int(i / c / ow / oh);
    float top = x[(((long long)image * h + rows[oy]) * w + columns[ox]) * c + channel];
    y[i] = side ? side[i] + top : top;
}

// The gradient, gathered: results from row_readers[y] to row_readers[y + 1] read row y, and columns alike.
extern "C" __global__ void nearest_gradient(const element *g, const int *row_readers, const int *column_readers, element *dx,
                                            long long count, int h, int w, int c, int oh, int ow) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = int(i % c), x = int(i / c % w), y = int(i / c / w % h), image = int(i / c / w / h);
    float sum = 0.0f;
    for (int oy = row_readers[y]; oy < row_readers[y + 1]; oy++)
        for (int ox = column_readers[x]; ox < column_readers[x + 1]; ox++)
            sum += g[(((long long)image * oh + oy) * ow + ox) * c + channel];
    dx[i] = sum;
}

// What a result reads along an axis: two places and their weights.
struct Mix { int low, high; float weights[2]; };

__device__ __forceinline__ float weight_of(const Mix &mix, int at) {
    return (mix.low == at ? mix.weights[0] : 0.0f) + (mix.high == at ? mix.weights[1] : 0.0f);
}

extern "C" __global__ void bilinear(const element *x, const Mix *rows, const Mix *columns, element *y,
                                    long long count, int h, int w, int c, int oh, int ow) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = int(i % c), ox = int(i / c % ow), oy = int(i / c / ow % oh), image = int(i / c / ow / oh);
    Mix row = rows[oy], column = columns[ox];
    const element *top = x + ((long long)image * h + row.low) * w * c + channel;
    const element *bottom = x + ((long long)image * h + row.high) * w * c + channel;
    long long low = (long long)column.low * c, high = (long long)column.high * c;
    y[i] = row.weights[0] * (column.weights[0] * top[low] + column.weights[1] * top[high])
        + row.weights[1] * (column.weights[0] * bottom[low] + column.weights[1] * bottom[high]);
}

// The gradient, gathered: results from row_readers[2 y] to row_readers[2 y + 1] read row y, and columns alike.
extern "C" __global__ void bilinear_gradient(const element *g, const Mix *rows, const Mix *columns, const int *row_readers,
                                             const int *column_readers, element *dx, long long count, int h, int w, int c, int oh, int ow) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = int(i % c), x = int(i / c % w), y = int(i / c / w % h), image = int(i / c / w / h);
    float sum = 0.0f;
    for (int oy = row_readers[2 * y]; oy < row_readers[2 * y + 1]; oy++) {
        float wy = weight_of(rows[oy], y);
        for (int ox = column_readers[2 * x]; ox < column_readers[2 * x + 1]; ox++) {
            float weight = wy * weight_of(columns[ox], x);
            if (weight != 0.0f) sum += weight * g[(((long long)image * oh + oy) * ow + ox) * c + channel];
        }
    }
    dx[i] = sum;
}

// Windows (P, side, side, C) around centres (image, y, x), 0 outside the map.
extern "C" __global__ void cut_windows(const element *map, const int *centres, element *out, long long count, int h, int w, int c, int side) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = int(i % c), column = int(i / c % side), row = int(i / c / side % side), window = int(i / c / side / side);
    int image = centres[3 * window], y = centres[3 * window + 1] + row - side / 2, x = centres[3 * window + 2] + column - side / 2;
    out[i] = y >= 0 && y < h && x >= 0 && x < w ? map[(((long long)image * h + y) * w + x) * c + channel] : 0.0f;
}

// To pixel `pixels[p]` of a map of zeros, the window pixels `order[starts[p]..starts[p + 1]]`, in their order.
extern "C" __global__ void put_windows_back(const element *g, const long long *pixels, const int *starts, const int *order, element *map,
                                            long long count, int c) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int pixel = int(i / c), channel = int(i % c);
    float sum = 0.0f;
    for (int at = starts[pixel]; at < starts[pixel + 1]; at++) sum += g[(long long)order[at] * c + channel];
    map[pixels[pixel] * c + channel] = sum;
}

// (x - mean) / std within each image's size (height, width), 0 in its padding.
extern "C" __global__ void normalize_pixels(const float *x, const int *sizes, const float *mean, const float *std, float *y,
                                            long long count, int h, int w, int c) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = int(i % c), column = int(i / c % w), row = int(i / c / w % h), image = int(i / c / w / h);
    bool inside = row < sizes[2 * image] && column < sizes[2 * image + 1];
    y[i] = inside ? (x[i] - mean[channel]) / std[channel] : 0.0f;
}

// Matrices of `channels` channels from `first` on of maps (N, H, W, C), which are resized to `side`-multiples and cut into patches. A row is a patch
// and a column an image and a pixel of the patch, or the other way round where `by_pixel`.
struct Patches {
    int h, w, c, first, channels, side, across, count, pixels, by_pixel;
};

// Row and column of the resized map, and the image, of place `at` of a matrix.
__device__ __forceinline__ void cell_of(const Patches &p, int at, int &image, int &y, int &x) {
    int patch = p.by_pixel ? at % p.count : at / p.pixels, pixel = p.by_pixel ? at / p.count : at % p.pixels;
    image = pixel / (p.side * p.side);
    y = patch / p.across * p.side + pixel / p.side % p.side;
    x = patch % p.across * p.side + pixel % p.side;
}

__device__ __forceinline__ int place_of(const Patches &p, int image, int y, int x) {
    int patch = y / p.side * p.across + x / p.side, pixel = (image * p.side + y % p.side) * p.side + x % p.side;
    return p.by_pixel ? pixel * p.count + patch : patch * p.pixels + pixel;
}

// Two numbers mixed; one without a share does not count: it may be infinite.
__device__ __forceinline__ float mixed(float a, float b, const Mix &mix) {
    return mix.weights[1] == 0.0f ? a : mix.weights[0] * a + mix.weights[1] * b;
}

// A block (32, 8) takes 32 places of the matrices of 32 channels: it reads channel after channel and writes place after place.
extern "C" __global__ void __launch_bounds__(256)
cut_patches(const element *map, const Patches *patches, const Mix *rows, const Mix *columns, float *out) {
    __shared__ float tile[32][33];
    Patches p = *patches;
    int places = p.count * p.pixels, first = blockIdx.x * 32, channels = blockIdx.y * 32;
    for (int k = threadIdx.y; k < 32; k += 8) {
        int at = first + k, channel = channels + threadIdx.x;
        if (at >= places || channel >= p.channels) continue;
        int image, y, x;
        cell_of(p, at, image, y, x);
        Mix row = rows[y], column = columns[x];
        const element *low = map + ((long long)image * p.h + row.low) * p.w * p.c + p.first + channel;
        const element *high = map + ((long long)image * p.h + row.high) * p.w * p.c + p.first + channel;
        long long near = (long long)column.low * p.c, far = (long long)column.high * p.c;
        float above = mixed(low[near], low[far], column);
        tile[k][threadIdx.x] = row.weights[1] == 0.0f ? above : mixed(above, mixed(high[near], high[far], column), row);
    }
    __syncthreads();
    for (int k = threadIdx.y; k < 32; k += 8) {
        int at = first + threadIdx.x, channel = channels + k;
        if (at < places && channel < p.channels) out[(long long)channel * places + at] = tile[threadIdx.x][k];
    }
}

// The transpose of cut_patches, gathered: a block (32, 8) takes 32 pixels of the maps and 32 channels.
extern "C" __global__ void __launch_bounds__(256)
paste_patches(const float *g, const Patches *patches, const Mix *rows, const Mix *columns, const int *row_readers,
              const int *column_readers, element *map, int pixels) {
    __shared__ float tile[32][33];
    Patches p = *patches;
    int places = p.count * p.pixels, first = blockIdx.x * 32, channels = blockIdx.y * 32;
    for (int k = threadIdx.y; k < 32; k += 8) {
        int at = first + threadIdx.x, channel = channels + k;
        if (at >= pixels || channel >= p.channels) continue;
        int x = at % p.w, y = at / p.w % p.h, image = at / p.w / p.h;
        const float *own = g + (long long)channel * places;
        float sum = 0.0f;
        for (int oy = row_readers[2 * y]; oy < row_readers[2 * y + 1]; oy++) {
            float wy = weight_of(rows[oy], y);
            for (int ox = column_readers[2 * x]; ox < column_readers[2 * x + 1]; ox++) {
                float weight = wy * weight_of(columns[ox], x);
                if (weight != 0.0f) sum += weight * own[place_of(p, image, oy, ox)];
            }
        }
        tile[k][threadIdx.x] = sum;
    }
    __syncthreads();
    for (int k = threadIdx.y; k < 32; k += 8) {
        int at = first + k, channel = channels + threadIdx.x;
        if (at < pixels && channel < p.channels) map[(long long)at * p.c + p.first + channel] = tile[threadIdx.x][k];
    }
}
