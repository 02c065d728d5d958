// BatchNorm, 2x2 max pooling and ReLU of images in the layout channels_last, each direction in two
// passes over memory instead of one an operation. Values are float32 or bfloat16, sums and
// everything in between float32 or float64.
//
// Rows are shared out among threads in parts that depend on nothing but the shape, so sums come out
// the same with any number of threads.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <algorithm>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

// The values of a register, so that compilers need not take vectors apart (GCC compares longer ones
// value by value). Channels come in multiples of 16.
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int64_t PARTS = 64;    // shared out among the threads, and summed in order
constexpr int64_t TILE = 8192;   // values that a pass looks at before it goes on: half the L1 cache

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

struct BFloat16 { uint16_t bits; };
struct Shape { int64_t images, height, width, channels; };

// Zeros at first, from the start of a cache line: a tile of AMX whose rows cross lines takes six
// times as long to load.
template <typename T> class Buffer {
    std::vector<char> bytes;

public:
    T *const data;
    explicit Buffer(int64_t count)
        : bytes(count * sizeof(T) + 64, 0), data((T *)(((uintptr_t)bytes.data() + 63) & ~63)) {}
    Buffer(const Buffer &) = delete;
};

#define INLINE inline __attribute__((always_inline))
#define INLINE_CALL __attribute__((always_inline))  // of a lambda

INLINE Floats load(const float *from) {
    Floats values;
    std::memcpy(&values, from, sizeof values);
    return values;
}

INLINE Floats load(const BFloat16 *from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    return (Floats)(__builtin_convertvector(halves, Bits) << 16);
}

INLINE void store(float *to, Floats values) { std::memcpy(to, &values, sizeof values); }

INLINE void store(BFloat16 *to, Floats values) {  // to the nearest, ties to even
#ifdef __AVX512BF16__
    const Halves halves = (Halves)_mm512_cvtneps_pbh((__m512)values);
#else
    Bits bits = (Bits)values;
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Bits is_nan = (Bits)(values != values);
    bits = (bits & ~is_nan) | (is_nan & 0x7fc0);
    const Halves halves = __builtin_convertvector(bits, Halves);
#endif
    std::memcpy(to, &halves, sizeof halves);
}

INLINE int64_t part_start(int64_t part, int64_t total) { return total * part / PARTS; }

// In which order a pass takes the values of some pixels. By channels, what is known of a channel
// stays in registers; by pixels, memory is met in the order that processors foresee.
enum class Order { channels, pixels };

// For what isn't in the cache. Pixels of a few cache lines are foreseen in either order.
INLINE Order from_memory(int64_t channels) {
    return channels >= 64 ? Order::pixels : Order::channels;
}

// Calls `each` for all pixels and channels, with what `begin` gives for a channel; `keep` stores it.
template <typename Begin, typename Each, typename Keep>
INLINE void walk(Order order, int64_t pixels, int64_t channels, const Begin &begin,
                 const Each &each, const Keep &keep) {
    if (order == Order::channels) {
        for (int64_t c = 0; c < channels; c += LANES) {
            auto own = begin(c);
            for (int64_t p = 0; p < pixels; p++) each(own, p, c);
            keep(own, c);
        }
    } else {
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t c = 0; c < channels; c += LANES) {
                auto own = begin(c);
                each(own, p, c);
                keep(own, c);
            }
    }
}

// Adds the sums of some pixels, and of their squares, to (2, channels).
template <typename T>
void add_moments(const T *x, Order order, int64_t pixels, int64_t channels, double *sums) {
    struct Own { Floats first, sums[2], squares[2]; };
    const int64_t tile = std::max<int64_t>(4, TILE / channels);
    std::vector<float> few(2 * channels);
    for (int64_t from = 0; from < pixels; from += tile) {
        const int64_t count = std::min(tile, pixels - from);
        const T *in = x + from * channels;
        std::fill(few.begin(), few.end(), 0.0f);
        // about the tile's first value: squares of small numbers keep their digits
        const auto begin = [&](int64_t c) INLINE_CALL {
            return Own{load(in + c), {load(&few[c])}, {load(&few[channels + c])}};
        };
        const auto add = [&](Own &own, int i, int64_t p, int64_t c) INLINE_CALL {
            const Floats d = load(in + p * channels + c) - own.first;
            own.sums[i] += d;
            own.squares[i] += d * d;
        };
        const auto keep = [&](const Own &own, int64_t c) INLINE_CALL {
            store(&few[c], own.sums[0] + own.sums[1]);
            store(&few[channels + c], own.squares[0] + own.squares[1]);
        };
        const auto two = [&](Own &own, int64_t p, int64_t c) INLINE_CALL {
            add(own, 0, 2 * p, c);  // sums that don't wait for each other
            add(own, 1, 2 * p + 1, c);
        };
        const auto last = [&](Own &own, int64_t, int64_t c) INLINE_CALL {
            add(own, 0, count - 1, c);
        };
        walk(order, count / 2, channels, begin, two, keep);
        walk(order, count % 2, channels, begin, last, keep);
        const double n = double(count);
        for (int64_t c = 0; c < channels; c += LANES) {
            const Floats first = load(in + c);
            for (int i = 0; i < LANES; i++) {
                const double shifted = few[c + i], total = shifted + n * first[i];
                sums[c + i] += total;
                sums[channels + c + i] +=
                    few[channels + c + i] + (total * total - shifted * shifted) / n;
            }
        }
    }
}

