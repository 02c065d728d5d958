// A convolution and the norm, the pooling and the ReLU after it as one operation, on processors
// with AMX. An image's convolution is still in the cache when its moments are taken; and backward,
// the gradient never leaves the cache between the norm and the convolution.
//
// x: (images, height, width, inputs) bfloat16, as it lies in memory, with an even width; weight:
// (outputs, taps, taps, inputs) float32; z, the convolution: like x, of the outputs, a multiple of
// 16; y: the same, with halves of height and width where it is pooled, which must then be even.

#if defined(__linux__) && (defined(__AMX_BF16__) || defined(__AMXBF16__)) && \
    defined(__AVX512BF16__) && defined(__AVX512VBMI2__)

#include <optional>
#include <unistd.h>
#include <sys/syscall.h>

#include "conv.h"

// Whether the system lets this process use the tiles, for which it must be asked.
extern "C" int can_convolve() {
    constexpr int PERMISSION = 0x1023, TILES = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, PERMISSION, TILES) == 0;
}

namespace {

constexpr Order ORDER = Order::channels;  // as measured; the other was not, on such a processor

struct Images {
    int64_t count, inputs, outputs, height, width, taps;

    int64_t pixels() const { return height * width; }
    Layout in() const { return {height, width, inputs, taps}; }
    Layout out() const { return {height, width, outputs, taps}; }
    Shape shape() const { return {count, height, width, outputs}; }
};

template <bool POOLED, bool RELU>
void forward(const BFloat16 *x, const float *weight, BFloat16 *z, BFloat16 *y, const Norm &norm,
             const Images &all, int threads) {
    const int64_t channels = all.outputs, in_size = all.pixels() * all.inputs,
                  out_size = all.pixels() * channels;
    const Layout in = all.in();
    const Filter filter(weight, channels, in, false, threads);
    const std::vector<Strip> places = strips(in);
    std::vector<double> moments(2 * PARTS * channels, 0.0);
#pragma omp parallel num_threads(threads)
    {
        const Tiles tiles;
        const Buffer<BFloat16> image(in.size);
#pragma omp for schedule(static)
        for (int64_t part = 0; part < PARTS; part++) {
            const int64_t end = part_start(part + 1, all.count);
            for (int64_t n = part_start(part, all.count); n < end; n++) {
                in.take(x + n * in_size, image.data);
                convolve(image.data, in, filter, places, z + n * out_size);
                add_moments(z + n * out_size, ORDER, all.pixels(), channels,
                            &moments[2 * part * channels]);
            }
        }
    }
    norm.finish(moments.data(), all.count * all.pixels(), channels);
    normalize<BFloat16, POOLED, RELU>(z, y, norm.saved + 2 * channels, norm.saved + 3 * channels,
                                      ORDER, all.shape(), threads);
}

// In eval mode a convolution need not leave the cache.
template <bool POOLED, bool RELU>
void apply(const BFloat16 *x, const float *weight, BFloat16 *y, const float *scale,
           const float *shift, const Images &all, int threads) {
    const int64_t in_size = all.pixels() * all.inputs, out_size = all.pixels() * all.outputs;
    const Layout in = all.in();
    const Filter filter(weight, all.outputs, in, false, threads);
    const std::vector<Strip> places = strips(in);
    const Runs<POOLED> runs({1, all.height, all.width, all.outputs});
#pragma omp parallel num_threads(threads)
    {
        const Tiles tiles;
        const Buffer<BFloat16> image(in.size), z(out_size);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < all.count; n++) {
            in.take(x + n * in_size, image.data);
            convolve(image.data, in, filter, places, z.data);
            BFloat16 *to = y + n * out_size / (POOLED ? 4 : 1);
            for (int64_t run = 0; run < runs.count; run++)
                normalize_run<BFloat16, POOLED, RELU>(z.data, to, scale, shift, ORDER, runs, run);
        }
    }
}

