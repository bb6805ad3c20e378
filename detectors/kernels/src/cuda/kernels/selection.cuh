// The highest numbers of segments: by descending value, equal ones by lower place, never NaN, as on the host to the bit. A
// number and its place are one key of 64 bits, so keys differ. A block finds the last key that is chosen by its digits, and
// sorts what it leaves in shared memory. Long segments are selected chunk by chunk first, and then from what the chunks left.
typedef unsigned long long Key;
const int MOST = 2048;
const Key NO_KEY = ~Key(0);

// Ascends as `value` descends; 0 and -0 give the same.
__device__ __forceinline__ unsigned descending(float value) {
    unsigned bits = __float_as_uint(value + 0.0f);
    return bits >> 31 ? bits : ~(bits | 0x80000000u);
}

// Writes the `most` lowest keys of `count` to `out`, in order; NO_KEY where there are fewer.
template <class Keys> __device__ void select(Keys key_of, int count, int most, long long *out) {
    __shared__ int histogram[256];
    __shared__ Key kept[MOST];
    __shared__ Key prefix;
    __shared__ int wanted, filled, decided;
    int thread = threadIdx.x, threads = blockDim.x;
    if (thread == 0) prefix = 0, wanted = most, filled = 0, decided = 0;
    int shift = 64;
    while (shift > 0) {
        shift -= 8;
        for (int i = thread; i < 256; i += threads) histogram[i] = 0;
        __syncthreads();
        Key so_far = prefix;
        for (int i = thread; i < count; i += threads) {
            Key key = key_of(i);
            if (key == NO_KEY) continue;
            if (shift == 56 || key >> (shift + 8) == so_far) atomicAdd(&histogram[int(key >> shift & 255)], 1);
        }
        __syncthreads();
        if (thread == 0) {
            int digit = 0;
            while (digit < 255 && histogram[digit] < wanted) wanted -= histogram[digit++];
            prefix = so_far << 8 | Key(digit);
            decided = histogram[digit] <= wanted;  // all that begin so are chosen
        }
        __syncthreads();
        if (decided) break;
    }
    Key last = prefix;
    for (int i = thread; i < MOST; i += threads) kept[i] = NO_KEY;
    __syncthreads();
    for (int i = thread; i < count; i += threads) {
        Key key = key_of(i);
        if (key != NO_KEY && key >> shift <= last) kept[atomicAdd(&filled, 1)] = key;
    }
    __syncthreads();
    int size = 1;
    while (size < filled) size *= 2;
    for (int width = 2; width <= size; width *= 2)
        for (int step = width / 2; step > 0; step /= 2) {
            for (int i = thread; i < size; i += threads) {
                int other = i ^ step;
                if (other <= i) continue;
                Key a = kept[i], b = kept[other];
                if ((a > b) == ((i & width) == 0)) kept[i] = b, kept[other] = a;
            }
            __syncthreads();
        }
    for (int i = thread; i < most; i += threads) out[i] = (long long)kept[i];
}

