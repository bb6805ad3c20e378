// Comparisons of maps (images, cells, c), channels last. A warp computes a cell, eight a block (32, 8); or a block (32, 8)
// takes 32 channels of a chunk of an image's cells, and `finish_chunks` adds the chunks in their order; or a block (1024, 1)
// takes a row of numbers. Sums are in double and in a fixed order.

__device__ __forceinline__ long long cell_of_warp() { return blockIdx.x * (long long)blockDim.y + threadIdx.y; }

// ---- squared differences

// Σ weight (x - t)² / divisor of each chunk of cells; a cell of weight 0 does not count, whatever lies there.
extern "C" __global__ void __launch_bounds__(256)
squared_difference(const float *t, const float *x, const float *by_cell, const float *by_channel, double *partial,
                   long long cells, long long cells_of_image, int c, int chunk, double divisor) {
    __shared__ double sums[8];
    long long first = blockIdx.x * (long long)chunk, last = first + chunk < cells ? first + chunk : cells;
    double sum = 0.0;
    for (long long cell = first + threadIdx.y; cell < last; cell += 8) {
        float weight = by_cell ? by_cell[cell] : 1.0f;
        if (weight == 0.0f) continue;
        const float *factors = by_channel ? by_channel + cell / cells_of_image * c : nullptr;
        double square = 0.0;
        for (int k = threadIdx.x; k < c; k += 32) {
            float difference = x[cell * c + k] - t[cell * c + k];
            square += double(difference) * double(factors ? difference * factors[k] : difference);
        }
        sum += weight * square;
    }
    sum = sum_of_warp(sum);
    if (threadIdx.x == 0) sums[threadIdx.y] = sum;
    __syncthreads();
    if (threadIdx.x > 0 || threadIdx.y > 0) return;
    for (int i = 1; i < 8; i++) sum += sums[i];
    partial[blockIdx.x] = sum / divisor;
}

extern "C" __global__ void __launch_bounds__(256)
squared_difference_gradient(const float *t, const float *x, const float *by_cell, const float *by_channel, const float *factor,
                            float *dx, long long cells, long long cells_of_image, int c, double divisor) {
    long long cell = cell_of_warp();
    if (cell >= cells) return;
    float by = float(2.0 * double(factor[0]) / divisor) * (by_cell ? by_cell[cell] : 1.0f);
    const float *factors = by_channel ? by_channel + cell / cells_of_image * c : nullptr;
    for (int k = threadIdx.x; k < c; k += 32) {
        float difference = x[cell * c + k] - t[cell * c + k];
        dx[cell * c + k] = by == 0.0f ? 0.0f : (factors ? by * factors[k] : by) * difference;
    }
}

// ---- sums over channels, over cells

// Of each cell, the mean over the channels: 0 of squares, 1 of sizes.
extern "C" __global__ void __launch_bounds__(256)
means_of_cells(const float *x, double *means, long long cells, int c, int code) {
    long long cell = cell_of_warp();
    if (cell >= cells) return;
    double sum = 0.0;
    for (int k = threadIdx.x; k < c; k += 32) {
        double value = x[cell * c + k];
        sum += code == 0 ? value * value : fabs(value);
    }
    sum = sum_of_warp(sum);
    if (threadIdx.x == 0) means[cell] = sum / c;
}

// Adds the eight warps of a block, whose lanes are channels; the first warp has the sum.
__device__ __forceinline__ double sum_of_warps(double sum, double (*sums)[33]) {
    __syncthreads();  // `sums` may still be read
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    for (int i = 1; threadIdx.y == 0 && i < 8; i++) sum += sums[i][threadIdx.x];
    return sum;
}

// A block's place: grid (c / 32, chunks, images).
struct Piece {
    int channel;
    long long first, last, out;
};

__device__ __forceinline__ Piece piece_of(long long cells, int c, long long chunk) {
    long long first = blockIdx.y * chunk, last = first + chunk < cells ? first + chunk : cells;
    long long image = blockIdx.z * cells;
    int channel = int(blockIdx.x) * 32 + int(threadIdx.x);
    return {channel, image + first, image + last, (blockIdx.z * (long long)gridDim.y + blockIdx.y) * c + channel};
}

