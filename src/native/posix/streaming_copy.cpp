// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/streaming_copy.h"

#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>

#include <cstdint>
#endif

namespace lockstep::native {
#ifdef __SSE2__
namespace {

constexpr std::size_t kFew = std::size_t{64} << 10;
constexpr std::size_t kLine = 64;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kPages = 4;

/// `target` begins a cache line, so that it leaves the processor as a whole.
void stream_line(std::byte* target, const std::byte* source) {
  auto* to = reinterpret_cast<__m128i*>(target);
  const auto* from = reinterpret_cast<const __m128i*>(source);
  const __m128i first = _mm_loadu_si128(from);
  const __m128i second = _mm_loadu_si128(from + 1);
  const __m128i third = _mm_loadu_si128(from + 2);
  const __m128i fourth = _mm_loadu_si128(from + 3);
  _mm_stream_si128(to, first);
  _mm_stream_si128(to + 1, second);
  _mm_stream_si128(to + 2, third);
  _mm_stream_si128(to + 3, fourth);
}

/// Copies a line of each page in turn, since memory answers several pages at once.
void stream_pages(std::byte* target, const std::byte* source) {
  for (std::size_t line = 0; line < kPage; line += kLine) {
    for (std::size_t page = 0; page < kPages; ++page) {
      stream_line(target + page * kPage + line, source + page * kPage + line);
    }
  }
}

}  // namespace

void streaming_copy(void* target, const void* source, std::size_t bytes) noexcept {
  if (bytes == 0) return;  // with addresses that may be null
  auto* to = static_cast<std::byte*>(target);
  const auto* from = static_cast<const std::byte*>(source);
  if (bytes >= kFew) {
    const std::size_t past_line = reinterpret_cast<std::uintptr_t>(to) % kLine;
    const std::size_t front = (kLine - past_line) % kLine;
    std::memcpy(to, from, front);
    std::size_t done = front;
    for (; bytes - done >= kPages * kPage; done += kPages * kPage) {
      stream_pages(to + done, from + done);
    }
    _mm_sfence();  // other threads see it in the order of what follows
    to += done;
    from += done;
    bytes -= done;
  }
  std::memcpy(to, from, bytes);
}

#else

void streaming_copy(void* target, const void* source, std::size_t bytes) noexcept {
  if (bytes == 0) return;
  std::memcpy(target, source, bytes);
}

#endif
}  // namespace lockstep::native
