// Combined local-global optical flow from coarse to fine: the same arithmetic as edge/flow/cpu.py, function by function.
// edge/flow/plan.py says in which order these run, on which grids, and with how much shared memory.
//
// Pictures and fields are planes of floats, rows without gaps. A field is two planes, x then y; a system is five, a, b,
// c, p and q:  u = a * mean(u) + b * mean(v) + p,  v = b * mean(u) + c * mean(v) + q.

namespace {

constexpr int kTileWidth = 32, kTileHeight = 16;  // what a block of smooth and of linearise is to make
constexpr int kWidestWindow = 2 * 8 + 1;
constexpr int kSide = 48;                // side of the square on which a block of relax works,
constexpr int kRows = 12, kPerThread = 4;  // kRows rows of it at a time

__device__ __forceinline__ int clamped(int at, int size) { return min(max(at, 0), size - 1); }

__device__ __forceinline__ int thread_of_block() { return threadIdx.y * blockDim.x + threadIdx.x; }

__device__ __forceinline__ int threads_of_block() { return blockDim.x * blockDim.y; }

// Weights of a Gaussian window, their sum 1, by the first threads of a block. Radius 0 is no window.
__device__ void make_window(float *weights, int radius, float sigma) {
    const int mine = thread_of_block(), width = 2 * radius + 1;
    if (mine >= width) return;
    if (radius == 0) {
        weights[0] = 1.f;
        return;
    }
    const float spread = -0.5f / (sigma * sigma);
    float sum = 0.f;
    for (int i = -radius; i <= radius; ++i) sum += expf(spread * static_cast<float>(i * i));
    weights[mine] = expf(spread * static_cast<float>((mine - radius) * (mine - radius))) / sum;
}

// Weights of the four pixels around a place, Keys' cubic convolution with a = -0.5.
__device__ __forceinline__ void cubic(float share, float *weights) {
    const float rest = 1.f - share, product = share * rest;
    weights[0] = -0.5f * product * rest;
    weights[1] = (1.5f * share - 2.5f) * share * share + 1.f;
    weights[3] = -0.5f * product * share;
    weights[2] = 1.f - weights[0] - weights[1] - weights[3];
}

// Where a level's motion so far comes from: nowhere, this level's last warp, or the next coarser level.
enum { kNone = 0, kSame = 1, kCoarser = 2 };

// One plane of the motion so far at a pixel. The coarser level's is taken twice as large, and bilinear between its
// pixels, which lie on every second one of this level.
__device__ __forceinline__ float motion_at(const float *plane, int width, int height, int from, int x, int y) {
    if (from == kNone) return 0.f;
    if (from == kSame) return plane[y * width + x];
    const int left = x >> 1, top = y >> 1;
    const int right = min(left + (x & 1), width - 1), bottom = min(top + (y & 1), height - 1);
    const float *above = plane + top * width, *below = plane + bottom * width;
    return 0.5f * ((above[left] + above[right]) + (below[left] + below[right]));
}

}  // namespace

// Grey levels to floats, smoothed. Blocks with z = 0 have the first picture, with z = 1 the second.
extern "C" __global__ void __launch_bounds__(256)
    smooth(const unsigned char *before, const unsigned char *after, int width, int height, int radius, float sigma,
           float *first, float *second) {
    extern __shared__ float pool[];
    const unsigned char *picture = blockIdx.z ? after : before;
    float *out = blockIdx.z ? second : first;
    const int x0 = blockIdx.x * kTileWidth, y0 = blockIdx.y * kTileHeight;
    const int wide = kTileWidth + 2 * radius, high = kTileHeight + 2 * radius;
    float *weights = pool, *tile = weights + kWidestWindow, *middle = tile + wide * high;
    make_window(weights, radius, sigma);
    for (int i = thread_of_block(); i < wide * high; i += threads_of_block())
        tile[i] = picture[clamped(y0 + i / wide - radius, height) * width + clamped(x0 + i % wide - radius, width)];
    __syncthreads();
    for (int i = thread_of_block(); i < kTileWidth * high; i += threads_of_block()) {
        const float *from = tile + i / kTileWidth * wide + i % kTileWidth;
        float sum = 0.f;
        for (int k = 0; k <= 2 * radius; ++k) sum += weights[k] * from[k];
        middle[i] = sum;
    }
    __syncthreads();
    for (int i = thread_of_block(); i < kTileWidth * kTileHeight; i += threads_of_block()) {
        const int x = x0 + i % kTileWidth, y = y0 + i / kTileWidth;
        if (x >= width || y >= height) continue;
        float sum = 0.f;
        for (int k = 0; k <= 2 * radius; ++k) sum += weights[k] * middle[i + k * kTileWidth];
        out[y * width + x] = sum;
    }
}

