// The passes of norm.h over whole batches. x: (images, height, width, channels), as it lies in
// memory; y: the same, with halves of height and width where it is pooled, which must then be even.

#include "norm.h"

namespace {

template <typename T, bool POOLED, bool RELU>
void apply(const void *x, void *y, const float *scale, const float *shift, const Shape &shape,
           int threads) {
    normalize<T, POOLED, RELU>((const T *)x, (T *)y, scale, shift, from_memory(shape.channels),
                               shape, threads);
}

template <typename T, bool POOLED, bool RELU>
void forward(const void *x, void *y, const Norm &norm, const Shape &shape, int threads) {
    const int64_t channels = shape.channels, pixels = shape.images * shape.height * shape.width;
    std::vector<double> moments(2 * PARTS * channels, 0.0);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < PARTS; part++) {
        const int64_t from = part_start(part, pixels), to = part_start(part + 1, pixels);
        add_moments((const T *)x + from * channels, from_memory(channels), to - from, channels,
                    &moments[2 * part * channels]);
    }
    norm.finish(moments.data(), pixels, channels);
    apply<T, POOLED, RELU>(x, y, norm.saved + 2 * channels, norm.saved + 3 * channels, shape,
                           threads);
}

template <typename T, bool POOLED, bool RELU>
void backward(const void *x, const void *dy, void *dx, float *dweight, float *dbias,
              const float *saved, const Shape &shape, int threads) {
    const int64_t channels = shape.channels, pixels = shape.images * shape.height * shape.width;
    const Order order = from_memory(channels);
    const std::vector<double> gradients =
        reduce<T, POOLED, RELU>((const T *)x, (const T *)dy, saved, order, shape, threads);
    std::copy_n(gradients.begin(), channels, dweight);
    std::copy_n(gradients.begin() + channels, channels, dbias);
    const Spread by(saved, &gradients[0], &gradients[channels], pixels, channels);
    const Runs<POOLED> runs(shape);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t run = 0; run < runs.count; run++)
        spread_run<T, POOLED, RELU>((const T *)x, (const T *)dy, (T *)dx, by, order, runs, run);
}

}  // namespace

#define DISPATCH(FUNCTION, ...)                                            \
    if (is_bfloat16)                                                       \
        pooled ? relu ? FUNCTION<BFloat16, true, true>(__VA_ARGS__)        \
                      : FUNCTION<BFloat16, true, false>(__VA_ARGS__)       \
               : relu ? FUNCTION<BFloat16, false, true>(__VA_ARGS__)       \
                      : FUNCTION<BFloat16, false, false>(__VA_ARGS__);     \
    else                                                                   \
        pooled ? relu ? FUNCTION<float, true, true>(__VA_ARGS__)           \
                      : FUNCTION<float, true, false>(__VA_ARGS__)          \
               : relu ? FUNCTION<float, false, true>(__VA_ARGS__)          \
                      : FUNCTION<float, false, false>(__VA_ARGS__);

// By the mean and variance of x. saved: (4, channels), for the backward pass.
extern "C" void norm_forward(const void *x, void *y, const float *weight, const float *bias,
                             float *running_mean, float *running_var, float *saved,
                             int64_t images, int64_t channels, int64_t height, int64_t width,
                             int is_bfloat16, int pooled, int relu, int threads, double momentum,
                             double epsilon) {
    const Shape shape{images, height, width, channels};
    const Norm norm{weight, bias, running_mean, running_var, saved, momentum, epsilon};
    DISPATCH(forward, x, y, norm, shape, threads)
}

extern "C" void norm_backward(const void *x, const void *dy, void *dx, float *dweight,
                              float *dbias, const float *saved, int64_t images, int64_t channels,
                              int64_t height, int64_t width, int is_bfloat16, int pooled,
                              int relu, int threads) {
    const Shape shape{images, height, width, channels};
    DISPATCH(backward, x, dy, dx, dweight, dbias, saved, shape, threads)
}

// By a scale and a shift of each channel.
extern "C" void norm_apply(const void *x, void *y, const float *scale, const float *shift,
                           int64_t images, int64_t channels, int64_t height, int64_t width,
                           int is_bfloat16, int pooled, int relu, int threads) {
    const Shape shape{images, height, width, channels};
    DISPATCH(apply, x, y, scale, shift, shape, threads)
}
