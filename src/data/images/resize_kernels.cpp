// SPDX-License-Identifier: BSD-3-Clause
#include "data/images/resize_kernels.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lockstep::data {
namespace {

constexpr int kChannels = 4;
constexpr int kRowShift = ResizeAxis::kBits - ResizeKernels::kPoint;
constexpr std::int32_t kRowHalf = 1 << (kRowShift - 1);
constexpr int kShift = ResizeAxis::kBits + ResizeKernels::kPoint;
constexpr std::int32_t kHalf = 1 << (kShift - 1);

void resize_row_portable(const std::uint8_t* row, const ResizeAxis& axis, std::int16_t* target) {
  const int taps = axis.taps();
  for (std::int64_t x = 0; x < axis.size(); ++x, target += kChannels) {
    const auto* pixel = row + axis.first()[x] * kChannels;
    const auto* weights = axis.weights(x);
    std::int32_t sum[kChannels] = {kRowHalf, kRowHalf, kRowHalf, kRowHalf};
    for (int tap = 0; tap < taps; ++tap, pixel += kChannels) {
      for (int c = 0; c < kChannels; ++c) sum[c] += pixel[c] * weights[tap];
    }
    for (int c = 0; c < kChannels; ++c) target[c] = static_cast<std::int16_t>(sum[c] >> kRowShift);
  }
}

void combine_rows_portable(const std::int16_t* rows, std::int64_t stride,
                           const std::int16_t* weights, int taps, std::int64_t values,
                           std::uint8_t* target) {
  for (std::int64_t i = 0; i < values; ++i) {
    std::int32_t sum = kHalf;
    for (int tap = 0; tap < taps; ++tap) sum += rows[i + tap * stride] * weights[tap];
    target[i] = static_cast<std::uint8_t>(sum >> kShift);
  }
}

#if defined(__x86_64__)

#define LOCKSTEP_AVX2 __attribute__((target("avx2")))

// Four pixels at a time. They are put in the order that a multiplication of pairs wants: red of the
// first two pixels, green of them, and so on; the axis has its weights in the same order.
// `kQuads` is how often, or 0 where only the axis knows.
template <int kQuads>
LOCKSTEP_AVX2 void resize_row_by(const std::uint8_t* row, const ResizeAxis& axis,
                                 std::int16_t* target) {
  const __m128i pairs = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
  const __m128i half = _mm_set1_epi32(kRowHalf);
  const int quads = kQuads > 0 ? kQuads : axis.quads();
  const auto* weights = reinterpret_cast<const __m256i*>(axis.quad_weights());
  const auto* first = axis.first();
  const auto size = axis.size();
  for (std::int64_t x = 0; x < size; ++x, target += kChannels) {
    const auto* pixels = reinterpret_cast<const __m128i*>(row + first[x] * kChannels);
    __m256i sum = _mm256_setzero_si256();
    for (int quad = 0; quad < quads; ++quad, ++weights) {
      const __m128i four = _mm_shuffle_epi8(_mm_loadu_si128(pixels + quad), pairs);
      sum = _mm256_add_epi32(
          sum, _mm256_madd_epi16(_mm256_cvtepu8_epi16(four), _mm256_loadu_si256(weights)));
    }
    __m128i total = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    total = _mm_srai_epi32(_mm_add_epi32(total, half), kRowShift);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(target), _mm_packs_epi32(total, total));
  }
}

void resize_row_avx2(const std::uint8_t* row, const ResizeAxis& axis, std::int16_t* target) {
  switch (axis.quads()) {
    case 1:
      return resize_row_by<1>(row, axis, target);
    case 2:
      return resize_row_by<2>(row, axis, target);
    default:
      return resize_row_by<0>(row, axis, target);
  }
}

LOCKSTEP_AVX2 __m256i load(const std::int16_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

// Sixteen values at a time, two rows at a time.
LOCKSTEP_AVX2 void combine_rows_avx2(const std::int16_t* rows, std::int64_t stride,
                                     const std::int16_t* weights, int taps, std::int64_t values,
                                     std::uint8_t* target) {
  constexpr std::int64_t kStep = 16;
  std::int64_t i = 0;
  for (; i + kStep <= values; i += kStep) {
    __m256i low = _mm256_set1_epi32(kHalf);
    __m256i high = low;
    const std::int16_t* value = rows + i;
    for (int tap = 0; tap < taps; tap += 2, value += 2 * stride) {
      const bool has_second = tap + 1 < taps;
      const __m256i a = load(value);
      const __m256i b = has_second ? load(value + stride) : _mm256_setzero_si256();
      const auto second = static_cast<std::uint16_t>(has_second ? weights[tap + 1] : 0);
      const __m256i weight = _mm256_set1_epi32(static_cast<std::int32_t>(
          static_cast<std::uint32_t>(second) << 16 | static_cast<std::uint16_t>(weights[tap])));
      low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), weight));
      high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), weight));
    }
    const __m256i words =
        _mm256_packs_epi32(_mm256_srai_epi32(low, kShift), _mm256_srai_epi32(high, kShift));
    const __m128i bytes =
        _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), bytes);
  }
  combine_rows_portable(rows + i, stride, weights, taps, values - i, target + i);
}

#endif

}  // namespace

const ResizeKernels& portable_resize_kernels() {
  static constexpr ResizeKernels kKernels{resize_row_portable, combine_rows_portable};
  return kKernels;
}

const ResizeKernels& resize_kernels() {
#if defined(__x86_64__)
  static constexpr ResizeKernels kAvx2{resize_row_avx2, combine_rows_avx2};
  if (__builtin_cpu_supports("avx2")) return kAvx2;
#endif
  return portable_resize_kernels();
}

}  // namespace lockstep::data
