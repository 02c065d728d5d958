// Images as a net takes them, from bytes, in one pass: moved, recoloured, blanked, normalized.

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "norm.h"

namespace {

constexpr int MOST_CHANNELS = 4;  // those of a pixel are taken at once, as the bytes of a word

struct Picture { int64_t channels, height, width; };

// What is done to an image; null is nothing.
struct Changes {
    const float *map;      // (3, 3), to the pixel that is shown, from the image's centre
    const float *colours;  // (channels, channels + 1), of which the last are for the mean grey
    const uint8_t *erased; // (height, width)
};

// Of each channel.
struct Scale { const float *mean, *deviation, *grey; };

INLINE Floats count_up() {
    Floats values;
    for (int i = 0; i < LANES; i++) values[i] = i;
    return values;
}

INLINE Floats clamped(Floats x, float low, float high) {
    x = x > low ? x : Floats{} + low;
    return x < high ? x : Floats{} + high;
}

INLINE Floats byte(Ints words, int i) {
    return __builtin_convertvector((words >> 8 * i) & 255, Floats);
}

INLINE Ints gathered(const uint32_t *from, Ints at) {
#ifdef __AVX512F__
    return (Ints)_mm512_i32gather_epi32((__m512i)at, from, 4);
#else
    Ints words;
    for (int i = 0; i < LANES; i++) words[i] = from[at[i]];
    return words;
#endif
}

// Where a thread draws its images, one after the other.
class Canvas {
    const Picture size;
    const int64_t pitch;           // of the values: rows are full vectors
    const int64_t padded_width;    // of the words: there are black pixels around them
    std::vector<uint32_t> words;   // (height + 3, width + 3)
    std::vector<float> values;     // (channels, height, pitch), in [0, 1]

    float *at(int64_t channel, int64_t row) {
        return &values[(channel * size.height + row) * pitch];
    }

public:
    explicit Canvas(const Picture &size)
        : size(size), pitch((size.width + LANES - 1) / LANES * LANES),
          padded_width(size.width + 3), words((size.height + 3) * padded_width),
          values(size.channels * size.height * pitch) {}

    template <typename T>
    void draw(const uint8_t *image, const Changes &changes, const Scale &scale, T *out) {
        if (changes.map) move(image, changes.map);
        else copy(image);
        if (changes.colours) recolour(changes.colours, scale.grey);
        give(changes.erased, scale, out);
    }

private:
    void copy(const uint8_t *image) {
        for (int64_t c = 0; c < size.channels; c++)
            for (int64_t y = 0; y < size.height; y++) {
                const uint8_t *from = image + (c * size.height + y) * size.width;
                float *to = at(c, y);
                for (int64_t x = 0; x < size.width; x++) to[x] = from[x] / 255.0f;
            }
    }

    // Bilinear; outside the image is black.
    void move(const uint8_t *image, const float *map) {
        const int64_t plane = size.height * size.width;
        for (int64_t y = 0; y < size.height; y++) {
            const uint8_t *from = image + y * size.width;
            uint32_t *to = &words[(y + 1) * padded_width + 1];
            for (int64_t x = 0; x < size.width; x++) to[x] = from[x];
            for (int64_t c = 1; c < size.channels; c++)
                for (int64_t x = 0; x < size.width; x++)
                    to[x] |= uint32_t(from[c * plane + x]) << 8 * c;
        }
        const float middle_x = (size.width - 1) / 2.0f, middle_y = (size.height - 1) / 2.0f;
        const int32_t below = padded_width;
        for (int64_t y = 0; y < size.height; y++) {
            const float from_x = map[1] * (y - middle_y) + map[2];
            const float from_y = map[4] * (y - middle_y) + map[5];
            for (int64_t x = 0; x < pitch; x += LANES) {
                const Floats right = count_up() + (x - middle_x);
                // one pixel further, as there is one more around; what is further out is black, too
                const Floats px = clamped(right * map[0] + from_x + middle_x + 1, 0, size.width + 1);
                const Floats py =
                    clamped(right * map[3] + from_y + middle_y + 1, 0, size.height + 1);
                const Ints column = __builtin_convertvector(px, Ints);
                const Ints row = __builtin_convertvector(py, Ints);
                const Floats dx = px - __builtin_convertvector(column, Floats);
                const Floats dy = py - __builtin_convertvector(row, Floats);
                const Ints first = row * below + column;
                const Ints corners[4] = {gathered(&words[0], first), gathered(&words[1], first),
                                         gathered(&words[below], first),
                                         gathered(&words[below + 1], first)};
                for (int64_t c = 0; c < size.channels; c++) {
                    const Floats left = byte(corners[0], c), left_below = byte(corners[2], c);
                    const Floats upper = left + dx * (byte(corners[1], c) - left);
                    const Floats lower = left_below + dx * (byte(corners[3], c) - left_below);
                    const Floats value = (upper + dy * (lower - upper)) / 255.0f;
                    store(at(c, y) + x, clamped(value, 0, 1));
                }
            }
        }
    }