template <bool POOLED, bool RELU>
void backward(const BFloat16 *x, const float *weight, const BFloat16 *z, const BFloat16 *dy,
              BFloat16 *dx, float *dweight, float *dscale, float *dshift, const float *saved,
              const Images &all, int threads) {
    const int64_t channels = all.outputs, in_size = all.pixels() * all.inputs,
                  out_size = all.pixels() * channels;
    const std::vector<double> gradients =
        reduce<BFloat16, POOLED, RELU>(z, dy, saved, ORDER, all.shape(), threads);
    std::copy_n(gradients.begin(), channels, dscale);
    std::copy_n(gradients.begin() + channels, channels, dshift);
    const Spread by(saved, &gradients[0], &gradients[channels], all.count * all.pixels(), channels);
    const Runs<POOLED> runs({1, all.height, all.width, channels});
    const Layout in = all.in(), out = all.out();
    std::optional<Filter> filter;
    if (dx) filter.emplace(weight, all.inputs, out, true, threads);
    const std::vector<Strip> places = strips(out);
    const int64_t at_once = std::min(Correlation::at_once(in), ceil_div(all.count, threads));
    const int64_t groups = ceil_div(all.count, at_once);
    std::vector<std::optional<Correlation>> sums(threads);  // not shared, so their order is fixed
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; thread++) {
        const Tiles tiles;
        const Buffer<BFloat16> dz(out_size), image(in.size), gradient(out.size);
        Correlation &own = sums[thread].emplace(in, channels, at_once);
        const int64_t end = std::min(all.count, groups * (thread + 1) / threads * at_once);
        for (int64_t first = groups * thread / threads * at_once; first < end; first += at_once) {
            const int64_t count = std::min(at_once, end - first);
            for (int64_t i = 0; i < count; i++) {
                const int64_t n = first + i;
                for (int64_t run = 0; run < runs.count; run++)
                    spread_run<BFloat16, POOLED, RELU>(z + n * out_size,
                                                       dy + n * out_size / (POOLED ? 4 : 1),
                                                       dz.data, by, ORDER, runs, run);
                own.take_gradients(i, dz.data);
                if (dx) {
                    out.take(dz.data, gradient.data);
                    convolve(gradient.data, out, *filter, places, dx + n * in_size);
                }
                in.take(x + n * in_size, image.data);
                own.take_inputs(i, image.data);
            }
            own.add(count);
        }
    }
    std::fill_n(dweight, channels * all.taps * all.taps * all.inputs, 0.0f);
    for (const auto &own : sums) own->give(dweight);
}

}  // namespace

#define DISPATCH(FUNCTION, ...)                                 \
    pooled ? relu ? FUNCTION<true, true>(__VA_ARGS__)           \
                  : FUNCTION<true, false>(__VA_ARGS__)          \
           : relu ? FUNCTION<false, true>(__VA_ARGS__)          \
                  : FUNCTION<false, false>(__VA_ARGS__);

// By the mean and variance of z. saved: (4, outputs), for the backward pass.
extern "C" void conv_norm_forward(const void *x, const float *weight, void *z, void *y,
                                  const float *scale, const float *shift, float *running_mean,
                                  float *running_var, float *saved, int64_t images, int64_t inputs,
                                  int64_t outputs, int64_t height, int64_t width, int64_t taps,
                                  int pooled, int relu, int threads, double momentum,
                                  double epsilon) {
    const Images all{images, inputs, outputs, height, width, taps};
    const Norm norm{scale, shift, running_mean, running_var, saved, momentum, epsilon};
    DISPATCH(forward, (const BFloat16 *)x, weight, (BFloat16 *)z, (BFloat16 *)y, norm, all, threads)
}

// dx is null where nobody asks for it; else inputs are a multiple of 16.
extern "C" void conv_norm_backward(const void *x, const float *weight, const void *z,
                                   const void *dy, void *dx, float *dweight, float *dscale,
                                   float *dshift, const float *saved, int64_t images,
                                   int64_t inputs, int64_t outputs, int64_t height, int64_t width,
                                   int64_t taps, int pooled, int relu, int threads) {
    const Images all{images, inputs, outputs, height, width, taps};
    DISPATCH(backward, (const BFloat16 *)x, weight, (const BFloat16 *)z, (const BFloat16 *)dy,
             (BFloat16 *)dx, dweight, dscale, dshift, saved, all, threads)
}

// By a scale and a shift of each channel.
extern "C" void conv_norm_apply(const void *x, const float *weight, void *y, const float *scale,
                                const float *shift, int64_t images, int64_t inputs,
                                int64_t outputs, int64_t height, int64_t width, int64_t taps,
                                int pooled, int relu, int threads) {
    const Images all{images, inputs, outputs, height, width, taps};
    DISPATCH(apply, (const BFloat16 *)x, weight, (BFloat16 *)y, scale, shift, all, threads)
}

#else

extern "C" int can_convolve() { return 0; }

#endif