// Both pictures' next coarser level: every second pixel under the binomial window (1 4 6 4 1)/16.
extern "C" __global__ void __launch_bounds__(256)
    halve(const float *first, const float *second, int width, int height, float *half_first, float *half_second) {
    const float *picture = blockIdx.z ? second : first;
    float *out = blockIdx.z ? half_second : half_first;
    const int half_width = (width + 1) / 2, half_height = (height + 1) / 2;
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= half_width || y >= half_height) return;
    const float weights[5] = {1.f, 4.f, 6.f, 4.f, 1.f};
    int columns[5];
    for (int k = 0; k < 5; ++k) columns[k] = clamped(2 * x + k - 2, width);
    float sum = 0.f;
    for (int j = 0; j < 5; ++j) {
        const float *row = picture + clamped(2 * y + j - 2, height) * width;
        float line = 0.f;
        for (int k = 0; k < 5; ++k) line += weights[k] * row[columns[k]];
        sum += weights[j] * line;
    }
    out[y * half_width + x] = sum * (1.f / 256.f);
}

// The equations about a motion (see _linearise in cpu.py), for a tile: warp the second picture back, take derivatives,
// smooth the motion tensor, invert. Writes the system, and the motion that it starts from.
extern "C" __global__ void __launch_bounds__(256)
    linearise(const float *first, const float *second, int width, int height, const float *motion, int motion_width,
              int motion_height, int from, int radius, float rho, float weight, float *system, float *start) {
    extern __shared__ float pool[];
    const int x0 = blockIdx.x * kTileWidth, y0 = blockIdx.y * kTileHeight;
    const int pixels = width * height, motion_pixels = motion_width * motion_height;
    // Strides are odd, so that threads in a column read from different banks.
    const int wide = kTileWidth + 2 * radius, high = kTileHeight + 2 * radius, stride = wide + 1;
    const int mean_wide = wide + 4, mean_high = high + 4, middle_stride = kTileWidth + 1;
    float *weights = pool;
    float *sx = weights + kWidestWindow, *sy = sx + stride * high, *st = sy + stride * high;
    float *mean = st + stride * high;  // and, when that is done with, the tensor smoothed along rows
    float *middle = mean;
    make_window(weights, radius, rho);

    // The mean of the first picture and the second one warped, two pixels farther than derivatives are wanted.
    for (int i = thread_of_block(); i < mean_wide * mean_high; i += threads_of_block()) {
        const int column = i % mean_wide, row = i / mean_wide;
        const int x = clamped(x0 + column - radius - 2, width), y = clamped(y0 + row - radius - 2, height);
        const float u = motion_at(motion, motion_width, motion_height, from, x, y);
        const float v = motion_at(motion + motion_pixels, motion_width, motion_height, from, x, y);
        const float to_x = x + u, to_y = y + v;
        const float in_x = fminf(fmaxf(to_x, 0.f), width - 1.f), in_y = fminf(fmaxf(to_y, 0.f), height - 1.f);
        const float left = floorf(in_x), top = floorf(in_y);
        float across[4], down[4];
        cubic(in_x - left, across);
        cubic(in_y - top, down);
        int columns[4];
        for (int k = 0; k < 4; ++k) columns[k] = clamped(static_cast<int>(left) + k - 1, width);
        float warped = 0.f;
        for (int j = 0; j < 4; ++j) {
            const float *row = second + clamped(static_cast<int>(top) + j - 1, height) * width;
            float line = 0.f;
            for (int k = 0; k < 4; ++k) line += across[k] * row[columns[k]];
            warped += down[j] * line;
        }
        const float before = first[y * width + x];
        mean[i] = 0.5f * before + 0.5f * warped;
        const int at_x = column - 2, at_y = row - 2;
        if (at_x >= 0 && at_x < wide && at_y >= 0 && at_y < high) {
            // What moved out of the picture has no counterpart. Both sides of a product get a root of its weight.
            const float seen = sqrtf(fmaxf(1.f - (fabsf(to_x - in_x) + fabsf(to_y - in_y)), 0.f));
            sx[at_y * stride + at_x] = seen;
            st[at_y * stride + at_x] = seen * (warped - before);
            const int own_x = at_x - radius, own_y = at_y - radius;
            if (own_x >= 0 && own_x < kTileWidth && own_y >= 0 && own_y < kTileHeight && x0 + own_x < width &&
                y0 + own_y < height) {
                start[y * width + x] = u;
                start[pixels + y * width + x] = v;
            }
        }
    }
    __syncthreads();

    // Derivatives of fourth order. Beyond the picture, those of its border.
    for (int i = thread_of_block(); i < wide * high; i += threads_of_block()) {
        const int column = i % wide, row = i / wide, at = row * stride + column;
        const int x = clamped(x0 + column - radius, width), y = clamped(y0 + row - radius, height);
        // From picture to tile: the mean's own column and row of a pixel of the picture.
        const int to_column = radius + 2 - x0, to_row = radius + 2 - y0;
        const float *line = mean + (y + to_row) * mean_wide + to_column;
        const float *stack = mean + x + to_column;
        const float nearer_x = line[clamped(x + 1, width)] - line[clamped(x - 1, width)];
        const float farther_x = line[clamped(x + 2, width)] - line[clamped(x - 2, width)];
        const float nearer_y = stack[(clamped(y + 1, height) + to_row) * mean_wide] -
                               stack[(clamped(y - 1, height) + to_row) * mean_wide];
        const float farther_y = stack[(clamped(y + 2, height) + to_row) * mean_wide] -
                                stack[(clamped(y - 2, height) + to_row) * mean_wide];
        const float seen = sx[at];
        sx[at] = seen * (8.f / 12.f * nearer_x - 1.f / 12.f * farther_x);
        sy[at] = seen * (8.f / 12.f * nearer_y - 1.f / 12.f * farther_y);
    }
    __syncthreads();

    // The tensor, smoothed along rows; a thread makes four neighbours, and reads what they share once.
    const int plane = middle_stride * high;
    for (int i = thread_of_block(); i < kTileWidth / 4 * high; i += threads_of_block()) {
        const int row = i % high, column = i / high * 4;
        float sums[5][4] = {};
        for (int k = 0; k < 2 * radius + 4; ++k) {
            const int at = row * stride + column + k;
            const float x = sx[at], y = sy[at], t = st[at];
            const float products[5] = {x * x, x * y, y * y, x * t, y * t};
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                const float share = k >= n && k - n <= 2 * radius ? weights[k - n] : 0.f;
#pragma unroll
                for (int m = 0; m < 5; ++m) sums[m][n] += share * products[m];
            }
        }
#pragma unroll
        for (int m = 0; m < 5; ++m)
#pragma unroll
            for (int n = 0; n < 4; ++n) middle[m * plane + row * middle_stride + column + n] = sums[m][n];
    }
    __syncthreads();

    // Along columns, two neighbours a thread; then the equations of a pixel.
    for (int i = thread_of_block(); i < kTileWidth * kTileHeight / 2; i += threads_of_block()) {
        const int column = i % kTileWidth, row = i / kTileWidth * 2;
        float sums[5][2] = {};
        for (int k = 0; k < 2 * radius + 2; ++k) {
            const float share[2] = {k <= 2 * radius ? weights[k] : 0.f, k >= 1 ? weights[k - 1] : 0.f};
#pragma unroll
            for (int m = 0; m < 5; ++m) {
                const float value = middle[m * plane + (row + k) * middle_stride + column];
                sums[m][0] += share[0] * value;
                sums[m][1] += share[1] * value;
            }
        }
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            const int x = x0 + column, y = y0 + row + n;
            if (x >= width || y >= height) continue;
            const float u = motion_at(motion, motion_width, motion_height, from, x, y);
            const float v = motion_at(motion + motion_pixels, motion_width, motion_height, from, x, y);
            const float j12 = sums[1][n], right_x = sums[3][n] + weight * u, right_y = sums[4][n] + weight * v;
            const float j11 = sums[0][n] + weight, j22 = sums[2][n] + weight;
            const float inverse = 1.f / (j11 * j22 - j12 * j12);
            const float a = j22 * inverse, b = -j12 * inverse, c = j11 * inverse;
            float *out = system + y * width + x;
            out[0] = a * weight;
            out[pixels] = b * weight;
            out[2 * pixels] = c * weight;
            out[3 * pixels] = u - (a * right_x + b * right_y);
            out[4 * pixels] = v - (b * right_x + c * right_y);
        }
    }
}

