// Convolutions of bfloat16 images in the layout channels_last by the tiles of AMX, with filters of
// 3x3 and a padding of 1, or of 1x1; their stride is 1. A tile is 16 rows of 64 bytes, and a
// product of two adds to 16x16 sums in float32 those of 32 terms each.
//
// Nothing is unfolded but images of a few colours: in an image with zeros around it, all taps of a
// row of the filter are side by side, and those of the next pixel begin one pixel later.

#pragma once

#include <cstdint>
#include <cstring>
#include <algorithm>
#include <vector>
#include <immintrin.h>

#include "norm.h"

namespace {

static_assert(LANES == 16);

constexpr int64_t TERMS = 32;           // of a product
constexpr int64_t HALVES = 16 * TERMS;  // bfloat16 values of a tile
constexpr int64_t SUMS = 16 * 16;       // float32 values of one

INLINE int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

// What was stored there is in memory from here on, and what is there may have changed. GCC doesn't
// know which memory the instructions for tiles read, and all of which they write.
INLINE void settle(const void *memory) { __asm__ volatile("" : : "r"(memory) : "memory"); }

// While it lives, this thread's tiles are what all here takes them for; then others' again.
class Tiles {
    struct alignas(64) Configuration {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t bytes[16] = {};
        uint8_t rows[16] = {};
    } before;

public:
    Tiles() {
        settle(&before);
        _tile_storeconfig(&before);
        Configuration ours;
        std::fill_n(ours.bytes, 8, uint16_t(64));
        std::fill_n(ours.rows, 8, uint8_t(16));
        settle(&ours);
        _tile_loadconfig(&ours);
        settle(&ours);
    }
    ~Tiles() {
        settle(&before);
        _tile_loadconfig(&before);
    }
    Tiles(const Tiles &) = delete;
};

INLINE __m512i widened(const BFloat16 *from) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((__m256i *)from));
}

// 16 values of a row and 16 of the next, in turns.
INLINE __m512i in_turns(__m512i even, __m512i odd) {
    return _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
}

