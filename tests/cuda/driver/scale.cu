// Kernels for the tests of the device itself.

// y[i] = a * x[i] + b[0], b in shared memory.
extern "C" __global__ void scale(const float *x, float *y, int count, float a, const float *b) {
    extern __shared__ float pool[];
    if (threadIdx.x == 0) pool[0] = b[0];
    __syncthreads();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = a * x[i] + pool[0];
}

// Writes one element too far.
extern "C" __global__ void overrun(float *y, int count) {
    if (threadIdx.x == 0) y[count] = 1.0f;
}