// What a norm learns and keeps, and what it saves for the backward pass: (4, channels) of mean,
// 1 / deviation, and the scale and shift that normalize.
struct Norm {
    const float *weight, *bias;
    float *running_mean, *running_var, *saved;
    double momentum, epsilon;

    // From the moments, (PARTS, 2, channels), of all pixels.
    void finish(const double *moments, int64_t pixels, int64_t channels) const {
        for (int64_t c = 0; c < channels; c++) {
            double sum = 0, squares = 0;
            for (int64_t part = 0; part < PARTS; part++) {
                sum += moments[2 * part * channels + c];
                squares += moments[(2 * part + 1) * channels + c];
            }
            const double mean = sum / pixels;
            double variance = squares / pixels - mean * mean;
            if (variance < 0) variance = 0;  // what isn't a number stays so
            const double invstd = 1 / std::sqrt(variance + epsilon);
            saved[c] = mean;
            saved[channels + c] = invstd;
            saved[2 * channels + c] = weight[c] * invstd;
            saved[3 * channels + c] = bias[c] - mean * weight[c] * invstd;
            running_mean[c] += momentum * (mean - running_mean[c]);
            const double unbiased = variance * pixels / (pixels - 1);
            running_var[c] += momentum * (unbiased - running_var[c]);
        }
    }
};

// What goes out is a run of pixels after another: a row of pooled pixels, or a tile of plain ones.
template <bool POOLED> struct Runs {
    int64_t width, channels, length, count, pixels;

    explicit Runs(const Shape &shape) : width(shape.width), channels(shape.channels) {
        pixels = shape.images * shape.height * width / (POOLED ? 4 : 1);
        length = POOLED ? width / 2 : std::max<int64_t>(4, TILE / channels);
        count = (pixels + length - 1) / length;
    }
    int64_t in(int64_t run) const { return (POOLED ? 2 * run * width : run * length) * channels; }
    int64_t out(int64_t run) const { return run * length * channels; }
    int64_t size(int64_t run) const { return std::min(length, pixels - run * length); }
    int64_t step() const { return (POOLED ? 2 : 1) * channels; }
};

// The pixels of a window, normalized, and which of them is the largest (the first of equals).
template <bool POOLED, typename T> struct Window {
    static constexpr int SIZE = POOLED ? 4 : 1;
    Floats x[SIZE], best, x_of_best;
    Ints is_best[SIZE];

    INLINE Window(const T *at, const Runs<POOLED> &runs, Floats scale, Floats shift) {
        const int64_t right = runs.channels, below = runs.width * runs.channels;
        const int64_t offsets[4] = {0, right, below, below + right};
        x[0] = x_of_best = load(at);
        best = x[0] * scale + shift;
        is_best[0] = ~Ints{};
        for (int i = 1; i < SIZE; i++) {
            x[i] = load(at + offsets[i]);
            const Floats z = x[i] * scale + shift;
            is_best[i] = (z > best) | (z != z);  // what isn't a number is seen, as torch has it
            best = is_best[i] ? z : best;
            x_of_best = is_best[i] ? x[i] : x_of_best;
            for (int j = 0; j < i; j++) is_best[j] &= ~is_best[i];
        }
    }
};

template <typename T, bool POOLED, bool RELU>
INLINE void normalize_run(const T *x, T *y, const float *scale, const float *shift, Order order,
                          const Runs<POOLED> &runs, int64_t run) {
    struct Own { Floats scale, shift; };
    const T *in = x + runs.in(run);
    T *out = y + runs.out(run);
    const auto begin = [&](int64_t c) INLINE_CALL {
        return Own{load(scale + c), load(shift + c)};
    };
    const auto each = [&](const Own &own, int64_t p, int64_t c) INLINE_CALL {
        Window<POOLED, T> window(in + p * runs.step() + c, runs, own.scale, own.shift);
        Floats z = window.best;
        if (RELU) z = z < 0 ? Floats{} : z;  // what isn't a number stays so
        store(out + p * runs.channels + c, z);
    };
    const auto keep = [](const Own &, int64_t) INLINE_CALL {};
    walk(order, runs.size(run), runs.channels, begin, each, keep);
}

template <typename T, bool POOLED, bool RELU>
void normalize(const T *x, T *y, const float *scale, const float *shift, Order order,
               const Shape &shape, int threads) {
    const Runs<POOLED> runs(shape);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t run = 0; run < runs.count; run++)
        normalize_run<T, POOLED, RELU>(x, y, scale, shift, order, runs, run);
}