// 16 rows of 16 values of 32 bits, transposed, go to a tile.
INLINE void store_transposed(BFloat16 *tile, __m512i (&rows)[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            rows[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            rows[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int i = 0; i < 4; i++)  // of quarters of rows that are where they belong
        for (int j = 0; j < 16; j += 8) {
            t[i + j] = _mm512_shuffle_i32x4(rows[i + j], rows[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_i32x4(rows[i + j], rows[i + j + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        _mm512_store_si512(tile + i * TERMS, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
        _mm512_store_si512(tile + (i + 8) * TERMS, _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
    }
}

// How an image lies in memory for a filter: with zeros around it, where that has a padding; what is
// left of a row is also right of the row before. With few channels (9 times as many are at most 32)
// all taps of each pixel lie there instead, as the channels of a filter of 1x1.
struct Layout {
    int64_t height, width, channels, taps;  // taps of a row, and rows of taps
    bool unfolded;
    int64_t stride;    // values from one pixel to the next
    int64_t together;  // pixels that are convolved as one: their channels fill a cache line
    int64_t pitch;     // pixels from one row to the next
    int64_t size;

    Layout(int64_t height, int64_t width, int64_t channels, int64_t taps)
        : height(height), width(width), channels(channels), taps(taps),
          unfolded(taps == 3 && 9 * channels <= TERMS) {
        if (unfolded) {
            this->channels *= 9;
            this->taps = 1;
        }
        stride = unfolded ? TERMS : this->channels;
        together = stride == LANES && width % 2 == 0 ? 2 : 1;
        pitch = width + (this->taps == 1 ? 0 : together);
        size = ((height + this->taps - 1) * pitch + 17 * together) * stride + TERMS;
        if (unfolded) size += (height + 2) * (width + 2) * channels + LANES;
    }

    int64_t border() const { return taps / 2; }
    BFloat16 *row(BFloat16 *image, int64_t row) const {
        return image + ((row + border()) * pitch + border()) * stride;
    }

    // image: (height, width, channels), to where there were zeros before it.
    void take(const BFloat16 *image, BFloat16 *to) const {
        if (unfolded) return unfold(image, to);
        for (int64_t r = 0; r < height; r++) {
            const int64_t length = width * channels;
            std::memcpy(row(to, r), image + r * length, length * sizeof *to);
        }
    }

private:
    // The taps of a row of the filter are side by side in an image with zeros around it, and are
    // copied with what is behind them; the next row's take its place.
    void unfold(const BFloat16 *image, BFloat16 *to) const {
        const int64_t colours = channels / 9, length = (width + 2) * colours;
        BFloat16 *const padded = to + unfolded_size();
        for (int64_t r = 0; r < height; r++)
            std::memcpy(padded + (r + 1) * length + colours, image + r * width * colours,
                        width * colours * sizeof *to);
        const __mmask16 left = (1u << std::min<int64_t>(16, TERMS - 6 * colours)) - 1;
        const BFloat16 *from = padded;
        for (int64_t r = 0; r < height; r++, from += 2 * colours)
            for (int64_t i = 0; i < width; i++, from += colours, to += TERMS) {
                const auto row = [=](int64_t tap) {
                    return _mm256_loadu_si256((__m256i *)(from + tap * length));
                };
                _mm256_storeu_si256((__m256i *)to, row(0));
                _mm256_storeu_si256((__m256i *)(to + 3 * colours), row(1));
                _mm256_mask_storeu_epi16(to + 6 * colours, left, row(2));
            }
    }

    int64_t unfolded_size() const { return (height * pitch + 17 * together) * stride + TERMS; }
};

// 16 places in such an image, one after the other, from that of the filter's first tap on; some
// don't go out, as they are between rows. A place is a pixel, or those that are taken together.
struct Strip {
    int64_t in, out;
    uint32_t mask;
};

std::vector<Strip> strips(const Layout &image) {
    std::vector<Strip> all;
    const int64_t width = image.width / image.together, pitch = image.pitch / image.together;
    const int64_t end = (image.height - 1) * pitch + width;
    int64_t out = 0;
    for (int64_t from = 0; from < end; from += 16) {
        if (width % 16 == 0 && from % pitch == width) from = (from / pitch + 1) * pitch;
        Strip strip{from, out, 0};
        for (int64_t i = from; i < std::min(from + 16, end); i++)
            if (i % pitch < width) strip.mask |= 1u << (i - from), out++;
        all.push_back(strip);
    }
    return all;
}

// A filter as tiles of 16 pairs of terms by 16 outputs, [output / 16][row of taps][terms / 32]. The
// terms of a row of taps are the channels of neighbours. Pixels that are taken together have
// outputs of their own, each with zeros for the neighbours that it hasn't.
class Filter {
    const Layout in;
    Buffer<BFloat16> tiles;

    BFloat16 *tile(int64_t output, int64_t row, int64_t chunk) const {
        return tiles.data + ((output / LANES * in.taps + row) * chunks + chunk) * HALVES;
    }

public:
    const int64_t outputs, chunks;

    // weight: (outputs, taps, taps, inputs); or (inputs, taps, taps, outputs), of the convolution
    // through which gradients go back.
    Filter(const float *weight, int64_t outputs, const Layout &in, bool back, int threads)
        : in(in), tiles(outputs * in.together / LANES * in.taps * chunks_of(in) * HALVES),
          outputs(outputs * in.together), chunks(chunks_of(in)) {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t output = 0; output < outputs; output += LANES)
            for (int64_t pixel = 0; pixel < in.together; pixel++) {
                if (back) take_turned(weight, outputs, output, pixel);
                else take(weight, outputs, output, pixel);
            }
    }

    const BFloat16 *at(int64_t output) const { return tile(output, 0, 0); }
    int64_t step() const { return in.taps * chunks * HALVES; }  // to the next 16 outputs

private:
    static int64_t chunks_of(const Layout &in) {
        return ceil_div((in.taps + in.together - 1) * in.stride, TERMS);
    }

    void take(const float *weight, int64_t outputs, int64_t output, int64_t pixel) {
        const int64_t terms = in.taps * in.channels;
        for (int64_t row = 0; row < in.taps; row++)
            for (int64_t chunk = 0; chunk < chunks; chunk++) {
                const int64_t first = chunk * TERMS - pixel * in.stride;
                const auto loaded = [&](int64_t i, int64_t at) {
                    const int64_t left = std::clamp<int64_t>(terms - at, 0, 16);
                    const int64_t none = std::clamp<int64_t>(-at, 0, 16);
                    const __mmask16 mask = ((1u << left) - 1) & ~((1u << none) - 1);
                    return _mm512_maskz_loadu_ps(
                        mask, weight + ((output + i) * in.taps + row) * terms + at);
                };
                __m512i rows[16];
                for (int64_t i = 0; i < 16; i++)
                    rows[i] = (__m512i)_mm512_cvtne2ps_pbh(loaded(i, first + 16), loaded(i, first));
                store_transposed(tile(pixel * outputs + output, row, chunk), rows);
            }
    }

    // What a pixel gave to one on its left, it gets back from there.
    void take_turned(const float *weight, int64_t outputs, int64_t output, int64_t pixel) {
        const int64_t taps = in.taps * in.taps;
        for (int64_t tap = 0; tap < taps; tap++)
            for (int64_t i = 0; i < in.channels; i += 2) {
                const float *from = weight + (i * taps + taps - 1 - tap) * outputs + output;
                const int64_t term = (tap % in.taps + pixel) * in.stride + i;
                BFloat16 *to = tile(pixel * outputs + output, tap / in.taps, term / TERMS);
                const auto half = [](const float *values) {
                    const __m256bh halves = _mm512_cvtneps_pbh(_mm512_loadu_ps(values));
                    return _mm512_cvtepu16_epi32((__m256i)halves);
                };
                _mm512_store_si512(to + term % TERMS / 2 * TERMS,
                                   in_turns(half(from), half(from + taps * outputs)));
            }
    }
};

// The sums of WIDE times 16 outputs for 4 / WIDE strips.
template <int WIDE>
INLINE void multiply(const BFloat16 *const *places, const Layout &in, const Filter &filter,
                     const BFloat16 *weights, float *sums) {
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    const int64_t bytes = in.together * in.stride * sizeof(BFloat16), step = filter.step();
    for (int64_t row = 0; row < in.taps; row++)
        for (int64_t chunk = 0; chunk < filter.chunks; chunk++, weights += HALVES) {
            const int64_t at = row * in.pitch * in.stride + chunk * TERMS;
            _tile_loadd(6, weights, 64);
            _tile_loadd(4, places[0] + at, bytes);
            _tile_dpbf16ps(0, 4, 6);
            if (WIDE == 2) {
                _tile_loadd(7, weights + step, 64);
                _tile_dpbf16ps(1, 4, 7);
                _tile_loadd(5, places[1] + at, bytes);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            } else {
                _tile_loadd(5, places[1] + at, bytes);
                _tile_dpbf16ps(1, 5, 6);
                _tile_loadd(7, places[2] + at, bytes);
                _tile_dpbf16ps(2, 7, 6);
                _tile_loadd(4, places[3] + at, bytes);
                _tile_dpbf16ps(3, 4, 6);
            }
        }
    _tile_stored(0, sums, 64); _tile_stored(1, sums + SUMS, 64);
    _tile_stored(2, sums + 2 * SUMS, 64); _tile_stored(3, sums + 3 * SUMS, 64);
}

template <int WIDE>
void convolve_by(const BFloat16 *image, const Layout &in, const Filter &filter,
                 const std::vector<Strip> &all, BFloat16 *out) {
    constexpr size_t COUNT = 4 / WIDE;
    alignas(64) float sums[4 * SUMS];
    for (int64_t output = 0; output < filter.outputs; output += WIDE * LANES)
        for (size_t first = 0; first < all.size(); first += COUNT) {
            const size_t count = std::min(COUNT, all.size() - first);
            const BFloat16 *places[COUNT];
            for (size_t i = 0; i < COUNT; i++) {  // where there are no more, the last once more
                const Strip &strip = all[first + std::min(i, count - 1)];
                places[i] = image + strip.in * in.together * in.stride;
            }
            multiply<WIDE>(places, in, filter, filter.at(output), sums);
            for (size_t i = 0; i < count; i++) {
                const Strip &strip = all[first + i];
                BFloat16 *to = out + strip.out * filter.outputs + output;
                const float *from = sums + i * WIDE * SUMS;
                for (int row = 0; row < 16; row++, from += LANES) {
                    if (!(strip.mask >> row & 1)) continue;
                    store(to, load(from));
                    if (WIDE == 2) store(to + LANES, load(from + SUMS));
                    to += filter.outputs;
                }
            }
        }
}

// An image in its layout, to (height, width, outputs).
INLINE void convolve(const BFloat16 *image, const Layout &in, const Filter &filter,
                     const std::vector<Strip> &all, BFloat16 *out) {
    settle(image);
    settle(filter.at(0));
    if (filter.outputs % (2 * LANES)) convolve_by<1>(image, in, filter, all, out);
    else convolve_by<2>(image, in, filter, all, out);
}

// The gradient of a filter: for each tap the products of the outputs' gradients, as rows, and of
// the inputs that it takes, summed over all pixels of some images at a time.
//
// The gradients are transposed, to lie in tiles of 16 channels by 32 pixels. Of the inputs there is
// a copy for each tap of a row, moved by its place, in tiles of 16 pairs of pixels by 16 channels,
// with rows of zeros above and below: what a tap of the next row takes begins a row further. So the
// width must be even.
class Correlation {
    const Layout in;
    const int64_t outputs;       // of them by 16
    const int64_t inputs;        // likewise
    const int64_t steps;         // tiles that have all pixels
    const int64_t pairs;         // of pixels, of one copy
    Buffer<BFloat16> gradients;  // [image][output][step]
    Buffer<BFloat16> copies;     // [image][input][column of taps][pair]
    Buffer<float> sums;          // [output][input][column of taps][row of taps]

    int64_t columns() const { return inputs * in.taps * in.taps; }
    BFloat16 *gradient(int64_t image, int64_t output) const {
        return gradients.data + (image * outputs + output) * steps * HALVES;
    }
    BFloat16 *copy(int64_t image, int64_t input, int64_t tap) const {
        return copies.data + ((image * inputs + input) * in.taps + tap) * pairs * TERMS;
    }
    BFloat16 *taken(int64_t image, int64_t column) const {
        const int64_t input = column / in.taps / in.taps, tap = column / in.taps % in.taps;
        return copy(image, input, tap) + column % in.taps * in.width / 2 * TERMS;
    }
    float *sum(int64_t output, int64_t column) const {
        return sums.data + (output * columns() + column) * SUMS;
    }

public:
    // images: so many are taken at a time.
    Correlation(const Layout &in, int64_t channels, int64_t images)
        : in(in), outputs(channels / LANES), inputs(in.stride / LANES),
          steps(ceil_div(in.height * in.width, TERMS)), pairs(in.border() * in.width + steps * 16),
          gradients(images * outputs * steps * HALVES),
          copies(images * inputs * in.taps * pairs * TERMS),
          sums(outputs * columns() * SUMS) {}

    // How many images to take at a time: sums are loaded and stored once for each 1024 pixels.
    static int64_t at_once(const Layout &in) {
        return std::max<int64_t>(1, 1024 / (in.height * in.width));
    }

    // image: in its layout.
    void take_inputs(int64_t n, const BFloat16 *image) {
        for (int64_t input = 0; input < inputs; input++)
            for (int64_t row = in.border(); row < in.height + in.border(); row++)
                for (int64_t tap = 0; tap < in.taps; tap++) {
                    const int64_t at = (row * in.pitch + tap) * in.stride;
                    const BFloat16 *from = image + at + input * LANES;
                    BFloat16 *to = copy(n, input, tap) + row * in.width / 2 * TERMS;
                    for (int64_t pixel = 0; pixel < in.width; pixel += 2, from += 2 * in.stride)
                        _mm512_store_si512(to + pixel * LANES,
                                           in_turns(widened(from), widened(from + in.stride)));
                }
    }

    // from: (height, width, channels).
    void take_gradients(int64_t n, const BFloat16 *from) {
        const int64_t pixels = in.height * in.width, channels = outputs * LANES;
        for (int64_t output = 0; output < outputs; output++)
            for (int64_t step = 0; step < steps; step++) {
                __m512i rows[16];
                for (int64_t i = 0; i < 16; i++) {
                    const int64_t pixel = step * TERMS + 2 * i;
                    const BFloat16 *at = from + pixel * channels + output * LANES;
                    rows[i] = pixel < pixels ? in_turns(widened(at), widened(at + channels))
                                             : _mm512_setzero_si512();
                }
                store_transposed(gradient(n, output) + step * HALVES, rows);
            }
    }

    // Adds the products of the first so many images that were taken.
    void add(int64_t count) {
        settle(gradients.data);
        settle(copies.data);
        settle(sums.data);
        for (int64_t output = 0; output < outputs;) {
            const bool two = outputs % 2 == 0;
            for (int64_t column = 0; column < columns();) {
                const int64_t left = columns() - column;
                if (two && left > 1) add<2, 2>(count, output, column), column += 2;
                else if (two) add<2, 1>(count, output, column), column += 1;
                else if (left > 2) add<1, 3>(count, output, column), column += 3;
                else add<1, 1>(count, output, column), column += 1;
            }
            output += two ? 2 : 1;
        }
    }

    // weight: (outputs, taps, taps, inputs), to which the sums are added.
    void give(float *weight) const {
        const int64_t taps = in.taps * in.taps;
        for (int64_t o = 0; o < outputs * LANES; o++)
            for (int64_t tap = 0; tap < taps; tap++)
                for (int64_t i = 0; i < in.channels; i++) {
                    const int64_t turned = tap % in.taps * in.taps + tap / in.taps;
                    weight[(o * taps + tap) * in.channels + i] +=
                        sum(o / LANES, i / LANES * taps + turned)[o % LANES * LANES + i % LANES];
                }
    }

private:
    template <int ROWS, int COLUMNS> void add(int64_t count, int64_t output, int64_t column) {
        float *to = sum(output, column), *below = to + columns() * SUMS;
        _tile_loadd(0, to, 64);
        if (COLUMNS > 1) _tile_loadd(1, to + SUMS, 64);
        if (COLUMNS > 2) _tile_loadd(3, to + 2 * SUMS, 64);
        if (ROWS > 1) _tile_loadd(2, below, 64);
        if (ROWS > 1 && COLUMNS > 1) _tile_loadd(3, below + SUMS, 64);
        for (int64_t n = 0; n < count; n++) {
            const BFloat16 *g = gradient(n, output), *below_g = g + steps * HALVES;
            const BFloat16 *x[COLUMNS];
            for (int i = 0; i < COLUMNS; i++) x[i] = taken(n, column + i);
            for (int64_t at = 0; at < steps * HALVES; at += HALVES) {
                _tile_loadd(4, g + at, 64);
                _tile_loadd(6, x[0] + at, 64);
                _tile_dpbf16ps(0, 4, 6);
                if (COLUMNS > 1) {
                    _tile_loadd(7, x[COLUMNS > 1] + at, 64);
                    _tile_dpbf16ps(1, 4, 7);
                }
                if (COLUMNS > 2) {
                    _tile_loadd(5, x[COLUMNS > 2 ? 2 : 0] + at, 64);
                    _tile_dpbf16ps(3, 4, 5);
                }
                if (ROWS > 1) {
                    _tile_loadd(5, below_g + at, 64);
                    _tile_dpbf16ps(2, 5, 6);
                    if (COLUMNS > 1) _tile_dpbf16ps(3, 5, 7);
                }
            }
        }
        _tile_stored(0, to, 64);
        if (COLUMNS > 1) _tile_stored(1, to + SUMS, 64);
        if (COLUMNS > 2) _tile_stored(3, to + 2 * SUMS, 64);
        if (ROWS > 1) _tile_stored(2, below, 64);
        if (ROWS > 1 && COLUMNS > 1) _tile_stored(3, below + SUMS, 64);
    }
};

}  // namespace