// Of each channel, sums over a chunk of cells: 0 of the numbers, 1 of their sizes; a cell times its share, where there are shares.
extern "C" __global__ void __launch_bounds__(256)
sums_of_channels(const float *x, const double *shares, double *partial, long long cells, int c, long long chunk, int code) {
    __shared__ double sums[8][33];
    Piece piece = piece_of(cells, c, chunk);
    double sum = 0.0;
    if (piece.channel < c)
        for (long long cell = piece.first + threadIdx.y; cell < piece.last; cell += 8) {
            double value = x[cell * c + piece.channel];
            value = code == 0 ? value : fabs(value);
            sum += shares ? shares[cell] * value : value;
        }
    sum = sum_of_warps(sum, sums);
    if (threadIdx.y == 0 && piece.channel < c) partial[piece.out] = sum;
}

// The chunks of each of `count` sums, in their order, over a divisor; those of c channels lie together.
extern "C" __global__ void finish_chunks(const double *partial, double *out, long long count, int c, int chunks, double divisor) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    double sum = 0.0;
    for (int k = 0; k < chunks; k++) sum += partial[(i / c * chunks + k) * c + i % c];
    out[i] = sum / divisor;
}

// Numbers in float, times a mask where there is one.
extern "C" __global__ void masked(const double *x, const float *mask, float *out, long long count) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < count) out[i] = float(mask ? x[i] * double(mask[i]) : x[i]);
}

// ---- standardized differences

// Of each channel, sums of the products of the centred numbers over a chunk of cells: t t, x x, t x, `apart` from each other.
extern "C" __global__ void __launch_bounds__(256)
centred_products(const float *t, const float *x, const double *mean_t, const double *mean_x, double *partial, long long cells,
                 int c, long long chunk, long long apart) {
    __shared__ double sums[8][33];
    Piece piece = piece_of(cells, c, chunk);
    double tt = 0.0, xx = 0.0, tx = 0.0;
    if (piece.channel < c)
        for (long long cell = piece.first + threadIdx.y; cell < piece.last; cell += 8) {
            double from_t = t[cell * c + piece.channel] - mean_t[piece.channel];
            double from_x = x[cell * c + piece.channel] - mean_x[piece.channel];
            tt += from_t * from_t;
            xx += from_x * from_x;
            tx += from_t * from_x;
        }
    tt = sum_of_warps(tt, sums);
    xx = sum_of_warps(xx, sums);
    tx = sum_of_warps(tx, sums);
    if (threadIdx.y > 0 || piece.channel >= c) return;
    partial[piece.out] = tt;
    partial[apart + piece.out] = xx;
    partial[2 * apart + piece.out] = tx;
}

// Of each channel, its part of the loss, and a, b: the derivatives are a (x - mean) + b (t - mean).
extern "C" __global__ void standardized(const double *products, double *losses, double *slopes, int c, double count, double divisor,
                                        double eps) {
    int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= c) return;
    double tt = products[k], xx = products[c + k], tx = products[2 * c + k], all = count * c;
    double dev_x = sqrt(xx / divisor), size_target = sqrt(tt / divisor) + eps, size_x = dev_x + eps;
    losses[k] = (xx / (size_x * size_x) + tt / (size_target * size_target) - 2.0 * tx / (size_x * size_target)) / (2.0 * all);
    double a = 0.0, b = 0.0;
    if (dev_x > 0.0) {
        double along = (xx / size_x - tx / size_target) / (dev_x * size_x * divisor);
        a = (1.0 / size_x - along) / (size_x * all);
        b = -1.0 / (size_x * size_target * all);
    }
    slopes[k] = a;
    slopes[c + k] = b;
}

extern "C" __global__ void __launch_bounds__(256)
standardized_gradient(const float *t, const float *x, const double *mean_t, const double *mean_x, const double *slopes, float *dx,
                      long long cells, int c) {
    long long cell = cell_of_warp();
    if (cell >= cells) return;
    for (int k = threadIdx.x; k < c; k += 32) {
        double from_t = t[cell * c + k] - mean_t[k], from_x = x[cell * c + k] - mean_x[k];
        dx[cell * c + k] = float(slopes[k] * from_x + slopes[c + k] * from_t);
    }
}

