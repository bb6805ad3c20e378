// Boxes of the best anchors, and their suppression. The formulas are the host's in its order, and the family is compiled
// without fused multiply-adds, so that thresholds fall the same way.
typedef unsigned long long Word;
const int BITS = 64;

// Anchors of a segment: `first` is its level's place among the anchors of cells; and the size of its image.
struct Level {
    long long row;
    int first, per_cell, columns, stride_y, stride_x;
    float height, width, padding;
};

// As the host's `clamp`: NaN stays NaN.
__device__ __forceinline__ float clipped(float x, float most) { return x < 0.0f ? 0.0f : x > most ? most : x; }

// Limits of what becomes a box: its score, its shorter side, the logarithm of a ratio of sides.
struct Limits {
    float score, side, log_ratio;
};

__device__ __forceinline__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

// The box that dx, dy, dw, dh, each divided by its weight, make of `from`.
__device__ __forceinline__ void by_deltas(const float *from, const float *d, const float *weights, float most_log, float *box) {
    float width = from[2] - from[0], height = from[3] - from[1], x = from[0] + 0.5f * width, y = from[1] + 0.5f * height;
    float centre_x = d[0] / weights[0] * width + x, centre_y = d[1] / weights[1] * height + y;
    float log_w = d[2] / weights[2], log_h = d[3] / weights[3];
    float half_width = 0.5f * (expf(log_w > most_log ? most_log : log_w) * width);
    float half_height = 0.5f * (expf(log_h > most_log ? most_log : log_h) * height);
    box[0] = centre_x - half_width, box[1] = centre_y - half_height;
    box[2] = centre_x + half_width, box[3] = centre_y + half_height;
}

// The box whose sides are so far from the centre of `from`, in sides of it.
__device__ __forceinline__ void by_distances(const float *from, const float *d, float *box) {
    float width = from[2] - from[0], height = from[3] - from[1], x = from[0] + 0.5f * width, y = from[1] + 0.5f * height;
    box[0] = x - d[0] * width, box[1] = y - d[1] * height, box[2] = x + d[2] * width, box[3] = y + d[3] * height;
}

__device__ __forceinline__ void clip(float *box, float height, float width) {
    box[0] = clipped(box[0], width), box[1] = clipped(box[1], height);
    box[2] = clipped(box[2], width), box[3] = clipped(box[3], height);
}

// A side that is NaN is not long enough.
__device__ __forceinline__ bool is_usable(const float *box, float score, Limits limits) {
    bool finite = is_finite(box[0]) && is_finite(box[1]) && is_finite(box[2]) && is_finite(box[3]);
    return finite && box[2] - box[0] >= limits.side && box[3] - box[1] >= limits.side && score >= limits.score;
}

__device__ __forceinline__ void keep(const float *box, float score, long long at, float *boxes, float *scores) {
    for (int i = 0; i < 4; i++) boxes[4 * at + i] = box[i];
    scores[at] = score;
}

// For each chosen value, one of `columns` of its anchor, the anchor's box, clipped to the image if `clips`, its score and its
// column; a score of -1 is no box. A value is a logit and its row are deltas, or it is a score and its row are distances. A
// thread a slot, grid (slots / 256, segments).
extern "C" __global__ void __launch_bounds__(256)
boxes_of_anchors(const long long *keys, const Level *levels, const float *cells, const float *values, const float *rows,
                 float *boxes, float *scores, int *labels, int most, int columns, int are_distances, int clips,
                 const Limits *limits) {
    const float ONES[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    int slot = blockIdx.x * blockDim.x + threadIdx.x;
    if (slot >= most) return;
    Level level = levels[blockIdx.y];
    long long at = blockIdx.y * (long long)most + slot;
    unsigned place = unsigned(keys[at]), index = place / unsigned(columns);
    float box[4] = {0.0f, 0.0f, 0.0f, 0.0f}, score = -1.0f;
    if (keys[at] != -1) {
        long long row = level.row + index;
        unsigned cell = index / level.per_cell;
        const float *of_cell = cells + 4 * (level.first + index % level.per_cell);
        float right = float(cell % level.columns * level.stride_x), down = float(cell / level.columns * level.stride_y);
        float anchor[4] = {of_cell[0] + right, of_cell[1] + down, of_cell[2] + right, of_cell[3] + down};
        float value = values[level.row * columns + place];
        if (are_distances) by_distances(anchor, rows + 4 * row, box);
        else by_deltas(anchor, rows + 4 * row, ONES, limits->log_ratio, box);
        if (clips) clip(box, level.height, level.width);
        float given = are_distances ? value : 1.0f / (1.0f + expf(-value));
        if (is_usable(box, given, *limits)) score = given;
    }
    keep(box, score, at, boxes, scores);
    labels[at] = int(place % unsigned(columns));
}

// A region and the size of its image.
struct Region {
    float box[4], height, width;
};

// The largest logit of each row, and the sum of the exponentials of what the others are less, column by column.
extern "C" __global__ void __launch_bounds__(256)
moments_of_logits(const float *logits, float *moments, int rows, int columns) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    const float *x = logits + row * (long long)columns;
    float highest = __uint_as_float(0xff800000u), sum = 0.0f;
    for (int i = 0; i < columns; i++) highest = x[i] > highest ? x[i] : highest;
    for (int i = 0; i < columns; i++) sum += expf(x[i] - highest);
    moments[2 * row] = highest, moments[2 * row + 1] = sum;
}

