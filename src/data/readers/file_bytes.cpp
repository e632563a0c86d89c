// SPDX-License-Identifier: BSD-3-Clause
#include "data/readers/file_bytes.h"

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "native/posix/file_descriptor.h"
#include "native/posix/posix_check.h"

namespace lockstep::data {

FileBytes::FileBytes(const std::string& path, std::int64_t max_bytes) {
  // Without O_NONBLOCK, opening a pipe that nobody writes to would wait.
  const native::FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  TORCH_CHECK(file.is_open(), path, ": cannot be opened: ", native::error_text(errno));
  struct stat info {};
  const bool is_known = ::fstat(file.get(), &info) == 0;
  TORCH_CHECK(is_known && S_ISREG(info.st_mode), path, ": is not an ordinary file");
  TORCH_CHECK(info.st_size <= max_bytes, path, ": has ", info.st_size, " bytes, more than the ",
              max_bytes, " that max_file_bytes allows");
  const auto expected = static_cast<std::size_t>(info.st_size);
  bytes_.reset(new std::byte[expected + 1]);  // one more would show that the file grows
  while (size_ <= expected) {
    const auto got = ::read(file.get(), bytes_.get() + size_, expected + 1 - size_);
    if (got < 0 && errno == EINTR) continue;
    TORCH_CHECK(got >= 0, path, ": cannot be read: ", native::error_text(errno));
    if (got == 0) break;
    size_ += static_cast<std::size_t>(got);
  }
  TORCH_CHECK(size_ == expected, path, ": changed its size while it was read");
}

}  // namespace lockstep::data
