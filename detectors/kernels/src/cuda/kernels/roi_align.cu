// RoIAlign on the levels of a pyramid: maps (N, H, W, C), results (R, C, OH, OW). As on the host, the samples of a bin
// are merged along each axis into shares of pixels; a bin is the sum of share_y share_x pixel. Axis bin i of a RoI is
// row i of its bins, or behind these column i - oh; it has up to `cap` shares.

struct Level { const element *map; double scale; int h, w; };
struct Roi { float image, x1, y1, x2, y2; int level; };

__device__ __forceinline__ void add_share(int *sources, float *weights, int &count, int source, double weight) {
    if (weight == 0.0) return;
    // Samples go one way, so an earlier share of the same pixel is one of the last three.
    for (int i = count > 3 ? count - 3 : 0; i < count; i++) {
        if (sources[i] == source) {
            weights[i] += float(weight);
            return;
        }
    }
    sources[count] = source;
    weights[count] = float(weight);
    count++;
}

// A thread an axis bin. A RoI whose corners are not finite has no shares.
extern "C" __global__ void roi_shares(const Roi *rois, const Level *levels, int *sources, float *weights, int *counts,
                                      int count, int oh, int ow, int cap, int fixed_samples, int half_pixel) {
    long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= (long long)count * (oh + ow)) return;
    Roi roi = rois[at / (oh + ow)];
    Level level = levels[roi.level];
    int index = int(at % (oh + ow)), found = 0;
    bool vertical = index < oh;
    if (!vertical) index -= oh;
    double low = vertical ? roi.y1 : roi.x1, high = vertical ? roi.y2 : roi.x2;
    int bins = vertical ? oh : ow, pixels = vertical ? level.h : level.w;
    // Products are rounded before they are added, as on the host: a sample may lie exactly on a map's border.
    double start = __dmul_rn(low, level.scale), length = __dmul_rn(high - low, level.scale);
    if (half_pixel) start -= 0.5;
    else length = fmax(length, 1.0);
    double bin = length / bins;
    int samples = fixed_samples > 0 ? fixed_samples : int(fmin(fmax(ceil(bin), 0.0), 1024.0));
    if (0.0f * roi.x1 + 0.0f * roi.y1 + 0.0f * roi.x2 + 0.0f * roi.y2 != 0.0f || pixels == 0) samples = 0;
    double weight = 1.0 / samples;
    int *to = sources + at * cap;
    float *to_weights = weights + at * cap;
    for (int sample = 0; sample < samples; sample++) {
        double place = start + __dmul_rn(index + (sample + 0.5) / samples, bin);
        if (!(place >= -1.0 && place <= pixels)) continue;
        place = fmin(fmax(place, 0.0), double(pixels - 1));
        int source = int(place);
        double share = place - source;
        add_share(to, to_weights, found, source, weight * (1.0 - share));
        add_share(to, to_weights, found, min(source + 1, pixels - 1), weight * share);
    }
    counts[at] = found;
}

// A block a RoI and 32 channels: lanes are channels when pixels are read, bins when the result is written.
extern "C" __global__ void __launch_bounds__(256)
roi_align(const Roi *rois, const Level *levels, const int *sources, const float *weights, const int *counts,
          element *out, int c, int oh, int ow, int cap) {
    __shared__ float tile[32][65];
    int groups = (c + 31) / 32, r = blockIdx.x / groups, first_channel = blockIdx.x % groups * 32;
    int channel = first_channel + threadIdx.x, bins = oh * ow;
    Level level = levels[rois[r].level];
    const element *image = level.map + (long long)rois[r].image * level.h * level.w * c + channel;
    long long rows = (long long)r * (oh + ow), columns = rows + oh;
    for (int first = 0; first < bins; first += 64) {
        int width = min(64, bins - first);
        for (int i = threadIdx.y; i < width; i += 8) {
            long long y_bin = rows + (first + i) / ow, x_bin = columns + (first + i) % ow;
            int ys = counts[y_bin], xs = counts[x_bin];
            float sum = 0.0f;
            if (channel < c) {
                for (int y = 0; y < ys; y++) {
                    const element *line = image + (long long)sources[y_bin * cap + y] * level.w * c;
                    float weight = weights[y_bin * cap + y];
                    for (int x = 0; x < xs; x++)
                        sum += weight * weights[x_bin * cap + x] * line[(long long)sources[x_bin * cap + x] * c];
                }
            }
            tile[threadIdx.x][i] = sum;
        }
        __syncthreads();
        for (int i = threadIdx.y * 32 + threadIdx.x; i < 32 * width; i += 256) {
            int lane = i / width, bin = i % width;
            if (first_channel + lane < c)
                out[((long long)r * c + first_channel + lane) * bins + first + bin] = tile[lane][bin];
        }
        __syncthreads();
    }
}

// g (R, C, bins) as (R, bins, C).
extern "C" __global__ void __launch_bounds__(256) roi_bins_first(const element *g, element *out, int c, int bins) {
    __shared__ float tile[32][65];
    int groups = (c + 31) / 32, r = blockIdx.x / groups, first_channel = blockIdx.x % groups * 32;
    for (int first = 0; first < bins; first += 64) {
        int width = min(64, bins - first);
        for (int i = threadIdx.y * 32 + threadIdx.x; i < 32 * width; i += 256) {
            int lane = i / width, bin = i % width;
            if (first_channel + lane < c)
                tile[lane][bin] = g[((long long)r * c + first_channel + lane) * bins + first + bin];
        }
        __syncthreads();
        int channel = first_channel + threadIdx.x;
        for (int i = threadIdx.y; i < width; i += 8)
            if (channel < c) out[((long long)r * bins + first + i) * c + channel] = tile[threadIdx.x][i];
        __syncthreads();
    }
}

