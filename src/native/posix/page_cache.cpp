// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/page_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

#include "native/posix/file_descriptor.h"

namespace lockstep::native {

std::optional<bool> is_cached(int file, std::uint64_t begin, std::uint64_t end) {
  for (const auto at : {begin, begin + (end - begin) / 2, end - 1}) {
    std::byte byte{};
    iovec part{&byte, 1};
    if (::preadv2(file, &part, 1, static_cast<off_t>(at), RWF_NOWAIT) >= 0) continue;
    if (errno == EAGAIN) return false;
    return std::nullopt;
  }
  return true;
}

std::optional<bool> is_cached(const std::string& path, std::uint64_t offset, std::uint64_t bytes) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat info {};
  if (!file.is_open() || ::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) return false;
  const auto size = static_cast<std::uint64_t>(info.st_size);
  const auto begin = std::min(offset, size);
  const auto end = begin + std::min(bytes, size - begin);
  return begin == end ? std::optional(true) : is_cached(file.get(), begin, end);
}

}  // namespace lockstep::native
