// Convolutions by 3x3 in Winograd's way, F(4x4, 3x3) of https://arxiv.org/abs/1509.09308: tiles of
// 6x6 pixels, four apart, give 4x4 outputs each by 36 products of channels in place of 144. All is
// float32; images are (images, height, width, channels), what is outside of them is zeros, and
// channels are a multiple of 16.
//
// A side of a tile is looked at as a polynomial, by its values at 0, A, -A, B and -B, and infinity.
// With 1 and 2 for A and B, as the paper has them, rounding is twice as much.
//
// Each thread takes some tiles at a time from images to outputs, so what is transformed stays in its
// second cache, or of 256 inputs and more in the third. A sum's order depends on nothing but the
// shape, and so not on the threads.

#include "norm.h"

namespace {

constexpr int OUTPUTS = 4, INPUTS = 6, TAPS = 3;  // to a side
constexpr int TERMS = INPUTS * INPUTS;
constexpr float A = 0.70710678118654752f, B = 1.41421356237309505f;  // A * A is 1/2, A * B is 1

// What is multiplied at a time fills the registers, of which there are 32 or 16.
constexpr int VECTORS = 2, WIDTH = VECTORS * LANES;
constexpr int ROWS = LANES == 16 ? 12 : 6;         // tiles
constexpr int GROUP = 16;
constexpr int64_t PASS = 64;                       // outputs
constexpr int64_t BLOCK = 2 * ROWS;                // tiles, from images to outputs
constexpr int64_t WIDE_BLOCK = 8 * ROWS;           // where filters are in the third cache alone
constexpr int64_t WIDE_INPUTS = 256;               // from these on, as measured
constexpr int64_t SUMMED = 64;                     // tiles, before sums of products go to memory
constexpr int64_t LINE = 16;                       // values, of the cache
constexpr int64_t GAP = LINE;  // between planes, which else would share few lines of the cache

struct Tiled {
    int64_t images, height, width;
    int64_t rows = (height + OUTPUTS - 1) / OUTPUTS, columns = (width + OUTPUTS - 1) / OUTPUTS;
    int64_t count = images * rows * columns;