// For each region and each class but the background, column 0, the region's box by the class's deltas, clipped, and the
// probability of the class; -1 where it is no detection. A thread a slot.
extern "C" __global__ void __launch_bounds__(256)
boxes_of_regions(const Region *regions, const float *logits, const float *moments, const float *deltas, const float *weights,
                 float *boxes, float *scores, int *labels, long long slots, int classes, const Limits *limits) {
    long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (at >= slots) return;
    long long row = at / classes, column = row * (classes + 1) + at % classes + 1;
    const Region *region = regions + row;
    float box[4], score = expf(logits[column] - moments[2 * row]) / moments[2 * row + 1];
    by_deltas(region->box, deltas + 4 * column, weights, limits->log_ratio, box);
    clip(box, region->height, region->width);
    keep(box, is_usable(box, score, *limits) ? score : -1.0f, at, boxes, scores);
    labels[at] = int(at % classes);
}

__device__ __forceinline__ float positive(float x) { return x > 0.0f ? x : 0.0f; }
__device__ __forceinline__ float larger(float a, float b) { return a > b ? a : b; }
__device__ __forceinline__ float smaller(float a, float b) { return a < b ? a : b; }

__device__ __forceinline__ float area_of(const float *box) { return (box[2] - box[0]) * (box[3] - box[1]); }

// IoU of two boxes; 0 where they cover nothing together.
__device__ __forceinline__ float overlap(const float *a, const float *b) {
    float shared = positive(smaller(a[2], b[2]) - larger(a[0], b[0])) * positive(smaller(a[3], b[3]) - larger(a[1], b[1]));
    float all = area_of(a) + area_of(b) - shared;
    return all > 0.0f ? shared / all : 0.0f;
}

// Which later boxes of its segment each box overlaps by more than `most_iou`, 64 to a word. A block (64) for 64 boxes and a
// word of others, grid (words, words, segments).
extern "C" __global__ void __launch_bounds__(64)
overlaps(const float *boxes, const float *scores, long long *out, int most, float most_iou) {
    __shared__ float others[BITS][4];
    int words = gridDim.x, thread = threadIdx.x;
    if (blockIdx.x < blockIdx.y) return;  // earlier ones: never read
    long long segment = blockIdx.z * (long long)most;
    int other = blockIdx.x * BITS + thread, own = blockIdx.y * BITS + thread;
    if (other < most) {
        const float *box = boxes + 4 * (segment + other);
        for (int i = 0; i < 4; i++) others[thread][i] = box[i];
    }
    __syncthreads();
    if (own >= most) return;
    float box[4];
    for (int i = 0; i < 4; i++) box[i] = boxes[4 * (segment + own) + i];
    Word word = 0;
    for (int j = 0; j < BITS && int(blockIdx.x) * BITS + j < most; j++) {
        if (int(blockIdx.x) * BITS + j <= own) continue;
        if (overlap(box, others[j]) > most_iou) word |= Word(1) << j;
    }
    out[(segment + own) * words + blockIdx.x] = (long long)word;
}