// ---- rows of numbers: an image's cells, or its channels

// The squared difference of two rows as unit vectors, in all (images rows of len) over their number; derivatives by x.
extern "C" __global__ void __launch_bounds__(1024)
unit_difference(const double *t, const double *x, double *losses, double *by_x, long long len, double all) {
    __shared__ double parts[32];
    long long first = blockIdx.x * len;
    double tt = 0.0, xx = 0.0;
    for (long long i = first + threadIdx.x; i < first + len; i += blockDim.x) {
        tt += t[i] * t[i];
        xx += x[i] * x[i];
    }
    double length_t = sqrt(row_sum(tt, parts)), length_x = sqrt(row_sum(xx, parts));
    double scale_t = length_t == 0.0 ? 0.0 : 1.0 / length_t, scale_x = length_x == 0.0 ? 0.0 : 1.0 / length_x;
    double squares = 0.0, along = 0.0;
    for (long long i = first + threadIdx.x; i < first + len; i += blockDim.x) {
        double by_unit = 2.0 * (x[i] * scale_x - t[i] * scale_t) / all;
        squares += by_unit * by_unit;
        along += by_unit * (x[i] * scale_x);
    }
    squares = row_sum(squares, parts);
    along = row_sum(along, parts);
    for (long long i = first + threadIdx.x; i < first + len; i += blockDim.x) {
        double by_unit = 2.0 * (x[i] * scale_x - t[i] * scale_t) / all;
        by_x[i] = (by_unit - along * (x[i] * scale_x)) * scale_x;
    }
    if (threadIdx.x == 0) losses[blockIdx.x] = squares * all / 4.0;
}

// The numbers of a cell, times the derivative by the mean of its squares.
extern "C" __global__ void __launch_bounds__(256)
energy_gradient(const float *x, const double *by_mean, float *dx, long long cells, int c) {
    long long cell = cell_of_warp();
    if (cell >= cells) return;
    double factor = 2.0 * by_mean[cell] / c;
    for (int k = threadIdx.x; k < c; k += 32) dx[cell * c + k] = float(double(x[cell * c + k]) * factor);
}

// softmax(x / temperature) `times`, of each row: x in float, whatever it is stored in.
template <class T>
__device__ __forceinline__ void softened_row(const T *x, double *out, long long len, double temperature, double times, double *parts) {
    long long first = blockIdx.x * len, end = first + len;
    float highest = __uint_as_float(0xff800000u);
    for (long long i = first + threadIdx.x; i < end; i += blockDim.x) highest = float(x[i]) > highest ? float(x[i]) : highest;
    double top = row_largest(highest, parts), total = 0.0;
    for (long long i = first + threadIdx.x; i < end; i += blockDim.x) total += exp((double(float(x[i])) - top) / temperature);
    double log_total = log(row_sum(total, parts));
    for (long long i = first + threadIdx.x; i < end; i += blockDim.x)
        out[i] = exp((double(float(x[i])) - top) / temperature - log_total) * times;
}

extern "C" __global__ void __launch_bounds__(1024, 1)
softened(const double *x, double *out, long long len, double temperature, double times) {
    __shared__ double parts[32];
    softened_row(x, out, len, temperature, times, parts);
}

extern "C" __global__ void __launch_bounds__(1024)
softened_logits(const float *x, double *out, long long len, double temperature, double times) {
    __shared__ double parts[32];
    softened_row(x, out, len, temperature, times, parts);
}

// Σ |x - t| of a row over `images`, x and t softened; derivatives by the means that x was made of.
extern "C" __global__ void __launch_bounds__(1024)
softened_difference(const double *t, const double *x, double *losses, double *by_mean, long long len, double temperature,
                    double images) {
    __shared__ double parts[32];
    long long first = blockIdx.x * len, end = first + len;
    double distance = 0.0, along = 0.0;
    for (long long i = first + threadIdx.x; i < end; i += blockDim.x) {
        double difference = x[i] - t[i];
        distance += fabs(difference);
        along += x[i] * (difference > 0.0 ? 1.0 : difference < 0.0 ? -1.0 : difference);
    }
    distance = row_sum(distance, parts);
    along = row_sum(along, parts) / len;
    for (long long i = first + threadIdx.x; i < end; i += blockDim.x) {
        double difference = x[i] - t[i];
        double sign = difference > 0.0 ? 1.0 : difference < 0.0 ? -1.0 : difference;
        by_mean[i] = x[i] * (sign - along) / (temperature * images);
    }
    if (threadIdx.x == 0) losses[blockIdx.x] = distance / images;
}

