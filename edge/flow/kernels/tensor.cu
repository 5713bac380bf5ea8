// What an engine eats: a face cut out of a frame, or a flow drawn as a picture, as grey levels and as its input tensor.
// The same arithmetic as edge/faces/align.py, edge/preprocess.py and flow_image of edge/flow.
//
// Pictures that come out are planes, one a channel, rows without gaps. `into` says what to write to the tensor:
enum { kNothing = 0, kFloat = 1, kHalf = 2 };

namespace {

// IEEE 754 half precision, to nearest even.
__device__ unsigned short half_of(float value) {
    const unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u;
    unsigned magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<unsigned short>(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return static_cast<unsigned short>(sign | 0x7c00u);
    // Below 2^-14 halves are the multiples of 2^-24.
    if (magnitude < 0x38800000u)
        return static_cast<unsigned short>(sign | static_cast<unsigned>(rintf(fabsf(value) * 16777216.f)));
    magnitude += 0xfffu + (magnitude >> 13 & 1u);
    return static_cast<unsigned short>(sign | (magnitude - 0x38000000u) >> 13);
}

__device__ __forceinline__ void store(void *tensor, int into, int at, float value) {
    if (into == kHalf) static_cast<unsigned short *>(tensor)[at] = half_of(value);
    else static_cast<float *>(tensor)[at] = value;
}

__device__ __forceinline__ int thread_of_block() { return threadIdx.y * blockDim.x + threadIdx.x; }

// The block's sum of both numbers, to be read by thread 0. Blocks have a power of two of threads.
__device__ void add_up(unsigned *sums, unsigned *squares, unsigned sum, unsigned square) {
    const int thread = thread_of_block();
    sums[thread] = sum;
    squares[thread] = square;
    for (int width = blockDim.x * blockDim.y / 2; width; width /= 2) {
        __syncthreads();
        if (thread < width) {
            sums[thread] += sums[thread + width];
            squares[thread] += squares[thread + width];
        }
    }
}

// What a whole picture's mean and spread are made of: each block leaves its part, exact in whole numbers.
__device__ void leave_sums(float *pool, unsigned sum, unsigned square, unsigned *partial) {
    unsigned *sums = reinterpret_cast<unsigned *>(pool);
    add_up(sums, sums + blockDim.x * blockDim.y, sum, square);
    if (thread_of_block() == 0) {
        const int block = blockIdx.y * gridDim.x + blockIdx.x;
        partial[2 * block] = sums[0];
        partial[2 * block + 1] = sums[blockDim.x * blockDim.y];
    }
}

__device__ __forceinline__ float level_of(float motion) {
    return fminf(fmaxf(rintf(16.f * motion + 128.f), 0.f), 255.f);
}

}  // namespace

// A motion field as a picture: x, y and magnitude, each 16 * d + 128, rounded, 0 to 255. Either straight into the
// tensor, less a mean and divided by a deviation a channel; or, with kNothing, as levels, and each block's sums of them.
extern "C" __global__ void __launch_bounds__(256)
    draw(const float *motion, int width, int height, int into, float mean0, float mean1, float mean2, float std0,
         float std1, float std2, void *tensor, unsigned char *levels, unsigned *partial) {
    extern __shared__ float pool[];
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    const int pixels = width * height, at = y * width + x;
    const bool inside = x < width && y < height;
    float level[3] = {0.f, 0.f, 0.f};
    if (inside) {
        const float u = motion[at], v = motion[at + pixels];
        level[0] = level_of(u);
        level[1] = level_of(v);
        level[2] = level_of(sqrtf(u * u + v * v));
    }
    if (into != kNothing) {
        if (!inside) return;
        store(tensor, into, at, (level[0] - mean0) / std0);
        store(tensor, into, at + pixels, (level[1] - mean1) / std1);
        store(tensor, into, at + 2 * pixels, (level[2] - mean2) / std2);
        return;
    }
    unsigned sum = 0, square = 0;
    if (inside)
        for (int channel = 0; channel < 3; ++channel) {
            const unsigned value = static_cast<unsigned>(level[channel]);
            levels[at + channel * pixels] = static_cast<unsigned char>(value);
            sum += value;
            square += value * value;
        }
    leave_sums(pool, sum, square, partial);
}

// An aligned face out of a BGR frame. The matrix takes a place on a grid `finer` times finer than the crop's to the
// frame; a pixel is the mean of its finer * finer samples, each of them bilinear and rounded. colour: 0 grey, 1 BGR,
// 2 RGB. The frame's border is repeated outside of it. With `into`, the tensor is written too, normalised as in draw.
extern "C" __global__ void __launch_bounds__(256)
    cut(const unsigned char *frame, int frame_width, int frame_height, float xx, float xy, float x0, float yx, float yy,
        float y0, int finer, int colour, int width, int height, unsigned char *crop, unsigned *partial, int into,
        float mean0, float mean1, float mean2, float std0, float std1, float std2, void *tensor) {
    extern __shared__ float pool[];
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    const int pixels = width * height, at = y * width + x;
    const bool inside = x < width && y < height;
    unsigned sum = 0, square = 0;
    if (inside) {
        int total[3] = {0, 0, 0};
        for (int j = 0; j < finer; ++j)
            for (int i = 0; i < finer; ++i) {
                const float grid_x = static_cast<float>(x * finer + i), grid_y = static_cast<float>(y * finer + j);
                // Clamped to a pixel outside already, so that no place is too far away for an int.
                const float from_x = fminf(fmaxf(xx * grid_x + xy * grid_y + x0, -1.f), static_cast<float>(frame_width));
                const float from_y = fminf(fmaxf(yx * grid_x + yy * grid_y + y0, -1.f), static_cast<float>(frame_height));
                const float left = floorf(from_x), top = floorf(from_y);
                const float right_share = from_x - left, bottom_share = from_y - top;
                const int column = static_cast<int>(left), row = static_cast<int>(top);
                const int columns[2] = {min(max(column, 0), frame_width - 1), min(max(column + 1, 0), frame_width - 1)};
                const unsigned char *above =
                    frame + static_cast<size_t>(min(max(row, 0), frame_height - 1)) * frame_width * 3;
                const unsigned char *below =
                    frame + static_cast<size_t>(min(max(row + 1, 0), frame_height - 1)) * frame_width * 3;
                for (int channel = 0; channel < 3; ++channel) {
                    const float a = above[3 * columns[0] + channel], b = above[3 * columns[1] + channel];
                    const float c = below[3 * columns[0] + channel], d = below[3 * columns[1] + channel];
                    const float upper = a + right_share * (b - a), lower = c + right_share * (d - c);
                    total[channel] += static_cast<int>(rintf(upper + bottom_share * (lower - upper)));
                }
            }
        // OpenCV rounds halves up for four samples, and to even else.
        const float share = 1.f / static_cast<float>(finer * finer);
        for (int channel = 0; channel < 3; ++channel)
            total[channel] = finer == 2 ? (total[channel] + 2) / 4
                                        : static_cast<int>(rintf(static_cast<float>(total[channel]) * share));
        const float means[3] = {mean0, mean1, mean2}, deviations[3] = {std0, std1, std2};
        const int channels = colour ? 3 : 1;
        for (int channel = 0; channel < channels; ++channel) {
            unsigned value;
            // OpenCV's own weights of blue, green and red.
            if (colour == 0) value = (3735 * total[0] + 19235 * total[1] + 9798 * total[2] + (1 << 14)) >> 15;
            else value = total[colour == 1 ? channel : 2 - channel];
            crop[at + channel * pixels] = static_cast<unsigned char>(value);
            if (into != kNothing)
                store(tensor, into, at + channel * pixels,
                      (static_cast<float>(value) - means[channel]) / deviations[channel]);
            sum += value;
            square += value * value;
        }
    }
    leave_sums(pool, sum, square, partial);
}

// Levels to the tensor, less the mean of all of them and divided by their deviation, or min_std if that is larger.
extern "C" __global__ void __launch_bounds__(256)
    normalise(const unsigned char *levels, int count, const unsigned *partial, int blocks, float min_std, int into,
              void *tensor) {
    extern __shared__ float pool[];
    unsigned long long *sums = reinterpret_cast<unsigned long long *>(pool), *squares = sums + blockDim.x;
    unsigned long long sum = 0, square = 0;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) {
        sum += partial[2 * i];
        square += partial[2 * i + 1];
    }
    sums[threadIdx.x] = sum;
    squares[threadIdx.x] = square;
    for (int width = blockDim.x / 2; width; width /= 2) {
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < width) {
            sums[threadIdx.x] += sums[threadIdx.x + width];
            squares[threadIdx.x] += squares[threadIdx.x + width];
        }
    }
    __syncthreads();
    // count * sum(x^2) - sum(x)^2 is exact in 64 bits, and no robot's GPU likes doubles.
    const unsigned long long varied = static_cast<unsigned long long>(count) * squares[0] - sums[0] * sums[0];
    const float centre = static_cast<float>(sums[0]) / static_cast<float>(count);
    const float spread = fmaxf(sqrtf(static_cast<float>(varied)) / static_cast<float>(count), min_std);
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        store(tensor, into, i, (static_cast<float>(levels[i]) - centre) / spread);
}
