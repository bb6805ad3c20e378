// log softmax(x / T)_i = (x_i - top) / T - log_total, over all columns but one (-1: over all).
struct Soft { double top, log_total; };

__device__ __forceinline__ Soft softened(const float *x, int k, int but, double temperature, double *parts) {
    float top = __uint_as_float(0xff800000u);
    for (int i = threadIdx.x; i < k; i += blockDim.x) top = i != but && x[i] > top ? x[i] : top;
    double from = row_largest(top, parts), total = 0.0;
    for (int i = threadIdx.x; i < k; i += blockDim.x)
        if (i != but) total += exp((double(x[i]) - from) / temperature);
    return {from, log(row_sum(total, parts))};
}