// Through the mean sizes of cells and of channels.
extern "C" __global__ void __launch_bounds__(256)
attention_gradient(const float *x, const double *by_cells, const double *by_channels, float *dx, long long cells,
                   long long cells_of_image, int c) {
    long long cell = cell_of_warp();
    if (cell >= cells) return;
    double by_cell = by_cells[cell] / c;
    const double *by_channel = by_channels + cell / cells_of_image * c;
    for (int k = threadIdx.x; k < c; k += 32) {
        float value = x[cell * c + k];
        double slope = by_cell + by_channel[k] / cells_of_image;
        // A NaN has no sign: its gradient is NaN.
        double sign = value > 0.0f ? 1.0 : value < 0.0f ? -1.0 : double(value);
        dx[cell * c + k] = value == 0.0f ? 0.0f : float(slope * sign);
    }
}

// ---- channels as distributions over the cells

// Of each channel, the largest number of a chunk of cells.
extern "C" __global__ void __launch_bounds__(256)
largest_of_channels(const float *x, float *partial, long long cells, int c, long long chunk) {
    __shared__ float highest[8][33];
    Piece piece = piece_of(cells, c, chunk);
    float value = __uint_as_float(0xff800000u);
    if (piece.channel < c)
        for (long long cell = piece.first + threadIdx.y; cell < piece.last; cell += 8) {
            float other = x[cell * c + piece.channel];
            value = other > value ? other : value;
        }
    highest[threadIdx.y][threadIdx.x] = value;
    __syncthreads();
    if (threadIdx.y > 0 || piece.channel >= c) return;
    for (int i = 1; i < 8; i++) value = highest[i][threadIdx.x] > value ? highest[i][threadIdx.x] : value;
    partial[piece.out] = value;
}

extern "C" __global__ void finish_largest(const float *partial, float *out, long long count, int c, int chunks) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    float value = __uint_as_float(0xff800000u);
    for (int k = 0; k < chunks; k++) {
        float other = partial[(i / c * chunks + k) * c + i % c];
        value = other > value ? other : value;
    }
    out[i] = value;
}

// Of each channel, sums over a chunk of cells, `apart` from each other: p = exp((t - top) / T), q of x, p (t's logit - x's).
extern "C" __global__ void __launch_bounds__(256)
divergence_sums(const float *t, const float *x, const float *tops_t, const float *tops_x, double *partial, long long cells, int c,
                long long chunk, long long apart, float inverse) {
    __shared__ double sums[8][33];
    Piece piece = piece_of(cells, c, chunk);
    double total_t = 0.0, total_x = 0.0, cross = 0.0;
    if (piece.channel < c) {
        float top_t = tops_t[(long long)blockIdx.z * c + piece.channel], top_x = tops_x[(long long)blockIdx.z * c + piece.channel];
        for (long long cell = piece.first + threadIdx.y; cell < piece.last; cell += 8) {
            float of_t = t[cell * c + piece.channel], of_x = x[cell * c + piece.channel];
            double p = exp_of_negative((top_t - of_t) * inverse);
            total_t += p;
            total_x += exp_of_negative((top_x - of_x) * inverse);
            cross += p * ((double(of_t) - double(top_t)) - (double(of_x) - double(top_x)));
        }
    }
    total_t = sum_of_warps(total_t, sums);
    total_x = sum_of_warps(total_x, sums);
    cross = sum_of_warps(cross, sums);
    if (threadIdx.y > 0 || piece.channel >= c) return;
    partial[piece.out] = total_t;
    partial[apart + piece.out] = total_x;
    partial[2 * apart + piece.out] = cross;
}

// T² KL of each of `rows` channels, over their number.
extern "C" __global__ void divergence(const double *sums, double *losses, int rows, double temperature) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    double total_t = sums[row], total_x = sums[rows + row], cross = sums[2 * rows + row];
    double kl = cross / temperature / total_t - log(total_t) + log(total_x);
    losses[row] = temperature * temperature * kl / rows;
}

