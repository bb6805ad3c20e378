// Updates of many parameters in one launch, in place, in the order of their memory: a block (256) takes a piece of one.
const int PIECE = 16384;

struct Piece {
    long long start;
    long long entry;
};

struct Sgd {
    float *param, *velocity;
    const float *gradient;
    long long count;
    float lr, momentum, decay, scale;
    long long nesterov;
};

extern "C" __global__ void sgd(const Sgd *updates, const Piece *pieces) {
    Piece piece = pieces[blockIdx.x];
    Sgd u = updates[piece.entry];
    long long last = min(u.count, piece.start + PIECE);
    for (long long i = piece.start + threadIdx.x; i < last; i += blockDim.x) {
        float g = u.gradient[i] * u.scale + u.decay * u.param[i];
        float v = u.momentum * u.velocity[i] + g;
        u.velocity[i] = v;
        u.param[i] -= u.lr * (u.nesterov ? g + u.momentum * v : v);
    }
}

struct AdamW {
    float *param, *first, *second;
    const float *gradient;
    long long count;
    float scale, kept, share, second_kept, second_share, rate, root, eps;
};

extern "C" __global__ void adamw(const AdamW *updates, const Piece *pieces) {
    Piece piece = pieces[blockIdx.x];
    AdamW u = updates[piece.entry];
    long long last = min(u.count, piece.start + PIECE);
    for (long long i = piece.start + threadIdx.x; i < last; i += blockDim.x) {
        float g = u.gradient[i] * u.scale;
        float m = u.first[i] + u.share * (g - u.first[i]);
        float v = u.second_kept * u.second[i] + u.second_share * g * g;
        u.first[i] = m;
        u.second[i] = v;
        u.param[i] = u.kept * u.param[i] - u.rate * (m / (sqrtf(v) / u.root + u.eps));
    }
}

struct Ema {
    float *average;
    const float *weights;
    long long count;
    double decay;
};

extern "C" __global__ void ema(const Ema *updates, const Piece *pieces) {
    Piece piece = pieces[blockIdx.x];
    Ema u = updates[piece.entry];
    long long last = min(u.count, piece.start + PIECE);
    for (long long i = piece.start + threadIdx.x; i < last; i += blockDim.x)
        u.average[i] = float(u.decay * u.average[i] + (1.0 - u.decay) * u.weights[i]);
}

struct Numbers {
    const float *first;
    long long count;
};

// Σ x² of each piece.
extern "C" __global__ void __launch_bounds__(256) squares(const Numbers *tensors, const Piece *pieces, double *sums) {
    __shared__ double parts[32];
    Piece piece = pieces[blockIdx.x];
    Numbers x = tensors[piece.entry];
    long long last = min(x.count, piece.start + PIECE);
    double sum = 0.0;
    for (long long i = piece.start + threadIdx.x; i < last; i += 256) sum += double(x.first[i]) * x.first[i];
    sum = row_sum(sum, parts);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// The sum of `count` numbers.
extern "C" __global__ void __launch_bounds__(256) add_up(const double *sums, double *total, int count) {
    __shared__ double parts[32];
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += 256) sum += sums[i];
    sum = row_sum(sum, parts);
    if (threadIdx.x == 0) total[0] = sum;
}
