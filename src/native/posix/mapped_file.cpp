// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "native/posix/file_descriptor.h"
#include "native/posix/posix_check.h"

namespace lockstep::native {

MappedFile::MappedFile(const std::string& path) {
  // Nonblocking: opening a pipe that nobody writes to would wait.
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.is_open()) throw_errno(path + ": cannot be opened");
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) throw_errno(path + ": cannot be examined");
  if (!S_ISREG(info.st_mode)) throw_errno(path + ": is not an ordinary file", EINVAL);
  size_ = static_cast<std::size_t>(info.st_size);
  modified_ns_ = std::int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.get(), 0);
  if (address == MAP_FAILED) throw_errno(path + ": cannot be mapped");
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace lockstep::native