// First and last pixel that a RoI has shares in, rows then columns; last before first if there are none.
extern "C" __global__ void roi_reach(const int *sources, const int *counts, int *reach, int count, int oh, int ow, int cap) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= 2 * count) return;
    bool vertical = at % 2 == 0;
    long long bin = (long long)(at / 2) * (oh + ow) + (vertical ? 0 : oh), end = bin + (vertical ? oh : ow);
    int low = 0x7fffffff, high = -1;
    for (; bin < end; bin++) {
        for (int i = 0; i < counts[bin]; i++) {
            low = min(low, sources[bin * cap + i]);
            high = max(high, sources[bin * cap + i]);
        }
    }
    reach[2 * at] = low;
    reach[2 * at + 1] = high;
}

// The share of a pixel in an axis bin, 0 if it has none.
__device__ __forceinline__ float share_of(const int *sources, const float *weights, int count, int pixel) {
    for (int i = 0; i < count; i++)
        if (sources[i] == pixel) return weights[i];
    return 0.0f;
}

// The gradient of one level's map: a block owns 8 x 8 pixels of an image and 32 channels, and adds the RoIs that touch
// them in their order. Lanes are channels, warps columns of pixels. g is (R, bins, C).
extern "C" __global__ void __launch_bounds__(256, 3)
roi_align_gradient(const element *g, const Roi *rois, const int *reach, const int *sources, const float *weights, const int *counts,
                   element *out, int count, int level, int h, int w, int c, int oh, int ow, int cap) {
    __shared__ int touching[256];
    __shared__ int totals[8];
    __shared__ float y_shares[32][8];
    __shared__ float x_shares[32][8];
    int groups = (c + 31) / 32, tiles_x = (w + 7) / 8, tiles_y = (h + 7) / 8;
    int tile = blockIdx.x / groups, channel = blockIdx.x % groups * 32 + threadIdx.x;
    int image = tile / (tiles_x * tiles_y);
    tile %= tiles_x * tiles_y;
    int left = tile % tiles_x * 8, top = tile / tiles_x * 8;
    int lane = threadIdx.x, warp = threadIdx.y;
    float sums[8];
#pragma unroll
    for (int i = 0; i < 8; i++) sums[i] = 0.0f;
    for (int first = 0; first < count; first += 256) {
        int r = first + warp * 32 + lane;
        bool touches = r < count && rois[r].level == level && int(rois[r].image) == image
            && reach[4 * r] < top + 8 && reach[4 * r + 1] >= top && reach[4 * r + 2] < left + 8 && reach[4 * r + 3] >= left;
        // Those that touch, in order: how many there are up to this thread.
        int place = touches;
        for (int delta = 1; delta < 32; delta *= 2) {
            int before = __shfl_sync(0xffffffffu, place, (lane - delta) & 31);
            if (lane >= delta) place += before;
        }
        if (lane == 31) totals[warp] = place;
        __syncthreads();
        int found = 0;
        for (int i = 0; i < 8; i++) {
            if (i == warp) place += found;
            found += totals[i];
        }
        if (touches) touching[place - 1] = r;
        __syncthreads();
        for (int k = 0; k < found; k++) {
            int roi = touching[k];
            long long rows = (long long)roi * (oh + ow), columns = rows + oh;
            for (int y0 = 0; y0 < oh; y0 += 32) {
                for (int x0 = 0; x0 < ow; x0 += 32) {
                    // Thread (bin, pixel) looks up both axes.
                    float y_share = 0.0f, x_share = 0.0f;
                    if (y0 + lane < oh) {
                        long long bin = rows + y0 + lane;
                        y_share = share_of(sources + bin * cap, weights + bin * cap, counts[bin], top + warp);
                    }
                    if (x0 + lane < ow) {
                        long long bin = columns + x0 + lane;
                        x_share = share_of(sources + bin * cap, weights + bin * cap, counts[bin], left + warp);
                    }
                    __syncthreads();  // the shares of the last RoI were read
                    y_shares[lane][warp] = y_share;
                    x_shares[lane][warp] = x_share;
                    __syncthreads();
                    for (int y = 0; y < min(32, oh - y0); y++) {
                        float shares[8], all = 0.0f;
#pragma unroll
                        for (int i = 0; i < 8; i++) all += shares[i] = y_shares[y][i];
                        if (all == 0.0f || channel >= c) continue;
                        const element *from = g + (((long long)roi * oh + y0 + y) * ow + x0) * c + channel;
                        float line = 0.0f;
                        for (int x = 0; x < min(32, ow - x0); x++) {
                            float share = x_shares[x][warp];
                            if (share != 0.0f) line += share * from[(long long)x * c];
                        }
#pragma unroll
                        for (int i = 0; i < 8; i++)
                            if (shares[i] != 0.0f) sums[i] += shares[i] * line;
                    }
                }
            }
        }
        __syncthreads();
    }
    int x = left + warp;
    if (channel >= c || x >= w) return;
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (top + i < h) out[(((long long)image * h + top + i) * w + x) * c + channel] = sums[i];
}