    // The first pixel of the row of tiles that a tile is in; after the last tile, the images' end.
    int64_t pixel(int64_t tile) const {
        const int64_t row = std::min(tile, count) / columns;
        return (row / rows * height + row % rows * OUTPUTS) * width;
    }
};

// The pixels of a tile, SIZE to a side, from so many before its first output; those outside the
// image are elsewhere.
template <int SIZE, int BEFORE, typename Pixel>
INLINE void find(Pixel *images, const Tiled &all, int64_t channels, int64_t tile, float *elsewhere,
                 Pixel *(&found)[SIZE][SIZE]) {
    const int64_t line = tile / all.columns, n = line / all.rows;
    const int64_t y = line % all.rows * OUTPUTS - BEFORE;
    const int64_t x = tile % all.columns * OUTPUTS - BEFORE;
    Pixel *image = images + n * all.height * all.width * channels;
    for (int r = 0; r < SIZE; r++)
        for (int s = 0; s < SIZE; s++)
            found[r][s] = y + r >= 0 && y + r < all.height && x + s >= 0 && x + s < all.width
                              ? image + ((y + r) * all.width + x + s) * channels
                              : elsewhere;
}

// Pixels that are soon read, or written. Memory is asked for a share of them at each of so many
// steps: what is multiplied meanwhile lies in the cache, and no processor guesses where tiles go on.
template <bool WRITTEN> struct Ahead {
    const float *images;
    int64_t channels, wide, first, end, share;  // the last three in pixels, `wide` channels of each

    Ahead(const float *images, int64_t channels, int64_t wide, int64_t first, int64_t end,
          int64_t steps)
        : images(images), channels(channels), wide(wide), first(first), end(end),
          share((end - first + steps - 1) / steps) {}

    INLINE void ask(int64_t step) const {
        const int64_t to = std::min(end, first + (step + 1) * share);
        for (int64_t p = first + step * share; p < to; p++)
            for (int64_t c = 0; c < wide; c += LINE)
                __builtin_prefetch(images + p * channels + c, WRITTEN, WRITTEN ? 3 : 2);
    }
};

// Asks for the same pixel of the tile to the right, too, unless this tile has it: into the first
// cache.
INLINE Floats foresee(const float *pixel, bool is_new, int64_t channels) {
    if (is_new) __builtin_prefetch(pixel + OUTPUTS * channels);
    return load(pixel);
}

// What `side` makes of FROM values: of every column, and then of every row of that.
template <int FROM, int TO, typename Side, typename Get, typename Put>
INLINE void transform(const Side &side, const Get &get, const Put &put) {
    Floats half[TO][FROM], from[FROM], to[TO];
    for (int s = 0; s < FROM; s++) {
        for (int r = 0; r < FROM; r++) from[r] = get(r, s);
        side(from, to);
        for (int r = 0; r < TO; r++) half[r][s] = to[r];
    }
    for (int r = 0; r < TO; r++) {
        side(half[r], to);
        for (int s = 0; s < TO; s++) put(r, s, to[s]);
    }
}

INLINE void of_inputs(const Floats *d, Floats *to) {
    const Floats even = d[4] - 2 * d[2], odd = B * (0.5f * d[3] - d[1]);
    const Floats even2 = d[4] - 0.5f * d[2], odd2 = B * (d[3] - 0.5f * d[1]);
    to[0] = d[0] - 2.5f * d[2] + d[4];
    to[1] = even + odd, to[2] = even - odd, to[3] = even2 + odd2, to[4] = even2 - odd2;
    to[5] = d[1] - 2.5f * d[3] + d[5];
}

INLINE void of_taps(const Floats *w, Floats *to) {
    const Floats even = (-2 / 3.f) * w[0] - (1 / 3.f) * w[2], odd = (B / 3) * w[1];
    const Floats even2 = (1 / 6.f) * w[0] + (1 / 3.f) * w[2];
    to[0] = w[0], to[5] = w[2];
    to[1] = even - odd, to[2] = even + odd;
    to[3] = even2 + 0.5f * odd, to[4] = even2 - 0.5f * odd;
}

INLINE void to_outputs(const Floats *m, Floats *to) {
    const Floats even = m[1] + m[2], odd = m[1] - m[2], even2 = m[3] + m[4], odd2 = m[3] - m[4];
    to[0] = m[0] + even + even2;
    to[1] = A * odd + B * odd2;
    to[2] = 0.5f * even + 2 * even2;
    to[3] = (A / 2) * odd + (2 * B) * odd2 + m[5];
}

// to_outputs, and of_taps, turned round: what gradients take.
INLINE void of_outputs(const Floats *y, Floats *to) {
    const Floats even = y[0] + 0.5f * y[2], odd = A * (y[1] + 0.5f * y[3]);
    const Floats even2 = y[0] + 2 * y[2], odd2 = B * (y[1] + 2 * y[3]);
    to[0] = y[0], to[5] = y[3];
    to[1] = even + odd, to[2] = even - odd, to[3] = even2 + odd2, to[4] = even2 - odd2;
}

INLINE void to_taps(const Floats *m, Floats *to) {
    const Floats even = m[1] + m[2], even2 = m[3] + m[4];
    to[0] = m[0] - (2 / 3.f) * even + (1 / 6.f) * even2;
    to[1] = (B / 3) * (m[2] - m[1] + 0.5f * (m[3] - m[4]));
    to[2] = (1 / 3.f) * (even2 - even) + m[5];
}

// sums[r][v] += a[r] * b[v], so many times, of which each is a step from the one before.
template <int HEIGHT, int WIDE>
INLINE void multiply(const float *a, int64_t row, int64_t a_step, const float *b, int64_t b_step,
                     int64_t steps, Floats (&sums)[HEIGHT][WIDE]) {
    for (int64_t i = 0; i < steps; i++, a += a_step, b += b_step) {
        Floats own[WIDE];
        for (int v = 0; v < WIDE; v++) own[v] = load(b + v * LANES);
        for (int r = 0; r < HEIGHT; r++)
            for (int v = 0; v < WIDE; v++) sums[r][v] += a[r * row] * own[v];
    }
}

// Of some tiles, (tiles, inputs), and a filter, (inputs, WIDE vectors); tiles are rounded up to ROWS.
template <int WIDE>
INLINE void product(const float *terms, int64_t tiles, int64_t inputs, const float *filter,
                    float *sums) {
    constexpr int64_t OWN = WIDE * LANES;
    for (int64_t t = 0; t < tiles; t += ROWS) {
        Floats own[ROWS][WIDE] = {};
        multiply(terms + t * inputs, inputs, 1, filter, OWN, inputs, own);
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < WIDE; v++) store(sums + (t + r) * OWN + v * LANES, own[r][v]);
    }
}