extern "C" __global__ void __launch_bounds__(256)
divergence_gradient(const float *t, const float *x, const float *tops_t, const float *tops_x, const double *sums, float *dx,
                    long long cells, long long cells_of_image, int c, int rows, float inverse, double temperature) {
    long long cell = cell_of_warp();
    if (cell >= cells) return;
    int first = int(cell / cells_of_image) * c;
    for (int k = threadIdx.x; k < c; k += 32) {
        int row = first + k;
        double p = exp_of_negative((tops_t[row] - t[cell * c + k]) * inverse) / sums[row];
        double q = exp_of_negative((tops_x[row] - x[cell * c + k]) * inverse) / sums[rows + row];
        dx[cell * c + k] = float(temperature * (q - p)) * float(1.0 / rows);
    }
}

// ---- context

// A number for each image and channel, added to every cell.
extern "C" __global__ void __launch_bounds__(256)
add_to_channels(const float *x, const float *shifts, float *y, long long cells, long long cells_of_image, int c) {
    long long cell = cell_of_warp();
    if (cell >= cells) return;
    const float *shift = shifts + cell / cells_of_image * c;
    for (int k = threadIdx.x; k < c; k += 32) y[cell * c + k] = x[cell * c + k] + shift[k];
}

// The gradient g (images, c) of Σ share x (images, c): by x, and by the logits of the shares.
extern "C" __global__ void __launch_bounds__(256)
pool_gradient(const float *g, const float *x, const double *shares, const float *seen, float *by_x, float *by_logits,
              long long cells, long long cells_of_image, int c) {
    long long cell = cell_of_warp();
    if (cell >= cells) return;
    long long image = cell / cells_of_image * c;
    double share = shares[cell], product = 0.0;
    for (int k = threadIdx.x; k < c; k += 32) {
        double given = g[image + k];
        product += given * (double(x[cell * c + k]) - double(seen[image + k]));
        by_x[cell * c + k] = float(share * given);
    }
    product = sum_of_warp(product);
    if (threadIdx.x == 0) by_logits[cell] = float(share * product);
}

// ---- gates

// σ(a_0) x + σ(a_1) y, and the gates.
extern "C" __global__ void __launch_bounds__(256)
gated_sum(const float *x, const float *y, const float *logits, float *gates, float *sum, long long cells, int c) {
    long long cell = cell_of_warp();
    if (cell >= cells) return;
    float of_x = float(1.0 / (1.0 + exp(-double(logits[2 * cell])))), of_y = float(1.0 / (1.0 + exp(-double(logits[2 * cell + 1]))));
    for (int k = threadIdx.x; k < c; k += 32) sum[cell * c + k] = of_x * x[cell * c + k] + of_y * y[cell * c + k];
    if (threadIdx.x > 0) return;
    gates[2 * cell] = of_x;
    gates[2 * cell + 1] = of_y;
}

extern "C" __global__ void __launch_bounds__(256)
gated_sum_gradient(const float *g, const float *x, const float *y, const float *gates, float *by_x, float *by_y, float *by_logits,
                   long long cells, int c) {
    long long cell = cell_of_warp();
    if (cell >= cells) return;
    float of_x = gates[2 * cell], of_y = gates[2 * cell + 1];
    double along_x = 0.0, along_y = 0.0;
    for (int k = threadIdx.x; k < c; k += 32) {
        float given = g[cell * c + k];
        along_x += double(given) * double(x[cell * c + k]);
        along_y += double(given) * double(y[cell * c + k]);
        by_x[cell * c + k] = given * of_x;
        by_y[cell * c + k] = given * of_y;
    }
    along_x = sum_of_warp(along_x);
    along_y = sum_of_warp(along_y);
    if (threadIdx.x > 0) return;
    by_logits[2 * cell] = float(along_x * of_x * (1.0 - of_x));
    by_logits[2 * cell + 1] = float(along_y * of_y * (1.0 - of_y));
}

// x (cells, c) times a factor for each cell.
extern "C" __global__ void masked_cells(const float *x, const float *mask, float *y, long long count, int c) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < count) y[i] = x[i] * mask[i / c];
}
