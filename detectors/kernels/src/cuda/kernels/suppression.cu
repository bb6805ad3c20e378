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

// For each chosen anchor its box, clipped to the image, and its score; a score of -1 is no box. A thread a slot, grid
// (slots / 256, segments).
extern "C" __global__ void __launch_bounds__(256)
boxes_of_anchors(const long long *keys, const Level *levels, const float *cells, const float *logits, const float *deltas,
                 float *boxes, float *scores, int most, float least_score, float side, float log_ratio) {
    int slot = blockIdx.x * blockDim.x + threadIdx.x;
    if (slot >= most) return;
    Level level = levels[blockIdx.y];
    long long at = blockIdx.y * (long long)most + slot;
    unsigned place = unsigned(keys[at]);
    float box[4] = {0.0f, 0.0f, 0.0f, 0.0f}, score = -1.0f;
    if (keys[at] != -1) {
        long long row = level.row + place;
        unsigned cell = place / level.per_cell;
        const float *anchor = cells + 4 * (level.first + place % level.per_cell);
        float right = float(cell % level.columns * level.stride_x), down = float(cell / level.columns * level.stride_y);
        float a0 = anchor[0] + right, a1 = anchor[1] + down, a2 = anchor[2] + right, a3 = anchor[3] + down;
        float width = a2 - a0, height = a3 - a1, x = a0 + 0.5f * width, y = a1 + 0.5f * height;
        const float *d = deltas + 4 * row;
        float centre_x = d[0] * width + x, centre_y = d[1] * height + y;
        float half_width = 0.5f * (expf(d[2] > log_ratio ? log_ratio : d[2]) * width);
        float half_height = 0.5f * (expf(d[3] > log_ratio ? log_ratio : d[3]) * height);
        box[0] = clipped(centre_x - half_width, level.width), box[1] = clipped(centre_y - half_height, level.height);
        box[2] = clipped(centre_x + half_width, level.width), box[3] = clipped(centre_y + half_height, level.height);
        float given = 1.0f / (1.0f + expf(-logits[row]));
        // NaN is not large enough, and clipped boxes are finite otherwise.
        bool usable = box[2] - box[0] >= side && box[3] - box[1] >= side && given >= least_score;
        if (usable) score = given;
    }
    for (int i = 0; i < 4; i++) boxes[4 * at + i] = box[i];
    scores[at] = score;
}

__device__ __forceinline__ float positive(float x) { return x > 0.0f ? x : 0.0f; }
__device__ __forceinline__ float larger(float a, float b) { return a > b ? a : b; }
__device__ __forceinline__ float smaller(float a, float b) { return a < b ? a : b; }

// Which later boxes of its segment each box overlaps by more than `most_iou`, 64 to a word. A block (64) for 64 boxes and a
// word of others, grid (words, words, segments).
extern "C" __global__ void __launch_bounds__(64)
overlaps(const float *boxes, const float *scores, long long *out, int most, float most_iou) {
    __shared__ float others[BITS][5];
    int words = gridDim.x, thread = threadIdx.x;
    if (blockIdx.x < blockIdx.y) return;  // earlier ones: never read
    long long segment = blockIdx.z * (long long)most;
    int other = blockIdx.x * BITS + thread, own = blockIdx.y * BITS + thread;
    if (other < most) {
        const float *box = boxes + 4 * (segment + other);
        for (int i = 0; i < 4; i++) others[thread][i] = box[i];
        others[thread][4] = (box[2] - box[0]) * (box[3] - box[1]);
    }
    __syncthreads();
    if (own >= most) return;
    const float *box = boxes + 4 * (segment + own);
    float left = box[0], top = box[1], right = box[2], bottom = box[3], area = (right - left) * (bottom - top);
    Word word = 0;
    for (int j = 0; j < BITS && int(blockIdx.x) * BITS + j < most; j++) {
        if (int(blockIdx.x) * BITS + j <= own) continue;
        const float *b = others[j];
        float shared = positive(smaller(right, b[2]) - larger(left, b[0])) * positive(smaller(bottom, b[3]) - larger(top, b[1]));
        float all = area + b[4] - shared;
        if (all > 0.0f && shared / all > most_iou) word |= Word(1) << j;
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
