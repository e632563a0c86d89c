// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "native/posix/file_descriptor.h"
#include "native/posix/mapped_file.h"
#include "native/posix/page_cache.h"
#include "native/posix/page_size.h"

/// What tests do with the page cache. They ask `mincore`: where `preadv2` with RWF_NOWAIT is asked,
/// as by `native::is_cached`, the kernel may begin to read what it is asked about.
namespace lockstep::testing {

/// By page of a file that is not empty: whether it is in the page cache.
inline std::vector<bool> pages_in_cache(const std::string& path) {
  const native::MappedFile file(path);
  const auto bytes = file.bytes();
  std::vector<unsigned char> pages(native::round_up_to_page(bytes.size()) /
                                   native::round_up_to_page(1));
  if (::mincore(const_cast<std::byte*>(bytes.data()), bytes.size(), pages.data()) != 0) return {};
  std::vector<bool> are_there;
  for (const auto page : pages) are_there.push_back((page & 1U) != 0);
  return are_there;
}

/// Whether the page with this byte of the file is there.
inline bool is_in_page_cache(const std::string& path, std::uint64_t at = 0) {
  return pages_in_cache(path).at(at / native::round_up_to_page(1));
}

/// Whether nothing of the file is left; not where the file system keeps all in memory. Tried again
/// for seconds, since the kernel keeps pages that it reads or has just dealt with.
[[nodiscard]] inline bool drop_from_page_cache(const std::string& path) {
  const native::FileDescriptor file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  ::fsync(file.get());
  constexpr int kAttempts = 300;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
    const auto pages = pages_in_cache(path);
    if (std::find(pages.begin(), pages.end(), true) == pages.end()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

/// Whether the library can find out what of the folder's files is in the page cache. `path` is a
/// file that the test does not need otherwise.
[[nodiscard]] inline bool tells_what_is_cached(const std::string& path) {
  return native::is_cached(path, 0, 1).has_value();
}

/// Whether `is_so()` is true at last. To find out whether a cold file is in the cache, the library
/// asks the kernel, which may begin to read it, and on a busy machine has read it before it
/// answers.
template <class Condition>
[[nodiscard]] bool in_one_of_many_attempts(const Condition& is_so) {
  constexpr int kAttempts = 50;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (is_so()) return true;
  }
  return false;
}

}  // namespace lockstep::testing