// Gives every suppressed box the score -1: a walk over the boxes of a segment in their order, 64 at a time. A block (64) a
// segment.
extern "C" __global__ void __launch_bounds__(64) suppress(const long long *overlaps, float *scores, int most) {
    __shared__ Word gone[BITS], own[BITS], kept;
    int words = (most + BITS - 1) / BITS, thread = threadIdx.x;
    long long segment = blockIdx.x * (long long)most;
    gone[thread] = 0;
    for (int word = 0; word < words; word++) {
        int box = word * BITS + thread, count = most - word * BITS < BITS ? most - word * BITS : BITS;
        // A box without a score is gone before.
        own[thread] = box < most && scores[segment + box] >= 0.0f ? Word(overlaps[(segment + box) * words + word]) : ~Word(0);
        bool usable = box < most && scores[segment + box] >= 0.0f;
        __syncthreads();
        if (thread == 0) {
            Word so_far = gone[word], stays = 0;
            for (int i = 0; i < count; i++) {
                bool is_usable = own[i] != ~Word(0);
                if (!is_usable || (so_far >> i & 1)) continue;
                stays |= Word(1) << i;
                so_far |= own[i];
            }
            kept = stays;
        }
        __syncthreads();
        if (usable && !(kept >> thread & 1)) scores[segment + box] = -1.0f;
        // This thread's word of what the kept ones suppress.
        if (thread > word && thread < words)
            for (int i = 0; i < count; i++)
                if (kept >> i & 1) gone[thread] |= Word(overlaps[(segment + word * BITS + i) * words + thread]);
        __syncthreads();
    }
}

// The corners and the score of each box that is kept; a score of -1 where none was left. Grid (slots / 256, images).
extern "C" __global__ void kept_boxes(const long long *keys, const float *boxes, const float *scores, float *out,
                                      long long of_image, int limit) {
    int slot = blockIdx.x * blockDim.x + threadIdx.x;
    if (slot >= limit) return;
    long long at = blockIdx.y * (long long)limit + slot, from = blockIdx.y * of_image + unsigned(keys[at]);
    bool none = keys[at] == -1;
    for (int i = 0; i < 4; i++) out[5 * at + i] = none ? 0.0f : boxes[4 * from + i];
    out[5 * at + 4] = none ? -1.0f : scores[from];
}

// Slots [first, first + count) of an image.
struct Span {
    long long first;
    int count, padding;
};

// Keys of the boxes of an image with a score, from `from` on.
struct OfBoxes {
    const float *scores;
    Key from;
    __device__ __forceinline__ Key operator()(int i) const {
        float score = scores[i];
        Key key = Key(descending(score)) << 32 | unsigned(i);
        return score >= 0.0f && key >= from ? key : NO_KEY;
    }
};

// The detections of each image: a walk over its boxes by descending score, equal ones by lower slot, in which a box meets the
// kept ones of its label, up to `limit` of them. Each is its corners, its score and the bits of its label; a score of -1 where
// none was left. A block (1024) an image; `order` has MOST keys for each.
extern "C" __global__ void __launch_bounds__(1024)
detections(const Span *images, const float *boxes, const float *scores, const int *labels, long long *order, float *out,
           int limit, float most_iou) {
    __shared__ int suppressed;  // number of the last box of the walk that a kept one suppressed
    Span image = images[blockIdx.x];
    int thread = threadIdx.x, threads = blockDim.x, kept = 0, number = 0;
    order += blockIdx.x * (long long)MOST, out += blockIdx.x * 6ll * limit;
    if (thread == 0) suppressed = -1;
    Key from = 0;
    for (bool is_left = kept < limit; is_left;) {
        OfBoxes of = {scores + image.first, from};
        select(of, image.count, MOST, order);
        __syncthreads();
        for (int i = 0; i < MOST && is_left; i++, number++) {
            Key key = Key(order[i]);
            is_left = key != NO_KEY;
            if (!is_left) break;
            from = key + 1;
            long long slot = image.first + unsigned(key);
            float box[4];
            for (int j = 0; j < 4; j++) box[j] = boxes[4 * slot + j];
            unsigned label = unsigned(labels[slot]);
            for (int j = thread; j < kept; j += threads)
                if (__float_as_uint(out[6 * j + 5]) == label && overlap(out + 6 * j, box) > most_iou) suppressed = number;
            __syncthreads();
            if (suppressed != number) {
                if (thread == 0) {
                    for (int j = 0; j < 4; j++) out[6 * kept + j] = box[j];
                    out[6 * kept + 4] = scores[slot], out[6 * kept + 5] = __uint_as_float(label);
                }
                kept++;
            }
            is_left = kept < limit;
            __syncthreads();
        }
    }
    for (int i = 6 * kept + thread; i < 6 * limit; i += threads) out[i] = -1.0f;
}