// Adds to sums, (16, 16), products of channels of tiles, (tiles, 16) each, from a channel on.
template <int HEIGHT>
INLINE void add_products(const float *terms, const float *gradients, int64_t tiles, int64_t from,
                         float *sums) {
    constexpr int WIDE = GROUP / LANES;
    Floats own[HEIGHT][WIDE];
    for (int r = 0; r < HEIGHT; r++)
        for (int v = 0; v < WIDE; v++) own[r][v] = load(sums + (from + r) * GROUP + v * LANES);
    multiply(terms + from, 1, GROUP, gradients, GROUP, tiles, own);
    for (int r = 0; r < HEIGHT; r++)
        for (int v = 0; v < WIDE; v++) store(sums + (from + r) * GROUP + v * LANES, own[r][v]);
}

INLINE int64_t rounded_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

}  // namespace

// taps: (3, 3, inputs, outputs). filters: as many values times 4; in parts of WIDTH outputs, or what
// is left of them, each (36, inputs, WIDTH).
extern "C" void winograd_filters(const float *taps, float *filters, int64_t inputs, int64_t outputs,
                                 int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t c = 0; c < inputs; c++)
        for (int64_t k = 0; k < outputs; k += LANES) {
            const int64_t first = k / WIDTH * WIDTH, wide = std::min<int64_t>(WIDTH, outputs - first);
            float *to = filters + (first * TERMS * inputs + c * wide + k - first);
            transform<TAPS, INPUTS>(
                of_taps,
                [&](int r, int s) { return load(taps + ((TAPS * r + s) * inputs + c) * outputs + k); },
                [&](int r, int s, Floats value) {
                    store(to + (INPUTS * r + s) * inputs * wide, value);
                });
        }
}

// bias: (outputs,), or null.
extern "C" void winograd_convolve(const float *x, const float *filters, const float *bias, float *y,
                                  int64_t images, int64_t height, int64_t width, int64_t inputs,
                                  int64_t outputs, int threads) {
    const Tiled all{images, height, width};
    const int64_t most = inputs < WIDE_INPUTS ? BLOCK : WIDE_BLOCK;
    const int64_t block = std::min(most, rounded_up((all.count + threads - 1) / threads, ROWS));
    const int64_t plane = block * inputs + GAP, sums_plane = block * PASS + GAP;
#pragma omp parallel num_threads(threads)
    {
        const Buffer<float> terms(TERMS * plane), sums(TERMS * sums_plane);
        const Buffer<float> zeros(inputs), elsewhere(outputs);
#pragma omp for schedule(static)
        for (int64_t tile = 0; tile < all.count; tile += block) {
            const int64_t tiles = std::min(block, all.count - tile), next = tile + tiles;
            for (int64_t t = 0; t < tiles; t++) {
                const float *found[INPUTS][INPUTS];
                find<INPUTS, 1>(x, all, inputs, tile + t, zeros.data, found);
                for (int64_t c = 0; c < inputs; c += LANES) {
                    float *to = terms.data + t * inputs + c;
                    transform<INPUTS, INPUTS>(
                        of_inputs,
                        [&](int r, int s) { return foresee(found[r][s] + c, s >= 2, inputs); },
                        [to, plane](int r, int s, Floats value) {  // copies: else loaded again each time
                            store(to + (INPUTS * r + s) * plane, value);
                        });
                }
            }
            for (int64_t first = 0; first < outputs; first += PASS) {
                const int64_t end = std::min(outputs, first + PASS);
                const int64_t steps = TERMS * ((end - first + WIDTH - 1) / WIDTH);
                const Ahead<true> written(y + first, outputs, end - first, all.pixel(tile),
                                          all.pixel(next), steps);
                const Ahead<false> read(x, inputs, first ? 0 : inputs, all.pixel(next) + width,
                                        all.pixel(next + block) + width, steps);
                int64_t step = 0;
                for (int term = 0; term < TERMS; term++)
                    for (int64_t k = first; k < end; k += WIDTH, step++) {
                        written.ask(step);
                        read.ask(step);
                        const float *own = terms.data + term * plane;
                        const float *filter = filters + k * TERMS * inputs;
                        float *to = sums.data + term * sums_plane + (k - first) * block;
                        if (end - k >= WIDTH)
                            product<VECTORS>(own, tiles, inputs, filter + term * inputs * WIDTH, to);
                        else
                            product<1>(own, tiles, inputs, filter + term * inputs * LANES, to);
                    }
                for (int64_t t = 0; t < tiles; t++) {
                    float *found[OUTPUTS][OUTPUTS];
                    find<OUTPUTS, 0>(y, all, outputs, tile + t, elsewhere.data, found);
                    for (int64_t k = first; k < end; k += LANES) {
                        const int64_t part = (k - first) / WIDTH * WIDTH;
                        const int64_t wide = std::min<int64_t>(WIDTH, end - first - part);
                        const float *own = sums.data + part * block + t * wide + k - first - part;
                        const Floats more = bias ? load(bias + k) : Floats{};
                        transform<INPUTS, OUTPUTS>(
                            to_outputs,
                            [own, sums_plane](int r, int s) {
                                return load(own + (INPUTS * r + s) * sums_plane);
                            },
                            [&](int r, int s, Floats value) { store(found[r][s] + k, value + more); });
                    }
                }
            }
        }
    }
}