// What the backward pass has for each channel: dx = scale * dz + x * factor + offset, where dz is 0
// for pixels without a say; that is scale * (dz - mean(dz) - xhat * mean(dz * xhat)).
struct Spread {
    const float *scale, *shift;
    std::vector<float> factor, offset;

    // From the gradients of weight and bias.
    Spread(const float *saved, const double *dweight, const double *dbias, int64_t pixels,
           int64_t channels)
        : scale(saved + 2 * channels), shift(saved + 3 * channels), factor(channels),
          offset(channels) {
        for (int64_t c = 0; c < channels; c++) {
            const double mean = saved[c], invstd = saved[channels + c];
            const double share = scale[c] / double(pixels);
            factor[c] = -share * dweight[c] * invstd;
            offset[c] = share * (dweight[c] * mean * invstd - dbias[c]);
        }
    }
};

template <typename T, bool POOLED, bool RELU>
INLINE void spread_run(const T *x, const T *dy, T *dx, const Spread &by, Order order,
                       const Runs<POOLED> &runs, int64_t run) {
    struct Own { Floats scale, shift, factor, offset; };
    const int64_t channels = runs.channels;
    const int64_t offsets[4] = {0, channels, runs.width * channels, (runs.width + 1) * channels};
    const T *in = x + runs.in(run), *out = dy + runs.out(run);
    T *to = dx + runs.in(run);
    const auto begin = [&](int64_t c) INLINE_CALL {
        return Own{load(by.scale + c), load(by.shift + c), load(&by.factor[c]), load(&by.offset[c])};
    };
    const auto each = [&](const Own &own, int64_t p, int64_t c) INLINE_CALL {
        const int64_t at = p * runs.step() + c;
        Window<POOLED, T> window(in + at, runs, own.scale, own.shift);
        Floats g = own.scale * load(out + p * channels + c);
        if (RELU) g = window.best <= 0 ? Floats{} : g;
        for (int i = 0; i < window.SIZE; i++) {
            Floats d = window.x[i] * own.factor + own.offset;
            d += POOLED ? (window.is_best[i] ? g : Floats{}) : g;
            store(to + at + offsets[i], d);
        }
    };
    const auto keep = [](const Own &, int64_t) INLINE_CALL {};
    walk(order, runs.size(run), channels, begin, each, keep);
}

// The gradients of weight and bias, (2, channels): sums of g * (x - mean) / deviation and of g.
template <typename T, bool POOLED, bool RELU>
std::vector<double> reduce(const T *x, const T *dy, const float *saved, Order order,
                           const Shape &shape, int threads) {
    struct Own { Floats scale, shift, mean, dbias, dweight; };
    const int64_t channels = shape.channels;
    const Runs<POOLED> runs(shape);
    const float *means = saved, *scale = saved + 2 * channels, *shift = saved + 3 * channels;
    std::vector<double> sums(2 * PARTS * channels, 0.0);
    const int64_t tile = std::max<int64_t>(1, TILE / channels / runs.length);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < PARTS; part++) {
        double *total = &sums[2 * part * channels];
        std::vector<float> few(2 * channels);
        const int64_t end = part_start(part + 1, runs.count);
        for (int64_t from = part_start(part, runs.count); from < end; from += tile) {
            std::fill(few.begin(), few.end(), 0.0f);
            for (int64_t run = from; run < std::min(end, from + tile); run++) {
                const T *in = x + runs.in(run), *out = dy + runs.out(run);
                const auto begin = [&](int64_t c) INLINE_CALL {
                    return Own{load(scale + c), load(shift + c), load(means + c), load(&few[c]),
                               load(&few[channels + c])};
                };
                const auto each = [&](Own &own, int64_t p, int64_t c) INLINE_CALL {
                    Window<POOLED, T> window(in + p * runs.step() + c, runs, own.scale, own.shift);
                    Floats g = load(out + p * channels + c);
                    if (RELU) g = window.best <= 0 ? Floats{} : g;
                    own.dbias += g;
                    own.dweight += g * (window.x_of_best - own.mean);
                };
                const auto keep = [&](const Own &own, int64_t c) INLINE_CALL {
                    store(&few[c], own.dbias);
                    store(&few[channels + c], own.dweight);
                };
                walk(order, runs.size(run), channels, begin, each, keep);
            }
            for (int64_t c = 0; c < 2 * channels; c++) total[c] += few[c];
        }
    }
    std::vector<double> gradients(2 * channels);
    for (int64_t c = 0; c < channels; c++) {
        double &dweight = gradients[c], &dbias = gradients[channels + c];
        for (int64_t part = 0; part < PARTS; part++) {
            dbias += sums[2 * part * channels + c];
            dweight += sums[(2 * part + 1) * channels + c];
        }
        dweight *= saved[channels + c];
    }
    return gradients;
}

}  // namespace