// Some relaxation steps, one a barrier, on a square in shared memory. Of a square of kSide pixels the outermost `halo`
// are other blocks' and go stale by one pixel a step; halo 0 needs a picture that fits into one square.
// now and earlier: the field and the one a step before it; keep: whether the latter is written too, for more steps.
// omega: the weight of the step before the first of these.
extern "C" __global__ void __launch_bounds__(kSide *kRows, 2)
    relax(const float *system, int width, int height, int halo, int begin, int steps, float omega, float squared,
          const float *now, const float *earlier, int keep, float *out_now, float *out_earlier) {
    extern __shared__ float pool[];
    const int pixels = width * height, inner = kSide - 2 * halo;
    const int left = blockIdx.x * inner - halo, top = blockIdx.y * inner - halo;
    const int x = left + threadIdx.x;
    const int here = threadIdx.y * kSide + threadIdx.x;  // and every kRows rows further down
    constexpr int kPlane = kSide * kSide;
    float *current = pool, *other = pool + 2 * kPlane;
    const bool in_columns = x >= 0 && x < width;
    // A neighbour outside of the picture, or of the square, is the pixel itself.
    const int to_left = threadIdx.x > 0 && x > 0 ? -1 : 0;
    const int to_right = threadIdx.x < kSide - 1 && x < width - 1 ? 1 : 0;
    float a[kPerThread], b[kPerThread], c[kPerThread], p[kPerThread], q[kPerThread];
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
        const int y = top + static_cast<int>(threadIdx.y) + i * kRows, at = here + i * kRows * kSide;
        if (!in_columns || y < 0 || y >= height) continue;
        const int from = y * width + x;
        a[i] = system[from];
        b[i] = system[from + pixels];
        c[i] = system[from + 2 * pixels];
        p[i] = system[from + 3 * pixels];
        q[i] = system[from + 4 * pixels];
        current[at] = now[from];
        current[at + kPlane] = now[from + pixels];
        other[at] = earlier[from];
        other[at + kPlane] = earlier[from + pixels];
    }
    for (int step = begin; step < begin + steps; ++step) {
        if (step) omega = 1.f / (1.f - squared * omega * (step == 1 ? 0.5f : 0.25f));
        __syncthreads();
#pragma unroll
        for (int i = 0; i < kPerThread; ++i) {
            const int row = static_cast<int>(threadIdx.y) + i * kRows, y = top + row, at = here + i * kRows * kSide;
            if (!in_columns || y < 0 || y >= height) continue;
            const int up = row > 0 && y > 0 ? -kSide : 0, down = row < kSide - 1 && y < height - 1 ? kSide : 0;
            const float *u = current + at, *v = u + kPlane;
            const float mean_u = 0.25f * ((u[up] + u[down]) + (u[to_left] + u[to_right]));
            const float mean_v = 0.25f * ((v[up] + v[down]) + (v[to_left] + v[to_right]));
            const float next_u = a[i] * mean_u + b[i] * mean_v + p[i];
            const float next_v = b[i] * mean_u + c[i] * mean_v + q[i];
            other[at] = omega * next_u + (1.f - omega) * other[at];
            other[at + kPlane] = omega * next_v + (1.f - omega) * other[at + kPlane];
        }
        float *const swapped = current;
        current = other;
        other = swapped;
    }
    const bool mine_x = in_columns && static_cast<int>(threadIdx.x) >= halo && static_cast<int>(threadIdx.x) < kSide - halo;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
        const int row = static_cast<int>(threadIdx.y) + i * kRows, y = top + row, at = here + i * kRows * kSide;
        if (!mine_x || row < halo || row >= kSide - halo || y >= height) continue;
        const int to = y * width + x;
        out_now[to] = current[at];
        out_now[to + pixels] = current[at + kPlane];
        if (!keep) continue;
        out_earlier[to] = other[at];
        out_earlier[to + pixels] = other[at + kPlane];
    }
}