// The gradient of the weights, (3, 3, inputs, outputs).
extern "C" void winograd_gradient(const float *x, const float *dy, float *taps, int64_t images,
                                  int64_t height, int64_t width, int64_t inputs, int64_t outputs,
                                  int threads) {
    const Tiled all{images, height, width};
    // Of each term and each 16 channels, the tiles one after the other.
    const int64_t group = SUMMED * GROUP + GAP;
    const int64_t groups = inputs / GROUP, others = outputs / GROUP;
    const Buffer<float> terms(TERMS * groups * group), gradients(TERMS * others * group);
    const Buffer<float> sums(TERMS * inputs * outputs);  // of 16 outputs, those of 16 inputs
    const Buffer<float> zeros(std::max(inputs, outputs));
#pragma omp parallel num_threads(threads)
    {
        for (int64_t tile = 0; tile < all.count; tile += SUMMED) {
            const int64_t tiles = std::min(SUMMED, all.count - tile), next = tile + tiles;
#pragma omp for schedule(static)
            for (int64_t t = 0; t < tiles; t++) {
                const float *found[INPUTS][INPUTS], *given[OUTPUTS][OUTPUTS];
                find<INPUTS, 1>(x, all, inputs, tile + t, zeros.data, found);
                find<OUTPUTS, 0>(dy, all, outputs, tile + t, zeros.data, given);
                for (int64_t c = 0; c < inputs; c += LANES) {
                    float *to = terms.data + c / GROUP * group + t * GROUP + c % GROUP;
                    transform<INPUTS, INPUTS>(
                        of_inputs,
                        [&](int r, int s) { return foresee(found[r][s] + c, s >= 2, inputs); },
                        [&](int r, int s, Floats value) {
                            store(to + (INPUTS * r + s) * groups * group, value);
                        });
                }
                for (int64_t k = 0; k < outputs; k += LANES) {
                    float *to = gradients.data + k / GROUP * group + t * GROUP + k % GROUP;
                    transform<OUTPUTS, INPUTS>(
                        of_outputs,
                        [&](int r, int s) { return foresee(given[r][s] + k, true, outputs); },
                        [&](int r, int s, Floats value) {
                            store(to + (INPUTS * r + s) * others * group, value);
                        });
                }
            }
            const int64_t first = all.pixel(next), end = all.pixel(next + SUMMED);
            const Ahead<false> read(x, inputs, inputs, first + width, end + width, TERMS * others);
            const Ahead<false> read_too(dy, outputs, outputs, first, end, TERMS * others);
#pragma omp for schedule(static)
            for (int64_t part = 0; part < TERMS * others; part++) {
                read.ask(part);
                read_too.ask(part);
                const int64_t term = part / others;
                const float *given = gradients.data + part * group;
                for (int64_t c = 0; c < groups; c++) {
                    const float *own = terms.data + (term * groups + c) * group;
                    float *to = sums.data + (part * groups + c) * GROUP * GROUP;
                    if constexpr (LANES == GROUP) {
                        add_products<16>(own, given, tiles, 0, to);
                    } else {
                        add_products<6>(own, given, tiles, 0, to);
                        add_products<5>(own, given, tiles, 6, to);
                        add_products<5>(own, given, tiles, 11, to);
                    }
                }
            }
        }
#pragma omp for schedule(static)
        for (int64_t c = 0; c < inputs; c++)
            for (int64_t k = 0; k < outputs; k += LANES)
                transform<INPUTS, TAPS>(
                    to_taps,
                    [&](int r, int s) {
                        const int64_t part = (INPUTS * r + s) * others + k / GROUP;
                        return load(sums.data + (part * inputs + c) * GROUP + k % GROUP);
                    },
                    [&](int r, int s, Floats value) {
                        store(taps + ((TAPS * r + s) * inputs + c) * outputs + k, value);
                    });
    }
}