    void recolour(const float *colours, const float *grey) {
        const int64_t channels = size.channels;
        double mean = 0;
        for (int64_t c = 0; c < channels; c++) {
            double sum = 0;
            for (int64_t y = 0; y < size.height; y++) {
                const float *row = at(c, y);
                Floats of_row = {};
                int64_t x = 0;
                for (; x + LANES <= size.width; x += LANES) of_row += load(row + x);
                for (; x < size.width; x++) of_row[x % LANES] += row[x];
                for (int i = 0; i < LANES; i++) sum += of_row[i];
            }
            mean += grey[c] * sum / (size.height * size.width);
        }
        for (int64_t y = 0; y < size.height; y++)
            for (int64_t x = 0; x < pitch; x += LANES) {
                Floats before[MOST_CHANNELS];
                for (int64_t c = 0; c < channels; c++) before[c] = load(at(c, y) + x);
                for (int64_t c = 0; c < channels; c++) {
                    const float *row = colours + c * (channels + 1);
                    Floats after = Floats{} + row[channels] * float(mean);
                    for (int64_t from = 0; from < channels; from++)
                        after += row[from] * before[from];
                    store(at(c, y) + x, clamped(after, 0, 1));
                }
            }
    }

    template <typename T> void give(const uint8_t *erased, const Scale &scale, T *out) {
        const int64_t channels = size.channels;
        for (int64_t y = 0; y < size.height; y++)
            for (int64_t x = 0; x < size.width; x += LANES) {
                T pixels[MOST_CHANNELS][LANES];
                const int64_t count = std::min<int64_t>(LANES, size.width - x);
                for (int64_t c = 0; c < channels; c++) {
                    Floats value = load(at(c, y) + x);
                    if (erased)
                        for (int64_t i = 0; i < count; i++)
                            if (erased[y * size.width + x + i]) value[i] = 0;
                    store(pixels[c], (value - scale.mean[c]) / scale.deviation[c]);
                }
                T *to = out + (y * size.width + x) * channels;
                for (int64_t i = 0; i < count; i++)
                    for (int64_t c = 0; c < channels; c++) to[i * channels + c] = pixels[c][i];
            }
    }
};

template <typename T>
void prepare(const uint8_t *images, const int64_t *indices, const Changes &changes,
             const Scale &scale, T *out, int64_t count, const Picture &size, int threads) {
    const int64_t pixels = size.height * size.width, values = pixels * size.channels;
#pragma omp parallel num_threads(threads)
    {
        Canvas canvas(size);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < count; n++) {
            const Changes own{
                changes.map ? changes.map + 9 * n : nullptr,
                changes.colours ? changes.colours + n * size.channels * (size.channels + 1)
                                : nullptr,
                changes.erased ? changes.erased + n * pixels : nullptr,
            };
            canvas.draw(images + (indices ? indices[n] : n) * values, own, scale,
                        out + n * values);
        }
    }
}

}  // namespace

// images: (any number, channels, height, width), of which count are taken, as indices say, or all
// in order; maps, colours, erased: of each that is taken, as in `Changes`, or null; mean,
// deviation, grey: (channels,); out: (count, height, width, channels).
extern "C" void prepare_images(const uint8_t *images, const int64_t *indices, const float *maps,
                               const float *colours, const uint8_t *erased, const float *mean,
                               const float *deviation, const float *grey, void *out, int64_t count,
                               int64_t channels, int64_t height, int64_t width, int is_bfloat16,
                               int threads) {
    const Picture size{channels, height, width};
    const Changes changes{maps, colours, erased};
    const Scale scale{mean, deviation, grey};
    if (is_bfloat16)
        prepare(images, indices, changes, scale, (BFloat16 *)out, count, size, threads);
    else
        prepare(images, indices, changes, scale, (float *)out, count, size, threads);
}
