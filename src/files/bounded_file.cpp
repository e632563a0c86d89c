// SPDX-License-Identifier: BSD-3-Clause
#include "files/bounded_file.h"

#include <c10/util/Exception.h>
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "native/posix/posix_check.h"

namespace lockstep::files {

BoundedFile::BoundedFile(std::string path, native::FileSystem& files)
    : files_(files), path_(std::move(path)) {
  // Nonblocking: opening a pipe that nobody writes to would wait.
  file_ = native::FileDescriptor(files_.open(path_, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0));
  TORCH_CHECK(file_.is_open(), path_, ": cannot be opened: ", native::error_text(errno));
  struct stat info {};
  TORCH_CHECK(files_.examine(file_.get(), info) == 0, path_,
              ": cannot be examined: ", native::error_text(errno));
  TORCH_CHECK(S_ISREG(info.st_mode), path_, ": is not an ordinary file");
  size_ = static_cast<std::uint64_t>(info.st_size);
}

void BoundedFile::read(std::uint64_t offset, std::span<std::byte> target,
                       std::string_view what) const {
  const auto short_at = [&](std::uint64_t end) {
    fail(end,
         std::string(what) + " (" + std::to_string(target.size()) + " bytes from offset " +
             std::to_string(offset) + ")",
         "the end of the file");
  };
  if (target.size() > size_ || offset > size_ - target.size()) short_at(size_);
  std::size_t done = 0;
  while (done < target.size()) {
    const auto got = files_.read(file_.get(), target.subspan(done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    TORCH_CHECK(got >= 0, path_, ": at byte ", offset + done, ": ", what,
                " cannot be read: ", native::error_text(errno));
    if (got == 0) short_at(offset + done);  // it has been made shorter
    done += static_cast<std::size_t>(got);
  }
}

void BoundedFile::prefetch(std::uint64_t offset, std::uint64_t count) const {
  if (offset < size_) files_.start_reading(file_.get(), offset, std::min(count, size_ - offset));
}

std::string BoundedFile::text(std::uint64_t offset, std::uint64_t count,
                              std::string_view what) const {
  std::string text(static_cast<std::size_t>(count), '\0');
  read(offset, std::as_writable_bytes(std::span(text)), what);
  return text;
}

void BoundedFile::fail(std::uint64_t offset, std::string_view expected,
                       std::string_view found) const {
  TORCH_CHECK(false, path_, ": at byte ", offset, ": expected ", expected, ", found ", found);
  __builtin_unreachable();
}

}  // namespace lockstep::files
