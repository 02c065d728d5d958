// What is around the products of a convolution by 3x3 in Winograd's way, F(2x2, 3x3) of
// https://arxiv.org/abs/1509.09308: tiles of 4x4 pixels, two apart, give 2x2 outputs each by 16
// products of channels in place of 36. Images are float32, (images, height, width, channels), with
// zeros around them; what is transformed is (16, room, channels), of which the first rows are the
// tiles, those of an image row by row. Channels are a multiple of 16.

#include "norm.h"

namespace {

struct Tiled {
    Shape shape;
    int64_t room;
    int64_t rows = (shape.height + 1) / 2, columns = (shape.width + 1) / 2;

    bool has(int64_t y, int64_t x) const {
        return y >= 0 && y < shape.height && x >= 0 && x < shape.width;
    }
    int64_t pixel(int64_t n, int64_t y, int64_t x) const {
        return ((n * shape.height + y) * shape.width + x) * shape.channels;
    }
    int64_t term(int64_t which, int64_t tile) const {
        return (which * room + tile) * shape.channels;
    }
};

// What begins at this pixel, SIZE to a side; outside the image are zeros.
template <int SIZE>
INLINE void take(const float *image, const Tiled &all, int64_t n, int64_t y, int64_t x, int64_t c,
                 Floats (&pixels)[SIZE][SIZE]) {
    for (int r = 0; r < SIZE; r++)
        for (int s = 0; s < SIZE; s++)
            pixels[r][s] = all.has(y + r, x + s) ? load(image + all.pixel(n, y + r, x + s) + c)
                                                 : Floats{};
}

// transform(n, row, column, tile, c) for every tile and every LANES channels.
template <typename Transform>
INLINE void for_tiles(const Tiled &all, int threads, const Transform &transform) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t line = 0; line < all.shape.images * all.rows; line++)
        for (int64_t column = 0; column < all.columns; column++)
            for (int64_t c = 0; c < all.shape.channels; c += LANES)
                transform(line / all.rows, line % all.rows, column, line * all.columns + column, c);
}

// Of a column, or a row, of a tile of inputs.
INLINE void of_inputs(Floats a, Floats b, Floats c, Floats d, Floats *out) {
    out[0] = a - c, out[1] = b + c, out[2] = c - b, out[3] = b - d;
}

}  // namespace

extern "C" void winograd_inputs(const float *x, float *terms, int64_t images, int64_t height,
                                int64_t width, int64_t channels, int64_t room, int threads) {
    const Tiled all{{images, height, width, channels}, room};
    for_tiles(all, threads, [&](int64_t n, int64_t row, int64_t column, int64_t tile, int64_t c) {
        Floats pixels[4][4], half[4][4], whole[4];
        take(x, all, n, 2 * row - 1, 2 * column - 1, c, pixels);
        for (int s = 0; s < 4; s++) {
            of_inputs(pixels[0][s], pixels[1][s], pixels[2][s], pixels[3][s], whole);
            for (int r = 0; r < 4; r++) half[r][s] = whole[r];
        }
        for (int r = 0; r < 4; r++) {
            of_inputs(half[r][0], half[r][1], half[r][2], half[r][3], whole);
            for (int s = 0; s < 4; s++) store(terms + all.term(4 * r + s, tile) + c, whole[s]);
        }
    });
}

// bias: (channels,), or null.
extern "C" void winograd_outputs(const float *sums, const float *bias, float *y, int64_t images,
                                 int64_t height, int64_t width, int64_t channels, int64_t room,
                                 int threads) {
    const Tiled all{{images, height, width, channels}, room};
    for_tiles(all, threads, [&](int64_t n, int64_t row, int64_t column, int64_t tile, int64_t c) {
        Floats half[2][4];
        for (int s = 0; s < 4; s++) {
            Floats of[4];
            for (int r = 0; r < 4; r++) of[r] = load(sums + all.term(4 * r + s, tile) + c);
            half[0][s] = of[0] + of[1] + of[2];
            half[1][s] = of[1] - of[2] - of[3];
        }
        const Floats more = bias ? load(bias + c) : Floats{};
        for (int r = 0; r < 2; r++) {
            const Floats pixels[2] = {half[r][0] + half[r][1] + half[r][2] + more,
                                      half[r][1] - half[r][2] - half[r][3] + more};
            for (int s = 0; s < 2; s++)
                if (all.has(2 * row + r, 2 * column + s))
                    store(y + all.pixel(n, 2 * row + r, 2 * column + s) + c, pixels[s]);
        }
    });
}

// The gradients of the sums, of those of the outputs.
extern "C" void winograd_gradients(const float *dy, float *terms, int64_t images, int64_t height,
                                   int64_t width, int64_t channels, int64_t room, int threads) {
    const Tiled all{{images, height, width, channels}, room};
    for_tiles(all, threads, [&](int64_t n, int64_t row, int64_t column, int64_t tile, int64_t c) {
        Floats pixels[2][2], half[4][2];
        take(dy, all, n, 2 * row, 2 * column, c, pixels);
        for (int s = 0; s < 2; s++) {
            half[0][s] = pixels[0][s], half[1][s] = pixels[0][s] + pixels[1][s];
            half[2][s] = pixels[0][s] - pixels[1][s], half[3][s] = -pixels[1][s];
        }
        for (int r = 0; r < 4; r++) {
            const Floats whole[4] = {half[r][0], half[r][0] + half[r][1], half[r][0] - half[r][1],
                                     -half[r][1]};
            for (int s = 0; s < 4; s++) store(terms + all.term(4 * r + s, tile) + c, whole[s]);
        }
    });
}
